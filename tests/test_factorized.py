# SPDX-License-Identifier: Apache-2.0
"""Kinds of factorised regressions in sweeps: gates by row, column and label, starts, schedules."""

from typing import Any

import pytest
import torch
from torch import Tensor

from symfast import ops
from symfast.problems import Factorized
from symfast.sweep import sweep
from symfast.verify.pilot import regressions

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels: minutes")
f64 = torch.float64


def regression(outputs: int) -> tuple[Tensor, Tensor]:
    X = torch.randn(200, 12, dtype=f64)
    W = torch.zeros(12, outputs, dtype=f64)
    W[:4] = torch.randn(4, outputs, dtype=f64)
    return X, X @ W + 0.3 * torch.randn(200, outputs, dtype=f64)


@needs_kernels
@pytest.mark.parametrize("per", ["row", "column", "labels"])
def test_gates_end_at_the_group_lasso(per: str) -> None:
    """Optimality conditions of ``1/(2n) ||XW - Y||^2 + lam sum_g ||W_g||``, group by group."""
    X, Y = regression(3)
    labels = [0, 1, 0, 1, 2, 2, 3, 3, 3, 4, 4, 5]
    problem = Factorized(X, Y, per=labels if per == "labels" else per, init="pilot")  # type: ignore[arg-type]
    lam = [share * problem.threshold() for share in (0.05, 0.3, 0.7, 1.01)]
    result = sweep(problem, weight_decay=lam, lr=0.1, steps=30_000)
    group = {
        "row": torch.arange(12)[:, None].expand(12, 3),
        "column": torch.arange(3).expand(12, 3),
        "labels": torch.tensor(labels)[:, None].expand(12, 3),
    }[per]
    active = []
    for w, penalty in zip(result.weights, lam, strict=True):
        W = torch.tensor(w).reshape(12, 3)
        G = X.T @ (X @ W - Y) / 200
        count = 0
        for number in group.unique():
            mine = group == number
            size = W[mine].norm()
            if size > 1e-6:
                torch.testing.assert_close(G[mine], -penalty * W[mine] / size, atol=1e-6, rtol=0)
            else:
                assert G[mine].norm() < penalty * (1 + 1e-6)
            count += bool(size > 1e-6)
        active.append(count)
    assert active[0] > active[2] > active[3] == 0
    shares = 1 - torch.tensor(active) / len(group.unique())
    assert result.table.group_sparsity.tolist() == pytest.approx(shares.tolist())


@needs_kernels
@pytest.mark.parametrize("depth", [3, 4])
def test_deep_gates_are_stationary(depth: int) -> None:
    """On active groups ``G + lam (2/D) ||W_g||^(2/D - 2) W_g = 0`` (Kolb et al. 2025)."""
    X, Y = regression(3)
    problem = Factorized(X, Y, depth=depth, per="row", init="pilot")
    lam = 0.1 * problem.threshold()
    result = sweep(problem, weight_decay=lam, lr=0.05, steps=30_000)
    W = torch.tensor(result.weights[0]).reshape(12, 3)
    G, size = X.T @ (X @ W - Y) / 200, W.norm(dim=1, keepdim=True)
    active = size[:, 0] > 1e-4
    assert 4 <= int(active.sum()) < 12
    pull = lam * 2 / depth * size ** (2 / depth - 2) * W
    torch.testing.assert_close((G + pull)[active], torch.zeros_like(W[active]), atol=1e-8, rtol=0)


@needs_kernels
@pytest.mark.parametrize("per", ["element", "row", "column"])
def test_no_penalty_is_least_squares(per: Any) -> None:
    """Matrix targets come back row-major whatever the groups."""
    X, Y = regression(2)
    result = sweep(Factorized(X, Y, per=per), lr=0.05, steps=5000, seeds=2)
    want = torch.linalg.lstsq(X, Y).solution.flatten()
    torch.testing.assert_close(torch.tensor(result.weights), want.expand(2, -1), atol=1e-8, rtol=0)


