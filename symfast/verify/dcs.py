# SPDX-License-Identifier: Apache-2.0
"""Truth case 1: an artificial mirror's constraint holds exactly above a finite penalty."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from symfast import mirror
from symfast.dcs import dcs
from symfast.plan import Plan
from symfast.symmetry import Mirror
from symfast.threshold import PenaltyThreshold, penalty_threshold
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most, near
from symfast.verify.quadratic import Weight, proximal_descent

SOURCE = "Ziyin, ICML 2024 (DCS); threshold derived"
RATIOS = (0.25, 0.5, 0.8, 0.95, 1.05, 1.2, 2.0, 5.0)
Mode = Literal["l1", "group"]


@dataclass(frozen=True)
class LeastSquares:
    """``1/(2n) ||X theta - y||^2`` in d = 12 dims with a random mirror of k = 3 columns."""

    gram: Tensor  # (d, d)
    linear: Tensor  # (d,)
    O: Tensor  # (d, k)

    @classmethod
    def random(cls, seed: int) -> "LeastSquares":
        """A problem whose gradient at the constrained minimum does not vanish."""
        g = torch.Generator().manual_seed(seed)
        X = torch.randn(60, 12, dtype=torch.float64, generator=g)
        y = X @ torch.randn(12, dtype=torch.float64, generator=g)
        O = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64, generator=g)).Q
        return cls(X.T @ X / len(X), X.T @ y / len(X), O)

    def loss(self, theta: Tensor) -> Tensor:
        """Sum over the rows of theta (..., d)."""
        return (0.5 * (theta @ self.gram) * theta - theta * self.linear).sum()

    def constrained(self) -> Tensor:
        """theta_c, the minimiser with ``O^T theta = 0``, in a basis of the plane."""
        Z = torch.linalg.svd(self.O).U[:, self.O.shape[1] :]
        inner: Tensor = torch.linalg.solve(Z.T @ self.gram @ Z, Z.T @ self.linear)
        out: Tensor = Z @ inner
        return out

    def quadratic(self, weight: float) -> Tensor:
        """The minimiser with ``weight ||O^T theta||^2`` instead."""
        out: Tensor = torch.linalg.solve(self.gram + 2 * weight * self.O @ self.O.T, self.linear)
        return out

    def proximal(self, gam: Tensor, mode: Mode, steps: int) -> Tensor:
        """Minimisers of ``l + 2 gam ||O^T theta||`` by proximal gradient steps, one per gam."""

        def prox(theta: Tensor, eta: float) -> Tensor:
            return mirror.prox(theta, self.O, 2 * eta * gam, mode=mode)

        return proximal_descent(self.gram, self.linear, prox, len(gam), steps)


def train(problem: LeastSquares, gam: Tensor, mode: Mode, steps: int) -> Tensor:
    """Gradient descent on the factors, one row per gam, with ``gam (||u||^2 + ||w||^2)``."""
    rows = torch.zeros(len(gam), len(problem.linear), dtype=torch.float64)
    model = dcs(Weight(rows), "weight", Mirror(problem.O), mode=mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    factors = list(model.parameters())[1:]
    for _ in range(steps):
        optimizer.zero_grad()
        penalty = sum((gam[:, None] * f.square()).sum() for f in factors)
        theta = model.weight
        assert isinstance(theta, Tensor)
        (problem.loss(theta) + penalty).backward()
        optimizer.step()
    theta = model.weight
    assert isinstance(theta, Tensor)
    return theta.detach().clone()


def threshold(problem: LeastSquares, mode: Mode) -> PenaltyThreshold:
    """gamma* as the library finds it."""
    theta = torch.ones(12, dtype=torch.float64, requires_grad=True)
    plan = Plan([(theta, Mirror(problem.O))])
    return penalty_threshold(lambda: problem.loss(theta), [theta], plan, mode=mode, tol=1e-13)


def run_mode(problem: LeastSquares, mode: Mode, quick: bool) -> tuple[list[Check], list[float]]:
    """The checks of one mode, and the violation at every ratio."""
    theta_c = problem.constrained()
    force = problem.O.T @ (problem.gram @ theta_c - problem.linear)
    gam_star = float(force.abs().max() if mode == "l1" else force.norm()) / 2
    found = threshold(problem, mode)
    gam = gam_star * torch.tensor(RATIOS, dtype=torch.float64)
    theta = train(problem, gam, mode, 4_000 if quick else 20_000)
    violation = (theta @ problem.O).abs().amax(1)
    above, below = gam > gam_star, gam < gam_star
    reference = problem.proximal(gam, mode, 5_000)
    return [
        near(f"{mode}: penalty_threshold is |O^T grad l(theta_c)|/2", SOURCE, gam_star, found.gamma,
             1e-10),
        at_most(f"{mode}: violation from 1.05 gamma*", SOURCE,
                float(violation[above].max()), 1e-10),
        at_least(f"{mode}: violation up to 0.95 gamma*", SOURCE,
                 float(violation[below].min()), 1e-2, "> 0"),
        at_most(f"{mode}: distance from theta_c above", SOURCE,
                float((theta[above] - theta_c).abs().max()), 1e-10),
        at_most(f"{mode}: distance from proximal gradient", SOURCE,
                float((theta - reference).abs().max()), 1e-10),
    ], violation.tolist()  # fmt: skip


def run(quick: bool) -> CaseResult:
    """Both modes, and the quadratic penalty that never reaches the plane."""
    problem = LeastSquares.random(seed=1)
    checks: list[Check] = []
    series = []
    modes: tuple[Mode, ...] = ("l1", "group")
    for mode in modes:
        found, violation = run_mode(problem, mode, quick)
        checks += found
        series.append(Series(f"dcs, {mode}", RATIOS, violation))
    weights = (1.0, 10.0, 100.0, 1000.0)

    def violation_of(weight: float) -> float:
        return float((problem.O.T @ problem.quadratic(weight)).abs().max())

    quadratic = [violation_of(x) for x in weights]
    star = threshold(problem, "l1").gamma
    series.append(Series("quadratic penalty", RATIOS, [violation_of(x * star) for x in RATIOS]))
    checks.append(
        at_least("a quadratic penalty of 1 to 1000 still violates", SOURCE, min(quadratic), 1e-5,
                 "> 0")
    )  # fmt: skip
    curves = Curves(
        "gamma / gamma*", "max |O^T theta|", tuple(series), yscale="log",
        vertical=((1.0, "gamma*"),),
        caption="Least squares, 12 weights under a random mirror of 3 columns.",
    )  # fmt: skip
    return CaseResult(tuple(checks), curves)


CASES = (Case(1, "DCS exact-penalty threshold", SOURCE, run),)
