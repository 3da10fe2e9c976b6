# SPDX-License-Identifier: Apache-2.0
"""Decay toward an anchor under FSDP2: two gloo processes step as one does with whole parameters."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from two_processes import joined, run_both

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

    found: dict[str, torch.Tensor] = {}
    with joined(rank, folder, found) as mesh:
        model = make_model()
        fully_shard(model, mesh=mesh)
        train(model)
        found |= {name: p.full_tensor().detach() for name, p in model.named_parameters()}


def test_two_processes_decay_as_one(tmp_path: Path) -> None:
    first, second = run_both(run_rank, tmp_path)
    model = make_model()
    train(model)
    for name, p in model.named_parameters():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], p.detach(), rtol=1e-5, atol=1e-6)
