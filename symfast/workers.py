# SPDX-License-Identifier: Apache-2.0
"""Independent jobs on all cores, each with one thread of its own for its products."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

T = TypeVar("T")


def run_each(jobs: Sequence[Callable[[], T]]) -> Iterator[tuple[int, T]]:
    """Run every job, as many at a time as torch has threads; yield (number, result) as they end.

    Jobs start in order. Each sees ``torch.get_num_threads() == 1``, so its result does not depend
    on how many run. The first error of a job is raised, and no further job starts.

    Example:
        >>> import torch
        >>> from symfast.workers import run_each
        >>> sorted(run_each([lambda: "a", lambda: "b"]))
        [(0, 'a'), (1, 'b')]
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(jobs) < 2:
        yield from _alone(jobs, threads)
        return
    pool = ThreadPoolExecutor(
        min(threads, len(jobs)), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        futures = {pool.submit(job): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads made later take the number that was set last


def _alone(jobs: Sequence[Callable[[], T]], threads: int) -> Iterator[tuple[int, T]]:
    for number, job in enumerate(jobs):
        torch.set_num_threads(1)
        try:
            result = job()
        finally:
            torch.set_num_threads(threads)
        yield number, result
