# SPDX-License-Identifier: Apache-2.0
"""Mirrors and directions as constraints of modules: same function, folds, one graph, any depth."""

import copy

import pytest
import torch
from compiled_models import assert_compiles
from torch import nn
from torch.testing import assert_close

import symfast as sf
from symfast.artificial import attached
from symfast.symmetry import Symmetry


def frame(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64)).Q


def symmetry(kind: str) -> tuple[Symmetry, int | None]:
    """For a weight (6, 4), and the dim to give with it."""
    return {
        "rows": lambda: (sf.Mirror(frame(4, 2)), None),
        "batch": lambda: (sf.Mirror(torch.stack([frame(4, 2) for _ in range(6)])), None),
        "whole": lambda: (sf.Mirror(frame(24, 3)), None),
        "units": lambda: (sf.Mirror(frame(6, 2)), 0),
        "inputs": lambda: (sf.Mirror(frame(4, 2)), 1),
        "direction": lambda: (sf.Direction(frame(6, 2)), None),
        "direction of inputs": lambda: (sf.Direction(frame(4, 1)), 1),
    }[kind]()


def coefficients(kind: str, weight: torch.Tensor) -> torch.Tensor:
    """O^T theta by the definition."""
    torch.manual_seed(5)
    made, dim = symmetry(kind)
    O = made.matrix.to(weight.dtype)  # type: ignore[attr-defined]
    if kind in ("rows", "batch"):
        return torch.einsum("rd,rdk->rk", weight, O.expand(6, 4, 2))
    if kind == "whole":
        return weight.flatten() @ O
    return O.T @ weight.movedim(dim or 0, 0)


KINDS = ["rows", "batch", "whole", "units", "inputs", "direction", "direction of inputs"]


def constrained(kind: str, mode: str, depth: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A module under the constraint, and the plain one it was."""
    plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    model = copy.deepcopy(plain)
    torch.manual_seed(5)
    made, dim = symmetry(kind)
    sf.dcs(model, "0.weight", made, mode=mode, depth=depth, dim=dim)  # type: ignore[arg-type]
    return model, plain


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("mode", ["l1", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_switching_on_and_folding_keep_the_function(kind: str, mode: str, depth: int) -> None:
    model, plain = constrained(kind, mode, depth)
    x = torch.randn(5, 4)
    assert len(next(attached(model)).tensors) == 1 + depth
    assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)
    model(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    sf.fold(model, tol=0.0)
    assert type(model[0]) is nn.Linear
    assert list(model.state_dict()) == list(plain.state_dict())
    for key, value in model.state_dict().items():
        assert_close(value, plain.state_dict()[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("mode", ["l1", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_factors_that_vanished_fold_into_the_plane(kind: str, mode: str, depth: int) -> None:
    """O^T theta is zero, and theta moved by nothing but O O^T theta."""
    model, plain = constrained(kind, mode, depth)
    with torch.no_grad():
        next(attached(model)).factors[0].mul_(1e-9)
    before, after = plain[0].weight.detach(), sf.fold(model)[0].weight.detach()  # type: ignore[index]
    c = coefficients(kind, before)
    assert float(c.norm()) > 0.1
    assert_close(coefficients(kind, after), torch.zeros_like(c), rtol=0, atol=1e-6)
    # orthogonal: the squares of the weight lose those of the coefficients
    assert_close(after.square().sum(), before.square().sum() - c.square().sum())


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("mode", ["l1", "group"])
@pytest.mark.parametrize("kind", ["rows", "whole", "units", "direction of inputs"])
def test_compiles_in_one_graph(kind: str, mode: str, depth: int) -> None:
    model, _ = constrained(kind, mode, depth)
    x = torch.randn(5, 4)
    assert_compiles(model, x)
