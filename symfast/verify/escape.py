# SPDX-License-Identifier: Apache-2.0
"""Truth cases 5 and 6: how fast a mirror attracts or repels, for GD and for SGD."""

import math

import torch
from torch import Tensor
from torch.func import grad, jacrev

from symfast.lyapunov import critical_rate, exact_critical_rate, lyapunov_exponent
from symfast.mirror import project
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most, near
from symfast.verify.theorem import Net, nets

THEOREM = "Ziyin 2024, Theorem 1.2"
SGD = "Ziyin 2024, SGD near the plane"
#: Curvatures of the two-point case: mean < 0, a saddle that GD leaves.
TWO_POINTS = (-1.2, 1.0)


def _settle(net: Net, lam: float) -> Tensor:
    """A stationary point of the decayed loss inside the plane, by L-BFGS."""

    def loss(theta: Tensor) -> Tensor:
        return net.loss(theta) + lam / 2 * theta.square().sum()

    theta = project(torch.randn(len(net.O), dtype=torch.float64), net.O).requires_grad_()
    search = torch.optim.LBFGS(
        [theta], max_iter=400, tolerance_grad=1e-12, tolerance_change=0, history_size=40,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        value = loss(project(theta, net.O))
        (theta.grad,) = torch.autograd.grad(value, theta)
        return value

    search.step(closure)
    return project(theta.detach(), net.O)


def _factor(net: Net, plane: Tensor, n: Tensor, lr: float, lam: float, steps: int) -> float:
    """Mean factor per GD step of a coefficient that starts at 1e-7 along n."""
    slope, theta = grad(net.loss), plane + 1e-7 * n
    for _ in range(steps):
        theta = theta - lr * (slope(theta) + lam * theta)
    return math.exp(math.log(float(n @ theta) / 1e-7) / steps)


def run_block(quick: bool) -> CaseResult:
    """Case 5: near a stationary symmetric point the eigenmodes of O^T H O decay separately."""
    torch.manual_seed(5)
    lam, lr, steps = 0.02, 0.1, 10 if quick else 50
    checks: list[Check] = []
    curves: list[Series] = []
    for number, net in enumerate(nets()[:2]):  # tanh networks: permutation and sign flip
        plane = _settle(net, lam)
        block = net.O.T @ jacrev(grad(net.loss))(plane) @ net.O
        curvature, modes = torch.linalg.eigh(block)
        exact = 1 - lr * (curvature + lam)
        found = [_factor(net, plane, net.O @ n, lr, lam, steps) for n in modes.T]
        worst = max(abs(a - b) for a, b in zip(found, exact.tolist(), strict=True))
        claim = f"{net.name}: mode i moves by 1 - eta (mu_i + lam) a step, {len(found)} modes"
        checks.append(at_most(claim, THEOREM, worst, 1e-5, "deviation 0"))
        curves += [
            Series(f"{net.name}, predicted", curvature.tolist(), exact.tolist(), "dashes", number),
            Series(f"{net.name}, measured", curvature.tolist(), found, "points", number),
        ]
    caption = "GD from 1e-7 off the plane: factor per step by eigenvalue of O^T H O."
    return CaseResult(
        tuple(checks), Curves("curvature mu", "factor per step", tuple(curves), caption)
    )


def _simulate(h: Tensor, rates: Tensor, chains: int, steps: int) -> tuple[Tensor, Tensor]:
    """Exponent and its standard error (rates,) from chains of s <- (1 - eta h_t) s."""
    grown = torch.zeros(len(rates), chains, dtype=torch.float64)
    block = 2000
    for _ in range(steps // block):
        drawn = h[torch.randint(len(h), (block, 1, chains))]
        s = torch.ones_like(grown)
        for h_t in drawn:
            s = s * (1 - rates[:, None] * h_t)
        grown += s.abs().log()
    exponents = grown / steps
    return exponents.mean(1), exponents.std(1) / math.sqrt(chains)


def _gaussian(size: int) -> Tensor:
    """Curvatures of mean -0.2 and standard deviation 2 / sqrt(size), as equal-mass points."""
    mass = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    points: Tensor = -0.2 + 2 / math.sqrt(size) * torch.special.ndtri(mass)
    return points


def _gaussian_zero(size: int, low: float, high: float) -> float:
    """The zero of ``E log|1 - eta h|`` for the same curvatures, by adaptive quadrature."""
    from scipy.integrate import quad
    from scipy.optimize import brentq

    spread = 2 / math.sqrt(size)

    def exponent(eta: float) -> float:
        def density(z: float) -> float:
            size = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            return size * math.log(abs(1 - eta * (spread * z - 0.2)))

        pole = (1 / eta + 0.2) / spread  # the step that annihilates
        return float(quad(density, -12, 12, points=[min(pole, 12.0)], limit=500)[0])

    return float(brentq(exponent, low, high))


def run_transition(quick: bool) -> CaseResult:
    """Case 6: the exponent changes sign at the exact critical rate."""
    torch.manual_seed(6)
    h = torch.tensor(TWO_POINTS, dtype=torch.float64)
    rates = torch.linspace(0.05, 0.4, 15, dtype=torch.float64)
    mean, error = _simulate(h, rates, 64, 4000 if quick else 20_000)
    exact = lyapunov_exponent(h[:, None], rates)
    off = float(((mean - exact).abs() / error).max())
    sides = torch.sign(mean) == torch.sign(1 / 6 - rates)
    clear = exact.abs() > 4 * error
    found = exact_critical_rate(h)
    checks = [
        near("exact critical rate is (h1 + h2) / (h1 h2)", SGD, 1 / 6, found or math.nan, 1e-9),
        at_most("simulated exponents are exact, in standard errors", SGD, off, 4.0, "0"),
        at_most("rates on the wrong side of 1/6", SGD, float((clear & ~sides).sum()), 0.0),
        near("second-order critical rate", "derived", 0.16393, critical_rate(h), 1e-5),
    ]
    for size, low, high in ((1, 0.05, 0.15), (4, 0.2, 0.45)):
        points = _gaussian(size)
        root, second = exact_critical_rate(points) or math.nan, critical_rate(points)
        claim = (
            f"Gaussian curvature, batch {size}: zero of the exponent (second order {second:.4f})"
        )
        value = _gaussian_zero(size, low, high)
        checks.append(near(claim, "derived", value, root, 1e-3, relative=True))
    for size in (16, 64):
        points = _gaussian(size)
        second, exact_zero = critical_rate(points), exact_critical_rate(points)
        claim = f"Gaussian curvature, batch {size}: no zero, second order says {second:.2f}"
        checks.append(Check(claim, "derived", "none", str(exact_zero), "none", exact_zero is None))
    series = (
        Series("exact", rates.tolist(), exact.tolist()),
        Series("simulated", rates.tolist(), mean.tolist(), "points"),
    )
    figure = Curves(
        "learning rate", "Lyapunov exponent", series,
        "Curvature -1.2 or 1.0 with equal chance: SGD makes the saddle attractive above 1/6.",
        vertical=((1 / 6, "1/6"),),
    )  # fmt: skip
    return CaseResult(tuple(checks), figure)


CASES = (
    Case(5, "symmetric-block decay rate", THEOREM, run_block),
    Case(6, "Lyapunov transition of SGD", SGD, run_transition),
)
