# SPDX-License-Identifier: Apache-2.0
"""Decay to a random anchor (syre), and gradient noise: closed forms and statistics."""

import pytest
import torch
from torch.nn import Parameter

import symfast as sf
from symfast.reference import anchor as formula


def test_ridge_closed_form() -> None:
    """The minimiser of 1/(2n) ||A t - y||^2 + gam ||t - theta0||^2 (lam = 2 gam)."""
    n, d, gam = 60, 7, 0.3
    A = torch.randn(n, d, dtype=torch.float64)
    y = torch.randn(n, dtype=torch.float64)
    anchor = sf.Anchor(sigma=0.8, seed=5)
    theta = Parameter(torch.zeros(d, dtype=torch.float64))
    optimizer = sf.optim.SGD([theta], lr=0.3, momentum=0.5, weight_decay=2 * gam, anchor=anchor)
    for _ in range(400):
        theta.grad = A.T @ (A @ theta.detach() - y) / n
        optimizer.step()
    theta0 = anchor.values(theta)
    gram = A.T @ A / n + 2 * gam * torch.eye(d, dtype=torch.float64)
    wanted = torch.linalg.solve(gram, A.T @ y / n + 2 * gam * theta0)
    torch.testing.assert_close(theta.detach(), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_escape_force(spread: float) -> None:
    """At a symmetric point O^T p = 0 the step leaves the plane by lr lam O^T D (a - p), exactly."""
    m, n, lr, lam = 6, 50, 0.5, 0.2
    w = Parameter(torch.randn(m, n, dtype=torch.float64))
    plan = sf.Plan([(w, sf.Swap([0, 2], [1, 3]))])
    plan.project_()
    before = w.detach().clone()
    anchor = sf.Anchor(sigma=0.1, seed=8, spread=spread)
    w.grad = torch.zeros_like(w)  # of a symmetric loss, which has no force out of the plane
    sf.optim.SGD([w], lr=lr, weight_decay=lam, anchor=anchor).step()
    D = 1 + spread * formula.anchor_spreads(8, 0, torch.arange(m * n)).double().view(m, n)
    wanted = before - lr * lam * D * (before - anchor.values(before))
    torch.testing.assert_close(w.detach(), wanted, rtol=0, atol=1e-12)
    coefficients = plan.coefficients()[0]
    a, b = wanted[[0, 2]], wanted[[1, 3]]
    torch.testing.assert_close(coefficients, (a - b) / 2**0.5, rtol=0, atol=1e-12)
    assert coefficients.abs().min() > 0


def test_decoupled_anchor() -> None:
    """AdamW with no gradient only decays: p <- p - lr lam (p - a)."""
    p = Parameter(torch.randn(130))
    before, anchor = p.detach().clone(), sf.Anchor(0.3, seed=2)
    p.grad = torch.zeros(130)
    sf.optim.AdamW([p], lr=0.1, weight_decay=0.5, anchor=anchor).step()
    wanted = before - 0.05 * (before - anchor.values(before))
    torch.testing.assert_close(p.detach(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sigma", [None, 0.01, 0.1])
def test_tied_neurons_separate(sigma: float | None) -> None:
    """Identical hidden neurons: distance exactly 0.0 for ever without, apart with the anchor."""
    x = torch.randn(64, 16)
    target = (x[:, 0] > 0).long()
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    first, last = model[0], model[2]
    with torch.no_grad():
        for tied in (first.weight, first.bias, last.weight.T):
            tied[1::2] = tied[::2]
    anchor = None if sigma is None else sf.Anchor(sigma, seed=4)
    optimizer = sf.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.01, anchor=anchor)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    distance = (first.weight[1::2] - first.weight[::2]).norm(dim=1)
    if sigma is None:
        assert (distance == 0.0).all()
    else:
        assert (distance > sigma / 10).all()


def test_anchors_are_reproducible_and_of_each_parameter() -> None:
    like = torch.zeros(10, 10)
    anchor = sf.Anchor(0.5, seed=3)
    assert torch.equal(anchor.values(like, 1), anchor.values(like, 1))
    assert not torch.equal(anchor.values(like, 0), anchor.values(like, 1))
    assert not torch.equal(anchor.values(like), sf.Anchor(0.5, seed=4).values(like))
    last = like.to(torch.bfloat16).T.contiguous().T
    assert anchor.values(last).stride() == last.stride()
    torch.testing.assert_close(
        anchor.values(last).T.float(), anchor.values(like), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize(
    "options", [{"sigma": -1.0}, {"sigma": float("nan")}, {"sigma": 1.0, "spread": 1.0},
                {"sigma": 1.0, "seed": 2**64}],
)  # fmt: skip
def test_refuses_in_words(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Invalid anchor"):
        sf.Anchor(**options)  # type: ignore[arg-type]


def noisy_steps(steps: int, seed: int = 1) -> list[torch.Tensor]:
    p = Parameter(torch.zeros(20_000))
    optimizer = sf.optim.SGD([p], lr=1.0, noise=0.5, seed=seed)
    found = []
    for _ in range(steps):
        before = p.detach().clone()
        p.grad = torch.zeros_like(p)
        optimizer.step()
        found.append(p.detach() - before)
    return found


def test_noise_statistics() -> None:
    first, second = noisy_steps(2)
    again, other = noisy_steps(1)[0], noisy_steps(1, seed=2)[0]
    assert torch.equal(first, again)
    n = len(first)
    for z in (first, second, other):
        assert abs(z.mean().item()) < 5 * 0.5 / n**0.5
        assert abs(z.std().item() - 0.5) < 5 * 0.5 / (2 * n) ** 0.5
    for a, b in ((first, second), (first, other)):
        assert abs((a * b).mean().item()) < 5 * 0.25 / n**0.5
