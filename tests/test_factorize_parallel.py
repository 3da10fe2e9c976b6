# SPDX-License-Identifier: Apache-2.0
"""Factors under DistributedDataParallel: two gloo processes train as one."""

import socket
from pathlib import Path

import torch
from torch import nn
from torch.testing import assert_close

import symfast as sf


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _train_rank(rank: int, port: int, folder: str) -> None:
    """One of two processes: the same model, half of the batch each."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    sf.factorize(model, "0.weight", depth=3)
    sf.dcs(model, "2.weight", sf.SignFlip([0]))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(sf.factor_groups(model, lam=0.01), lr=0.1)
    x, y = torch.randn(8, 4), torch.randn(8, 2)
    for _ in range(5):
        optimizer.zero_grad()
        (parallel(x[rank::2]) - y[rank::2]).square().mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_rank, args=(_free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    sf.factorize(model, "0.weight", depth=3)
    sf.dcs(model, "2.weight", sf.SignFlip([0]))
    optimizer = torch.optim.SGD(sf.factor_groups(model, lam=0.01), lr=0.1)
    x, y = torch.randn(8, 4), torch.randn(8, 2)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        assert torch.equal(first[key], second[key])
        assert_close(first[key], value, rtol=1e-4, atol=1e-6)
