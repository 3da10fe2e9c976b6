# SPDX-License-Identifier: Apache-2.0
"""Decay toward an anchor under FSDP2: two gloo processes step as one does with whole parameters."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import symfast as sf

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed")


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    # 7 rows: shards of 4 and 3; 1 row: a process that holds nothing of it
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 1))


def train(model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    sf.remove_symmetry(optimizer, 0.7, seed=3)
    x, y = torch.randn(16, 6), torch.randn(16, 1)
    for _ in range(4):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def run_rank(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = make_model()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
    train(model)
    found = {name: p.full_tensor().detach() for name, p in model.named_parameters()}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_decay_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = make_model()
    train(model)
    for name, p in model.named_parameters():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], p.detach(), rtol=1e-5, atol=1e-6)
