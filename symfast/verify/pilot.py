# SPDX-License-Identifier: Apache-2.0
"""Truth cases 11 and 12: balanced factors freeze signs, unbalanced ones follow a mirror flow."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from symfast.factor_sgd import FactorSGD
from symfast.factorize import factorize
from symfast.schedule import PenaltySchedule, geometric
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most
from symfast.verify.quadratic import Weight

SOURCE = "Jacobs & Burkholz, ICLR 2025 (PILoT)"
#: The paper's n = 100 and d = 40: weights and samples, or nothing would be under-determined.
WEIGHTS, SAMPLES, SPARSE = 100, 40, 5
RECORDS = 100  # points of a curve


def regressions(seeds: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X (seeds, n, d), y, the 5-sparse truth and the start, one problem per seed."""
    parts = []
    for seed in range(seeds):
        g = torch.Generator().manual_seed(seed)
        X = torch.randn(SAMPLES, WEIGHTS, dtype=torch.float64, generator=g)
        truth = torch.zeros(WEIGHTS, dtype=torch.float64)
        support = torch.randperm(WEIGHTS, generator=g)[:SPARSE]
        signs = torch.randint(0, 2, (SPARSE,), generator=g) * 2.0 - 1.0
        truth[support] = signs * (1 + torch.rand(SPARSE, dtype=torch.float64, generator=g))
        start = torch.randn(WEIGHTS, dtype=torch.float64, generator=g) / WEIGHTS**0.5
        parts.append((X, X @ truth, truth, start))
    X, y, truth, start = (torch.stack(x) for x in zip(*parts, strict=True))
    return X, y, truth, start


