# SPDX-License-Identifier: Apache-2.0
"""Gamma matrices by weighted Grams, and the charge they predict."""

import pytest
import torch

import symfast as sf


def test_sides_are_second_moments_of_per_sample_gradients() -> None:
    x, delta = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    W, U = torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    found = sf.noise_balance(x, delta, W, U)
    to_W = torch.einsum("nr,nx->nrx", delta @ U, x)  # per-sample gradients
    to_U = torch.einsum("ny,nr->nyr", delta, x @ W.T)
    torch.testing.assert_close(
        found.output_side, torch.einsum("nrx,nsx->rs", to_W, to_W) / 50, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        found.input_side, torch.einsum("nyr,nys->rs", to_U, to_U) / 50, rtol=1e-12, atol=1e-12
    )
    # one SGD step moves the charge of each sample by exactly this much
    lr, lam = 0.01, 0.1
    moved = 0.0
    for w, u in zip(to_W, to_U, strict=True):
        W1, U1 = W - lr * (w + lam * W), U - lr * (u + lam * U)
        moved = moved + W1 @ W1.T - U1.T @ U1
    exact = (1 - lr * lam) ** 2 * found.charge + lr**2 * (found.output_side - found.input_side)
    torch.testing.assert_close(moved / 50, exact, rtol=1e-12, atol=1e-12)


def test_predicted_charge_of_a_noisy_pair() -> None:
    """A rank-1 net under label noise and decay: measured charge and prediction agree."""
    torch.manual_seed(1)
    lr, lam, chains, dx, dy = 0.04, 0.1, 200, 6, 2
    w = torch.randn(chains, 1, dx, dtype=torch.float64)
    u = torch.randn(chains, dy, 1, dtype=torch.float64)
    target = torch.ones(dy, dx, dtype=torch.float64)
    seen = []
    for step in range(1500):
        x = torch.randn(chains, 1, dx, dtype=torch.float64)
        delta = x @ w.mT @ u.mT - x @ target.T - torch.randn(chains, 1, dy, dtype=torch.float64)
        if step >= 700 and step % 4 == 0:
            seen.append(sf.noise_balance(x, delta, w, u))
        to_w, to_u = (delta @ u).mT @ x, delta.mT @ (x @ w.mT)
        w, u = w - lr * (to_w + lam * w), u - lr * (to_u + lam * u)
    measured = torch.stack([s.charge.mean() for s in seen]).mean()
    predicted = torch.stack([s.predicted_charge(lr, lam).mean() for s in seen]).mean()
    assert float(predicted) == pytest.approx(float(measured), rel=0.1)
    assert abs(float(measured)) > 0.1  # far from the naive balance


def test_refusals() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="same n"):
        sf.noise_balance(x, torch.ones(4, 2), torch.ones(1, 2), torch.ones(2, 1))
    with pytest.raises(ValueError, match="must have shapes"):
        sf.noise_balance(x, x, torch.ones(1, 3), torch.ones(2, 1))
    found = sf.noise_balance(x, x, torch.ones(1, 2), torch.ones(2, 1))
    with pytest.raises(ValueError, match="positive"):
        found.predicted_charge(0.1, 0.0)
