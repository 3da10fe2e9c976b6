# SPDX-License-Identifier: Apache-2.0
"""Truth case 13: symmetry removal separates tied neurons, and its force and minimum are exact."""

from typing import Any

import torch
from torch import Tensor, nn

from symfast.anchor import Anchor
from symfast.optim import SGD
from symfast.removal import remove_symmetry
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most, near

SOURCE = "Ziyin, Xu, Chuang, ICLR 2025 (syre)"
PAIRS = 16


def digits() -> tuple[Tensor, Tensor]:
    """The digits of scikit-learn: (1797, 64) in [0, 1], and labels."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)


def tied_network() -> nn.Sequential:
    """64-32-10 with tanh; neurons j and j + 16 are equal to the last bit."""
    torch.manual_seed(13)
    model = nn.Sequential(nn.Linear(64, 2 * PAIRS), nn.Tanh(), nn.Linear(2 * PAIRS, 10))
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias, model[2].weight.T):
            assert isinstance(tensor, Tensor)
            tensor[PAIRS:] = tensor[:PAIRS]
    return model


def pair_distances(model: nn.Sequential) -> Tensor:
    """Norm of the difference of the in- and outgoing weights of every pair."""
    parts: list[Any] = [model[0].weight, model[0].bias[:, None], model[2].weight.T]  # type: ignore[index]
    with torch.no_grad():
        units = torch.cat(parts, 1)
        distances: Tensor = (units[:PAIRS] - units[PAIRS:]).norm(dim=1)
    return distances


def trained(sigma: float, steps: int) -> Tensor:
    """Pair distances (100, pairs) over SGD on digits with decay 0.01, to zero or to an anchor."""
    X, y = digits()
    model = tied_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    if sigma:
        remove_symmetry(optimizer, sigma, seed=5)
    g, path = torch.Generator().manual_seed(0), []
    for step in range(steps):
        batch = torch.randint(len(X), (64,), generator=g)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
        optimizer.step()
        if (step + 1) % (steps // 100) == 0:
            path.append(pair_distances(model))
    return torch.stack(path)


def escape_force() -> tuple[float, float]:
    """How far one step from a symmetric point is from ``O^T step = lr lam O^T theta0``.

    And ``||O^T step||`` over ``lr lam sigma sqrt(rank)``, what it is on average.
    """
    X, y = digits()
    model = tied_network().double()
    lr, lam, sigma = 0.1, 0.02, 0.3
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=lam)
    remove_symmetry(optimizer, sigma, seed=5)
    nn.functional.cross_entropy(model(X.double()), y).backward()
    optimizer.step()
    worst, total, rank = 0.0, 0.0, 0
    for number, (p, dim) in enumerate(
        ((model[0].weight, 0), (model[0].bias, 0), (model[2].weight, 1))
    ):
        assert isinstance(p, Tensor)
        theta0 = Anchor(sigma, 5).values(p, number).movedim(dim, 0)
        units = p.detach().movedim(dim, 0)
        gap, force = units[:PAIRS] - units[PAIRS:], theta0[:PAIRS] - theta0[PAIRS:]
        worst = max(worst, float((gap - lr * lam * force).abs().max()))
        total, rank = total + float(gap.square().sum()) / 2, rank + gap.numel()
    return worst, (total / rank) ** 0.5 / (lr * lam * sigma)


def ridge_defect(steps: int) -> float:
    """Distance of trained least squares from ``(A^T A/n + lam)^-1 (A^T y/n + lam theta0)``."""
    g = torch.Generator().manual_seed(2)
    A = torch.randn(50, 8, dtype=torch.float64, generator=g)
    y = torch.randn(50, dtype=torch.float64, generator=g)
    theta = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=0.2)
    remove_symmetry(optimizer, 0.7, seed=9, lam=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        ((A @ theta - y).square().mean() / 2).backward()
        optimizer.step()
    theta0 = Anchor(0.7, 9).values(theta)
    system = A.T @ A / 50 + 0.3 * torch.eye(8, dtype=torch.float64)
    exact = torch.linalg.solve(system, A.T @ y / 50 + 0.3 * theta0)
    return float((theta.detach() - exact).abs().max())


def rotation_left(spread: float) -> float:
    """``||n^T W||`` after training on the plane of a rotation's mirror, under decay to an anchor.

    ``l(W) = l(R W)`` has a mirror for every unit vector n of R^6. An anchor of 3 columns leaves
    those alone with ``n^T theta0 = 0``, unless the decay differs from number to number.
    """
    g = torch.Generator().manual_seed(4)
    anchor = Anchor(0.3, 7, spread)
    W = nn.Parameter(torch.randn(6, 3, dtype=torch.float64, generator=g))
    n = torch.linalg.svd(anchor.values(W), full_matrices=True).U[:, -1]
    with torch.no_grad():
        W.sub_(torch.outer(n, n @ W))
    optimizer = SGD([W], lr=0.05, weight_decay=0.2, anchor=anchor)
    for _ in range(400):
        optimizer.zero_grad()
        ((W.T @ W - torch.eye(3, dtype=W.dtype)).square().sum() / 4).backward()
        optimizer.step()
    return float((n @ W).detach().norm())


def run(quick: bool) -> CaseResult:
    """All three claims; quick trains the tied network for fewer steps."""
    steps = 1_000 if quick else 3_000
    defect, size = escape_force()
    plain, weak, strong = (trained(sigma, steps) for sigma in (0.0, 0.01, 0.1))
    checks: tuple[Check, ...] = (
        at_most(f"tied pairs after {steps} SGD steps: largest distance, plain decay", SOURCE,
                float(plain.max()), 0.0, "exactly 0"),
        at_least("... decay to an anchor, sigma 0.01: smallest distance", SOURCE,
                 float(weak[-1].min()), 1e-3, "> 0"),
        at_least("... sigma 0.1: smallest distance", SOURCE, float(strong[-1].min()), 1e-1,
                 "> 0"),
        at_most("escape force: O^T step - lr lam O^T theta0", SOURCE, defect, 1e-12),
        # 1,200 normal numbers: their root mean square scatters by 2%
        near("... ||O^T step|| over lr lam sigma sqrt(rank)", SOURCE, 1.0, size, 0.06),
        at_most("ridge to an anchor, against its closed form", SOURCE, ridge_defect(500), 1e-10),
        at_most("a rotation's mirror beside the anchor: isotropic decay keeps n^T W at", SOURCE,
                rotation_left(0.0), 1e-12),
        at_least("... decay of its own for every number (spread 0.5) leaves the plane by", SOURCE,
                 rotation_left(0.5), 1e-2, "> 0"),
    )  # fmt: skip
    x = [steps / 100 * (i + 1) for i in range(100)]
    names = ("plain decay", "anchor, sigma 0.01", "anchor, sigma 0.1")
    series = tuple(
        Series(name, x, path.mean(1).tolist())
        for name, path in zip(names, (plain, weak, strong), strict=True)
    )
    caption = "Mean distance of 16 pairs of equal neurons: under plain decay it stays exactly 0."
    return CaseResult(checks, Curves("step", "distance", series, caption))


CASES = (Case(13, "symmetry removal", SOURCE, run),)
