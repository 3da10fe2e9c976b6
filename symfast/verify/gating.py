# SPDX-License-Identifier: Apache-2.0
"""Truth case 10: gates under weight decay give the group lasso."""

import torch
from torch import Tensor

from symfast.factorize import factorize
from symfast.plan import Plan
from symfast.symmetry import SignFlip
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least, at_most
from symfast.verify.quadratic import Weight, proximal_descent

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


def group_lasso(gram: Tensor, linear: Tensor, lam: Tensor, steps: int) -> Tensor:
    """The reference without factors, (penalties, groups, size)."""

    def prox(w: Tensor, eta: float) -> Tensor:
        rows = w.contiguous().view(-1, GROUPS, SIZE)
        Plan([(row, SignFlip()) for row in rows]).prox_(eta * lam, mode="group")
        return rows.view_as(w)

    found = proximal_descent(gram, linear, prox, len(lam), steps)
    return found.view(len(lam), GROUPS, SIZE)


def gated(gram: Tensor, linear: Tensor, lam: Tensor, depth: int, steps: int) -> Tensor:
    """Gradient descent on gates, ``lam / D`` times the squares of the factors, for every lam."""
    start = torch.full((len(lam) * GROUPS, SIZE), 0.1, dtype=torch.float64)
    model = factorize(Weight(start), "weight", depth=depth, per="row", beta=0.5)
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
    steps = 4_000 if quick else 20_000
    reference = group_lasso(gram, linear, lam, 1_000)
    two, three = (gated(gram, linear, lam, depth, steps) for depth in (2, 3))
    count = [int(n) for n in (two.norm(dim=2) > 1e-6).sum(1)]
    wanted = [int(n) for n in (reference.norm(dim=2) > 1e-6).sum(1)]
    alive = [int(n) for n in (three.norm(dim=2) > 1e-6).sum(1)]
    different = max(abs(a - b) for a, b in zip(count, wanted, strict=True))
    checks = (
        at_most("D=2: distance from the proximal group lasso", SOURCE,
                float((two - reference).abs().max()), 1e-3),
        at_most(f"D=2: active groups {count}, reference {wanted}", SOURCE, different, 1, "equal"),
        at_least(f"D=3: active groups {alive} (the informative ones while little is asked)", SOURCE,
                 min(alive[:2]), INFORMATIVE, f">= {INFORMATIVE}"),
        at_most("D=3: gradient on active groups", SOURCE,
                stationarity(gram, linear, three, lam, 3), 1e-8),
    )  # fmt: skip
    series = [Series("equal", [0.0, float(reference.norm(dim=2).max())],
                     [0.0, float(reference.norm(dim=2).max())], "dashes", len(SHARES))]  # fmt: skip
    for i, share in enumerate(SHARES):
        x, y = reference[i].norm(dim=1).tolist(), two[i].norm(dim=1).tolist()
        series.append(Series(f"{share:g} of the largest penalty", x, y, "points", i))
    caption = "Norms of the 40 groups: two gates under weight decay against the proximal method."
    curves = Curves("proximal group lasso", "gates, D = 2", tuple(series), caption)
    return CaseResult(checks, curves)


CASES = (Case(10, "group lasso by gating", SOURCE, run),)
