# SPDX-License-Identifier: Apache-2.0
"""FSDP2: two gloo processes that hold half of every parameter step as one process does."""

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
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def columns(model: nn.Sequential) -> sf.Plan:
    """Inputs in pairs, first and last: dim 1, which fully_shard leaves whole."""
    first, last = model[0].weight, model[2].weight
    return sf.Plan([
        (sf.Units([(first, 1)]), sf.Swap([0, 1], [2, 3])),
        (sf.Units([(last, 1)]), sf.SignFlip([5])),
    ])  # fmt: skip


def train(model: nn.Sequential, plan: sf.Plan, rule: str, constraint: str) -> None:
    options = {"constraint": constraint, "strength": 0.0 if constraint == "project" else 0.5}
    optimizer = getattr(sf.optim, rule)(model.parameters(), lr=0.05, plan=plan, **options)
    x, y = torch.randn(16, 6), torch.randn(16, 4)
    for _ in range(4):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def run_rank(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    found: dict[str, torch.Tensor] = {}
    with joined(rank, folder, found) as mesh:
        for rule, constraint in (("SGD", "project"), ("AdamW", "prox")):
            model = make_model()
            fully_shard(model, mesh=mesh)
            train(model, columns(model), rule, constraint)
            for name, p in model.named_parameters():
                found[f"{rule} {name}"] = p.full_tensor().detach()
        rows = sf.Plan([(sf.Units([(model[0].weight, 0)]), sf.Swap([0], [1]))])
        by_norm = {"plan": columns(model), "constraint": "prox", "strength": 1.0, "mode": "group"}
        whole = make_model()
        stale = columns(whole)
        fully_shard(whole, mesh=mesh)
        for options, step in (({"plan": rows}, False), (by_norm, True), ({"plan": stale}, False)):
            try:
                optimizer = sf.optim.SGD(
                    (whole if options["plan"] is stale else model).parameters(), lr=0.05, **options
                )
                optimizer.step() if step else None
            except ValueError as error:
                found["word " + str(error)] = torch.zeros(())


def test_two_processes_step_as_one(tmp_path: Path) -> None:
    first, second = run_both(run_rank, tmp_path)
    for rule, constraint in (("SGD", "project"), ("AdamW", "prox")):
        model = make_model()
        train(model, columns(model), rule, constraint)
        for name, p in model.named_parameters():
            assert torch.equal(first[f"{rule} {name}"], second[f"{rule} {name}"])
            torch.testing.assert_close(first[f"{rule} {name}"], p.detach(), rtol=1e-5, atol=1e-6)
    weight = first["SGD 0.weight"]
    assert torch.equal(weight[:, :2], weight[:, 2:4])
    assert (first["SGD 2.weight"][:, 5] == 0).all()
    words = " ".join(key for key in first if key.startswith("word"))
    assert "its units are on different processes" in words
    assert "norms of whole mirrors" in words
    assert "no group of the optimizer has" in words
