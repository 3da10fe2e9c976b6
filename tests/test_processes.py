# SPDX-License-Identifier: Apache-2.0
"""Operators in the processes that users make: DataLoader workers, spawned and forked children."""

import multiprocessing
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import symfast as sf

FRAME = torch.eye(6)[:, :2]


class Projected(Dataset[torch.Tensor]):
    """Rows whose first two numbers a worker projects away, by the function and by a plan."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        row = torch.full((6,), float(index + 1))
        sf.Plan([(row[2:], sf.SignFlip([3]))]).project_()
        return sf.project(row, FRAME)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers(method: str) -> None:
    sf.project(torch.randn(1 << 18, 6), FRAME)  # the parent's threads are awake
    loader = DataLoader(Projected(), batch_size=4, num_workers=2, multiprocessing_context=method)
    rows = torch.cat(list(loader))
    wanted = torch.arange(1.0, 9.0)[:, None] * torch.tensor([0.0, 0, 1, 1, 1, 0])
    assert torch.equal(rows, wanted)


def train(send: Any, plan_bytes: bytes, threads: int) -> None:
    """Unpickle a plan, step an optimizer, sweep: everything that has a kernel of its own."""
    torch.set_num_threads(threads)
    plan = pickle.loads(plan_bytes)
    plan.project_()
    w = torch.nn.Parameter(torch.ones(64, 32))
    w.grad = torch.ones_like(w)
    units = sf.Units([(w, 0)])
    pair = sf.Plan([(units, sf.Swap([0], [1]))])
    sf.optim.AdamW([w], lr=0.1, weight_decay=0.0, plan=pair).step()
    X = torch.ones(16, 2, dtype=torch.float64)
    result = sf.sweep(sf.problems.TwoLayer(X, X[:, :1], hidden=2), lr=[0.1, 0.2], steps=10)
    send.send((float(plan.norms().max()), float(w[0, 0].detach()), len(result.table)))


# GNU OpenMP hangs in a forked child that asks for threads the parent had: torch's own operators do
@pytest.mark.parametrize(("method", "threads"), [("fork", 1), ("spawn", 2)])
def test_children_train(method: str, threads: int) -> None:
    w = torch.randn(300, 40)
    plan = sf.Plan([(w, sf.Swap(range(150), range(150, 300)))])
    plan.reflect_()
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=train, args=(send, pickle.dumps(plan), threads))
    child.start()
    send.close()
    try:
        assert receive.poll(120), "the child hangs"
        distance, weight, rows = receive.recv()
    finally:
        child.kill()
        child.join()
    assert distance == 0.0
    assert weight == pytest.approx(0.9, abs=1e-6)
    assert rows == 2
    assert plan.norms().max() > 0  # the child had a copy of its own
