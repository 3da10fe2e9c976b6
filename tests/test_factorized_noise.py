# SPDX-License-Identifier: Apache-2.0
"""Sweeps of product factors over noise and batch size: thresholds, coordinates, the surface."""

from typing import Any

import pytest
import torch

from symfast import ops
from symfast.problems import Factorized
from symfast.problems.problem import cell_key
from symfast.reference.philox import LABEL_NOISE
from symfast.reference.replica import minibatch, normals
from symfast.sweep import sweep

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
f64 = torch.float64


@needs_kernels
def test_noise_moves_the_threshold_as_the_lyapunov_exponent_says() -> None:
    """Near w = 0 the mirror coordinates are multiplied by 1 - eta lam +- eta (z - sigma xi).

    So a coordinate with target z vanishes iff E log|1 - eta lam + eta (|z| + sigma xi)| < 0
    (theory of mirror symmetries, Ziyin 2024), without noise iff |z| <= lam: soft threshold. To
    second order noise moves it to lam + eta sigma^2 / 2.
    """
    lr, lam, z = 0.1, 0.1, torch.linspace(0.02, 0.6, 30, dtype=f64)
    d = len(z)
    problem = Factorized(torch.eye(d, dtype=f64) * d**0.5, z * d**0.5, scale=0.5)
    levels = [0.0, 1.0, 2.0]
    result = sweep(
        problem, lr=lr, momentum=0.0, weight_decay=lam, gradient_noise=levels, seeds=8, steps=20_000
    )
    gone = torch.tensor(result.weights).abs().reshape(3, 8, d) < 1e-20
    # Gaussian quadrature would meet the logarithm's pole: a midpoint rule in probability instead
    share = (torch.arange(20_000, dtype=f64) + 0.5) / 20_000
    xi = 2**0.5 * (2 * share - 1).erfinv()
    for level, lost in zip(levels, gone, strict=True):
        factor = 1 - lr * lam + lr * (z[:, None] + level * xi)
        exponent = factor.abs().log().mean(1)
        margin = 0.01 if level else 3e-3  # log|w| wanders, and is small at times
        assert bool(lost[:, exponent < -margin].all())
        assert not bool(lost[:, exponent > margin].any())
    table = result.table.groupby("gradient_noise").zeros.mean()
    assert table.is_monotonic_increasing
    edges = [float(z[lost.all(0)].max()) for lost in gone]
    for level, edge in zip(levels, edges, strict=True):
        assert abs(edge - (lam + lr * level**2 / 2)) < 0.05


@pytest.mark.parametrize("per", ["element", "row", "column", [1, 0, 1, 2]])
def test_targets_come_back_row_major(per: Any) -> None:
    """From zero, depth 1, minibatches: every grouping is the same least-squares training."""
    torch.manual_seed(1)
    X, Y = torch.randn(30, 4, dtype=f64), torch.randn(30, 3, dtype=f64)
    given: dict[str, Any] = {"batch_size": 6, "noise": 0.2, "steps": 20, "seeds": 2}
    found = sweep(Factorized(X, Y, depth=1, scale=0.0, per=per), **given)
    w = torch.zeros(2, 4, 3, dtype=f64)
    velocity, keys = torch.zeros_like(w), torch.tensor([0, 1])
    cell = {"batch_size": 6, "label_noise": 0.2, "depth": 1}
    key = cell_key(Factorized(X, Y, depth=1, scale=0.0).axes, cell) & 0xFFFFFFFF
    for step in range(20):
        z = normals(keys, LABEL_NOISE, torch.tensor([key] * 2), torch.tensor([step]), 18)
        for seed in (0, 1):
            rows = minibatch(seed, step, 6, 30)
            target = Y[rows] + 0.2 * z[seed, 0].reshape(6, 3).double()
            gradient = X[rows].T @ (X[rows] @ w[seed] - target) / 6
            velocity[seed] = 0.9 * velocity[seed] + gradient
            w[seed] -= 0.1 * velocity[seed]
    torch.testing.assert_close(torch.tensor(found.weights), w.flatten(1), atol=1e-12, rtol=1e-12)


@needs_kernels
def test_frame_turns_the_data() -> None:
    """The trained coordinates [O, O_perp] see the same minibatches as the plain weights."""
    torch.manual_seed(2)
    X, y = torch.randn(30, 5, dtype=f64), torch.randn(30, dtype=f64)
    frame = torch.linalg.qr(torch.randn(5, 2, dtype=f64)).Q
    given: dict[str, Any] = {"batch_size": 6, "noise": 0.2, "steps": 200, "seeds": 3}
    plain = sweep(Factorized(X, y, depth=1, scale=0.0), **given)
    turned = sweep(Factorized(X, y, frame=frame, depth=1, scale=0.0), **given)
    torch.testing.assert_close(
        torch.tensor(turned.weights), torch.tensor(plain.weights), atol=1e-12, rtol=1e-12
    )


def test_the_promised_call() -> None:
    """What the contract of sweeps promises, and its plot by the alias."""
    torch.manual_seed(3)
    X, y = torch.randn(40, 6), torch.randn(40)
    given: dict[str, Any] = {"weight_decay": [0.01, 0.1], "batch_size": 16, "lr": 0.05, "seeds": 2}
    given |= {"steps": 60, "schedule": ["constant", "cosine", "step"]}
    problem = Factorized(X, y)
    result = sweep(problem, noise=[0.0, 0.1], **given)
    assert len(result.table) == 2 * 2 * 3 * 2
    assert result.table.label_noise.unique().tolist() == [0.0, 0.1]
    figure = result.plot("sparsity", x="weight_decay", y="noise")
    assert figure.axes[0].get_ylabel() == "label noise σ"
    assert result.plot("loss", x="noise", hue="noise").axes[0].get_xlabel() == "label noise σ"
    assert result.theory == []
    assert sweep(problem, weight_decay=[0.01, 0.1], steps=5).theory
    pieces = sweep(problem, noise=[0.0, 0.1], every=17, **given)
    assert (pieces.weights == result.weights).all()
    alone = sweep(problem, noise=0.1, **(given | {"weight_decay": 0.1, "schedule": "cosine"}))
    rows = result.table.query("label_noise == 0.1 and weight_decay == 0.1 and schedule == 'cosine'")
    assert (result.weights[rows.index] == alone.weights).all()