@needs_kernels
def test_pilot_recovers_what_balanced_factors_cannot() -> None:
    """Truth case 11 inside the sweep: a fading penalty and unbalanced factors, d = 100, n = 40."""
    steps = 40_000
    X, y, truth, _ = regressions(2)
    grid: dict[str, Any] = {"lr": 0.02, "momentum": 0.0, "steps": steps, "epoch": 1}
    grid |= {"ratio": 1e-4 ** (1 / steps)}
    for data, target, want in zip(X, y, truth, strict=True):
        kinds = ["geometric", "constant"]
        pilot = Factorized(data, target, init="pilot")
        found = sweep(pilot, penalty_schedule=kinds, weight_decay=[1.0, 0.02], **grid)
        errors = (torch.tensor(found.weights) - want).norm(dim=1)
        rows = dict(zip(zip(found.table.penalty_schedule, found.table.weight_decay, strict=True),
                        errors.tolist(), strict=True))  # fmt: skip
        assert rows["geometric", 1.0] < 5e-3
        assert 0.03 < rows["constant", 0.02] < 0.2
        balanced = Factorized(data, target, init="pilot", beta=0.0)
        start = balanced.draw([2] * 6, range(6)).prod(1)
        frozen = torch.tensor(sweep(balanced, weight_decay=0.02, seeds=6, **grid).weights)
        assert bool((frozen * start >= 0).all())
        wrong = (want * start < 0).any(1)
        assert bool(wrong.any())
        assert float((frozen - want).norm(dim=1)[wrong].min()) > 0.5


@needs_kernels
def test_schedule_in_pieces_equals_the_whole() -> None:
    X, Y = regression(1)
    grid: dict[str, Any] = {"weight_decay": [0.1, 0.3], "steps": 250, "epoch": 30}
    grid |= {"penalty_schedule": ["harmonic", "quadratic"]}
    whole = sweep(Factorized(X, Y[:, 0]), **grid)
    pieces = sweep(Factorized(X, Y[:, 0]), every=70, **grid)
    assert (whole.weights == pieces.weights).all()
    plain = sweep(Factorized(X, Y[:, 0]), **(grid | {"penalty_schedule": "constant"}))
    assert not (plain.weights == whole.weights[:2]).all()


def test_dwf_starts_are_truncated() -> None:
    problem = Factorized(torch.eye(400, dtype=f64), torch.ones(400), depth=(2, 3), init="dwf")
    for depth in (2, 3):
        w = problem.draw([depth], [0])[0, :depth].prod(0).abs()
        assert 0.01 * 0.1 < float(w.min()) < float(w.max()) < 2 * 0.1


def test_measuring_between_checks_is_refused() -> None:
    problem = Factorized(torch.eye(3), torch.ones(3))
    with pytest.raises(ValueError, match="multiple of check_every = 100"):
        sweep(problem, tol=1e-9, every=150, steps=300)
    fine = sweep(problem, tol=1e-9, every=200, steps=2000, lr=0.5)
    whole = sweep(problem, tol=1e-9, steps=2000, lr=0.5)
    assert fine.table.steps.tolist() == whole.table.steps.tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"per": "filter"}, "per must be"),
        ({"per": [0, 1]}, "3 whole numbers"),
        ({"per": "row", "init": "dwf"}, "goes with per"),
        ({"per": "row", "frame": torch.eye(3)[:, :1]}, "a frame goes with"),
        ({"y": torch.ones(3, 2), "frame": torch.eye(3)[:, :1]}, "a frame goes with"),
        ({"beta": -1.0}, "beta must be finite"),
        ({"init": "zero"}, "init must be one of"),
        ({"X": torch.ones(2, 4097), "y": torch.ones(2, 2)}, "at most 8192 weights"),
    ],
)
def test_bad_kinds_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Factorized(**({"X": torch.eye(3), "y": torch.ones(3)} | change))
