# SPDX-License-Identifier: Apache-2.0
"""More than one machine: chunks as Ray tasks, or a share of them for each torchrun process."""

import os
from typing import TYPE_CHECKING, Any

from symfast.extras import need
from symfast.sweep.train import Part, Trainer

if TYPE_CHECKING:
    from symfast.sweep.store import Store

#: How often Ray reruns a chunk whose worker died.
RETRIES = 20


def shard_of_environment() -> tuple[int, int] | None:
    """Return (RANK, WORLD_SIZE) as torchrun sets them, or None if it did not.

    Raises:
        ValueError: if they are not numbers that fit together.

    Example:
        >>> from symfast.sweep.cluster import shard_of_environment
        >>> shard_of_environment() is None
        True
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return None
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise ValueError(f"RANK={rank} and WORLD_SIZE={world} are not a rank and a world size")
    return int(rank), int(world)


def compute_on_ray(train: Trainer, store: "Store") -> None:
    """Compute the missing chunks on a Ray cluster; this process writes them as they arrive.

    The workers need no common file system. A chunk whose worker dies is computed again elsewhere.
    Connects to the cluster that RAY_ADDRESS or ``ray.init`` names, or starts a local one.

    On Ctrl-C the chunks that are being computed are cancelled; those that arrived stay.

    Raises:
        ModuleNotFoundError: without Ray.
        RuntimeError: if Ray gives a chunk up: its worker died too often, or the cluster left.
    """
    need("a sweep on a cluster", "ray", "ray")
    import ray
    from ray.exceptions import RayError, RayTaskError

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    chunks = train.grid.chunks(store.chunk)
    for number in set(range(store.parts)) - set(store.missing()):
        train.skip(chunks[number])
    shared = ray.put(train.without_progress())
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_part)
    cores: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
    most = max(2, 2 * int(cores.get("CPU", 1)))  # bounds what waits in this process
    waiting = store.missing()
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                number = waiting.pop(0)
                running[task.remote(shared, chunks[number])] = number
            done, _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done[0])
            part, seconds = ray.get(done[0])
            store.write(number, part)
            train.seconds += seconds
            train.skip(chunks[number])
    except RayTaskError:  # what the problem itself raised
        raise
    except RayError as error:
        raise RuntimeError(
            f"Ray gave up a chunk after {RETRIES} retries, or left; what arrived is stored, and a "
            f"rerun computes the rest: {error}"
        ) from error
    finally:
        for unfinished in running:
            ray.cancel(unfinished)


def _part(train: Trainer, rows: range) -> tuple[Part, float]:
    """One chunk and the seconds in the kernel, on a worker with one core."""
    import torch

    torch.set_num_threads(1)
    before = train.seconds
    return train.part(rows), train.seconds - before
