# SPDX-License-Identifier: Apache-2.0
"""Truth case 10: gates under weight decay give the group lasso."""

import torch
from torch import Tensor, nn

from symfast.factorize import factorize
from symfast.plan import Plan
from symfast.symmetry import SignFlip
from symfast.verify.case import Case, CaseResult, at_most

SOURCE = "Kolb et al. 2025 (D-Gating)"
GROUPS, SIZE, SAMPLES, INFORMATIVE = 40, 5, 300, 7
#: Penalties in units of the smallest that zeroes everything.
SHARES = (0.03, 0.1, 0.3, 0.6)


def problem() -> tuple[Tensor, Tensor]:
    """Gram matrix (200, 200) and X^T y / n of a regression with 7 of 40 groups informative."""
    g = torch.Generator().manual_seed(10)
    X = torch.randn(SAMPLES, GROUPS * SIZE, dtype=torch.float64, generator=g)
    w = torch.zeros(GROUPS, SIZE, dtype=torch.float64)
    w[:INFORMATIVE] = torch.randn(INFORMATIVE, SIZE, dtype=torch.float64, generator=g)
    y = X @ w.flatten() + 0.5 * torch.randn(SAMPLES, dtype=torch.float64, generator=g)
    return X.T @ X / SAMPLES, X.T @ y / SAMPLES


def proximal(gram: Tensor, linear: Tensor, lam: Tensor, steps: int) -> Tensor:
    """Group lasso by accelerated proximal gradient steps, (penalties, groups, size)."""
    eta = 1.0 / float(torch.linalg.eigvalsh(gram)[-1])
    w = torch.zeros(len(lam), GROUPS, SIZE, dtype=torch.float64)
    old, t = w.clone(), 1.0
    for _ in range(steps):
        ahead, grown = w + 0.0, (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead += (t - 1) / grown * (w - old)
        old, t = w, grown
        flat = ahead.flatten(1)
        w = (flat - eta * (flat @ gram - linear)).view_as(w).contiguous()
        for row, x in zip(w, (eta * lam).tolist(), strict=True):
            Plan([(row, SignFlip())]).prox_(x, mode="group")
    return w


class Weight(nn.Module):
    """A bare weight whose rows are groups, one block of rows per penalty."""

    def __init__(self, penalties: int) -> None:
        super().__init__()
        start = torch.full((penalties * GROUPS, SIZE), 0.1, dtype=torch.float64)
        self.weight = nn.Parameter(start)


def gated(gram: Tensor, linear: Tensor, lam: Tensor, depth: int, steps: int) -> Tensor:
    """Gradient descent on gates, ``lam / D`` times the squares of the factors, for every lam."""
    model = factorize(Weight(len(lam)), "weight", depth=depth, per="row", beta=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rate = (lam / depth).repeat_interleave(GROUPS)[:, None]
    for _ in range(steps):
        optimizer.zero_grad()
        flat = model.weight.view(len(lam), -1)  # type: ignore[operator]
        loss = (0.5 * (flat @ gram) * flat - flat * linear).sum()
        (loss + sum((rate * f.square()).sum() for f in model.parameters())).backward()
        optimizer.step()
    with torch.no_grad():
        return model.weight.view(len(lam), GROUPS, SIZE).clone()  # type: ignore[operator]


def stationarity(gram: Tensor, linear: Tensor, w: Tensor, lam: Tensor, depth: int) -> float:
    """Largest entry of the gradient of ``l + lam sum_j ||w_j||^(2/D)`` over the active groups."""
    norm = w.norm(dim=2, keepdim=True)
    q = 2 / depth
    active = norm > 1e-6
    pull = lam[:, None, None] * q * torch.where(active, norm, 1.0) ** (q - 2) * w
    force = (w.flatten(1) @ gram - linear).view_as(w)
    return float(torch.where(active, force + pull, 0.0).abs().max())


def run(quick: bool) -> CaseResult:
    """D = 2 against the proximal reference, D = 3 against its stationarity condition."""
    gram, linear = problem()
    top = float(linear.view(GROUPS, SIZE).norm(dim=1).max())
    lam = top * torch.tensor(SHARES, dtype=torch.float64)
    steps = 6_000 if quick else 20_000
    reference = proximal(gram, linear, lam, 1_000)
    two, three = (gated(gram, linear, lam, depth, steps) for depth in (2, 3))
    count = [int(n) for n in (two.norm(dim=2) > 1e-6).sum(1)]
    wanted = [int(n) for n in (reference.norm(dim=2) > 1e-6).sum(1)]
    different = max(abs(a - b) for a, b in zip(count, wanted, strict=True))
    checks = (
        at_most("D=2: distance from the proximal group lasso", SOURCE,
                float((two - reference).abs().max()), 1e-3),
        at_most(f"D=2: active groups {count}, reference {wanted}", SOURCE, different, 1, "equal"),
        at_most("D=3: gradient on active groups", SOURCE,
                stationarity(gram, linear, three, lam, 3), 1e-8),
    )  # fmt: skip
    return CaseResult(checks)


CASES = (Case(10, "group lasso by gating", SOURCE, run),)