def train(
    X: Tensor, y: Tensor, start: Tensor, beta: float, lam: float, ratio: float, steps: int
) -> tuple[Tensor, Tensor]:
    """FactorSGD on all problems at once.

    Returns the weights at 100 times (100, seeds, d), and which entries ever changed their sign.
    """
    gram = torch.einsum("bni,bnj->bij", X, X) / SAMPLES
    linear = torch.einsum("bn,bni->bi", y, X)[:, None] / SAMPLES
    w = nn.Parameter(start.clone())
    optimizer = FactorSGD([{"params": [w], "depth": 2}], lr=0.02, lam=lam, beta=beta)
    penalty = PenaltySchedule(optimizer, geometric(ratio))
    turned, path = torch.zeros_like(start, dtype=torch.bool), []
    for step in range(steps):
        with torch.no_grad():
            w.grad = (torch.bmm(w[:, None], gram) - linear)[:, 0]
        optimizer.step()
        penalty.step()
        turned |= w.detach() * start < 0
        if (step + 1) % (steps // RECORDS) == 0:
            path.append(w.detach().clone())
    return torch.stack(path), turned


def run_signs(quick: bool) -> CaseResult:
    """PILoT recovers a 5-sparse vector; balanced spred cannot change a sign."""
    steps = 40_000 if quick else 60_000
    short = steps // 4 if quick else steps  # enough for what does not converge to the truth
    X, y, truth, start = regressions(5)
    pilot, _ = train(X, y, start, 1.0, 1.0, 1e-4 ** (1 / steps), steps)
    constant, _ = train(X, y, start, 1.0, 0.02, 1.0, short)
    plain, _ = train(X, y, start, 1.0, 0.0, 1.0, short)
    frozen, turned = train(X, y, start, 0.0, 0.02, 1.0, short)
    wrong = (truth * start) < 0
    paths = [(x - truth).norm(dim=-1) for x in (pilot, constant, plain, frozen)]
    errors = [path[-1] for path in paths]
    names = ("PILoT, geometric", "constant penalty", "no penalty", "balanced start")
    series = []
    for name, path, total in zip(names, paths, (steps, short, short, short), strict=True):
        x = [total * (i + 1) / RECORDS for i in range(RECORDS)]
        series.append(Series(name, x, path.amax(1).tolist()))
    caption = "Worst of 5 seeds: only a penalty that fades finds the sparse vector."
    checks = (
        at_most("PILoT, geometric: worst error of 5 seeds", SOURCE, float(errors[0].max()), 5e-3),
        at_least("constant penalty: least error (its bias)", SOURCE, float(errors[1].min()), 1e-2),
        at_least("no penalty: least error (interpolates)", SOURCE, float(errors[2].min()), 0.5),
        at_least("balanced start: worst error", SOURCE, float(errors[3].max()), 0.5),
        at_most("balanced start: entries that ever changed their sign", SOURCE,
                int(turned.sum()), 0),
        at_least("... of which had the wrong one at the start", SOURCE, int(wrong.sum()), 1),
    )  # fmt: skip
    return CaseResult(
        checks, Curves("step", "distance from the truth", tuple(series), caption, yscale="log")
    )


class Flow:
    """Gradient flow of ``f(m x) + alpha(t) (||m||^2 + ||x||^2)``, f a quadratic in 5 dims.

    The velocities come from the gradients of a factorised module; along go the integrals L of
    grad f and A of alpha.
    """

    def __init__(self, alpha: Callable[[float], float]) -> None:
        g = torch.Generator().manual_seed(12)
        A = torch.randn(5, 5, dtype=torch.float64, generator=g)
        self.hessian = A @ A.T / 5 + 0.5 * torch.eye(5, dtype=torch.float64)
        self.target = torch.randn(5, dtype=torch.float64, generator=g)
        start = 0.3 * torch.randn(5, dtype=torch.float64, generator=g)
        self.alpha = alpha
        self.model = factorize(Weight(start), "weight", beta=1.0)
        self.factors = list(self.model.parameters())
        self.state = torch.stack(
            [*(p.detach().clone() for p in self.factors), start * 0, start * 0]
        )

    def velocity(self, state: Tensor, t: float) -> Tensor:
        """Time derivative of (m, x, L, A)."""
        with torch.no_grad():
            for p, value in zip(self.factors, state, strict=False):
                p.copy_(value)
        weight = self.model.weight
        assert isinstance(weight, Tensor)
        off = weight - self.target
        gradients = torch.autograd.grad(0.5 * off @ self.hessian @ off, self.factors)
        rate = self.alpha(t)
        push = [-g - 2 * rate * f for g, f in zip(gradients, state, strict=False)]
        force = self.hessian @ (state[0] * state[1] - self.target)
        return torch.stack([*push, force, torch.full_like(force, rate)])

    def run(self, time: float, dt: float) -> Tensor:
        """Runge-Kutta steps of order 4 up to a time; all states (steps, 4, 5)."""
        state, path = self.state, []
        for i in range(round(time / dt)):
            t = i * dt
            a = self.velocity(state, t)
            b = self.velocity(state + dt / 2 * a, t + dt / 2)
            c = self.velocity(state + dt / 2 * b, t + dt / 2)
            d = self.velocity(state + dt * c, t + dt)
            state = state + dt / 6 * (a + 2 * b + 2 * c + d)
            path.append(state)
        return torch.stack(path)


def run_law(quick: bool) -> CaseResult:
    """The closed form of the flow, and the one of the first preprint beside it."""
    flow = Flow(lambda t: 0.3 * math.exp(-t))
    m0, x0 = flow.state[:2]
    u0, v0 = (m0 + x0) / 2**0.5, (m0 - x0) / 2**0.5
    time, dt = 3.0, 4e-3 if quick else 1e-3
    m, x, L, A = flow.run(time, dt).unbind(1)
    log = torch.log(u0 / v0)
    law = u0 * v0 * torch.exp(-4 * A) * torch.sinh(log - 2 * L)
    preprint = 2 * u0 * v0 * torch.exp(-2 * A) * torch.sinh(log - 2 * L)
    imbalance = (m0**2 - x0**2) * torch.exp(-4 * A)
    checks: tuple[Check, ...] = (
        at_most("x(t) = a(t) sinh(log(u0/v0) - 2 L), a = u0 v0 exp(-4 A)", SOURCE + ", corrected",
                float((m * x - law).abs().max()), 1e-6),
        at_most("m^2 - x^2 = (m0^2 - x0^2) exp(-4 A)", "derived",
                float((m**2 - x**2 - imbalance).abs().max()), 1e-6),
        at_least("the first preprint's a(t) = 2 u0 v0 exp(-2 A) is off by", "derived",
                 float((m * x - preprint).abs().max()), 1e-2),
    )  # fmt: skip
    thin = slice(None, None, len(m) // 30)
    t = [(i + 1) * dt for i in range(len(m))][thin]
    series: list[Series] = []
    for i in range(3):
        series += [
            Series("", t, (m * x)[thin, i].tolist(), "points", i),
            Series(f"law, weight {i + 1}", t, law[thin, i].tolist(), "line", i),
            Series("", t, preprint[thin, i].tolist(), "dashes", i),
        ]
    caption = "Points: the flow. Lines: the corrected law. Dashes: the first preprint's."
    return CaseResult(checks, Curves("time", "weight m x", tuple(series), caption))


CASES = (
    Case(11, "sign freezing and PILoT recovery", SOURCE, run_signs),
    Case(12, "PILoT mirror law", SOURCE, run_law),
)
