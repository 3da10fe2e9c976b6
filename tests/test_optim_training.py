# SPDX-License-Identifier: Apache-2.0
"""Optimizers in a training loop: distributed checkpoints, and loops that torch.compile compiled."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import symfast as sf

PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "project": {"constraint": "project"},
    "prox": {"constraint": "prox", "strength": 0.05},
    "prox by norm": {"constraint": "prox", "strength": 0.05, "mode": "group"},
}


def made(rule: str, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    """A model with an optimizer that uses a plan, noise and an anchor."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    units = sf.Units([(model[0].weight, 0), (model[0].bias, 0), (model[2].weight, 1)])
    plan = sf.Plan([(units, sf.Swap(range(0, 8, 2), range(1, 8, 2)))]) if options else None
    extra = {"momentum": 0.9} if rule == "SGD" else {}
    return model, getattr(sf.optim, rule)(
        model.parameters(), lr=0.05, weight_decay=0.1, noise=0.1, seed=2**63 + 7, plan=plan,
        anchor=sf.Anchor(0.2, seed=11, spread=0.3), **extra, **options,
    )  # fmt: skip


def made_of_factors(lam: float) -> tuple[nn.Module, Any]:
    """A model whose weights are products of two and three factors, which the optimizer holds."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    biases = [{"params": [layer.bias], "depth": 1} for layer in (model[0], model[2])]
    groups = [{"params": [model[0].weight], "depth": 2}, {"params": [model[2].weight], "depth": 3}]
    return model, sf.FactorSGD([*groups, *biases], lr=0.05, lam=lam, momentum=0.9)


def step_of(model: nn.Module, optimizer: Any) -> Any:
    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(number)
    return torch.randn(16, 6, generator=make), torch.randn(16, 3, generator=make)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("options", list(PLANS))
def test_distributed_checkpoint(rule: str, options: str, tmp_path: Path) -> None:
    """torch.distributed.checkpoint: what continues is what would have gone on, to the bit."""
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    by_name = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    model, optimizer = made(rule, PLANS[options])
    step = step_of(model, optimizer)
    for i in range(3):
        step(*batch(i))
    weights, state = by_name.get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path, no_dist=True)
    other, again = made(rule, PLANS[options])
    with torch.no_grad():
        for p in other.parameters():
            p.fill_(7.0)
    weights, state = by_name.get_state_dict(other, again)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path, no_dist=True)
    by_name.set_state_dict(other, again, model_state_dict=weights, optim_state_dict=state)
    for i in range(3, 6):
        step(*batch(i))
        step_of(other, again)(*batch(i))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def made_ways(make: Any) -> list[tuple[list[float], list[torch.Tensor]]]:
    """Losses and parameters of a training: eager, the model compiled, the whole step compiled."""
    runs = []
    for way in ("eager", "model", "whole"):
        torch.compiler.reset()
        model, optimizer = make()
        called = torch.compile(model, backend="aot_eager") if way == "model" else model
        step = step_of(called, optimizer)
        if way == "whole":
            step = torch.compile(step, backend="aot_eager")
        losses = [float(step(*batch(i))) for i in range(4)]
        runs.append((losses, [p.detach().clone() for p in model.parameters()]))
    return runs


MAKERS = {
    "SGD": lambda: made("SGD", PLANS["plain"]),
    "SGD, prox": lambda: made("SGD", PLANS["prox"]),
    **{f"AdamW, {name}": partial(made, "AdamW", options) for name, options in PLANS.items()},
    "factors": lambda: made_of_factors(0.05),
}


# dynamo looks at the gradient of what is no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kind", list(MAKERS))
def test_compiled_training_equals_eager(kind: str) -> None:
    """Forward and backward compiled, the step from the loop; then the whole loop in one call."""
    eager, *others = made_ways(MAKERS[kind])
    for losses, params in others:
        assert losses == pytest.approx(eager[0], rel=1e-6)
        for a, b in zip(params, eager[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
