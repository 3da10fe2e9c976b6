# SPDX-License-Identifier: Apache-2.0
"""Tests in two gloo processes: each joins the other, and leaves what it found in a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


@contextmanager
def joined(rank: int, folder: str, found: dict[str, Any]) -> Iterator[Any]:
    """The mesh of both, in one thread each; ``found`` is kept when all is done."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    yield dist.init_device_mesh("cpu", (2,))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def run_both(run_rank: Callable[[int, str], None], folder: Path) -> list[dict[str, Any]]:
    """What each found."""
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
