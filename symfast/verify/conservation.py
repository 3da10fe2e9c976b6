# SPDX-License-Identifier: Apache-2.0
"""Truth case 19: the Lie-symmetry risk of Black-Scholes is a weighted PDE residual."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most

SOURCE = "Jiang et al. 2025, Lie Symmetry Net; identity derived"
#: Rate, volatility, strike and horizon of the published set-up, and the free constants.
R, S, K, T, A, B = 0.1, 0.4, 10.0, 1.0, 1.0, 1.0
Function: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def slope(f: Tensor, x: Tensor) -> Tensor:
    """df/dx, sample by sample, itself differentiable; zero where f does not depend on x."""
    (found,) = torch.autograd.grad(
        f.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def residual(u: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """``u_t + s^2 x^2 u_xx / 2 + r x u_x - r u``."""
    u_x = slope(u, x)
    found: Tensor = slope(u, t) + S**2 * x.square() * slope(u_x, x) / 2
    return found + R * x * u_x - R * u


def conservation(u: Tensor, x: Tensor, t: Tensor, free: Callable[[Tensor], Tensor]) -> Tensor:
    """``D_t T1 + D_x T2`` of the published currents, with l(t) = ``free(t)`` and g(t) = t^2."""
    u_x, u_t, l = slope(u, x), slope(u, t), free(t)
    fall = torch.exp(-R * t)
    T1 = -u_x * l + A / x + 2 * B * u / (S**2 * x) * fall
    T2 = u_t * l + u * slope(l, t) + t.square() - B * u * fall
    T2 = T2 + B * (u_x + 2 * R * u / (S**2 * x)) * x * fall
    return slope(T1, t) + slope(T2, x)


def weight(x: Tensor, t: Tensor) -> Tensor:
    """What the residual is multiplied by: ``2 b e^{-r t} / (s^2 x)``."""
    return 2 * B * torch.exp(-R * t) / (S**2 * x)


def exact(x: Tensor, t: Tensor) -> Tensor:
    """The price of a European call."""
    spread = S * torch.sqrt(T - t)
    d1 = (torch.log(x / K) + (R + S**2 / 2) * (T - t)) / spread
    paid = K * torch.exp(-R * (T - t)) * torch.special.ndtr(d1 - spread)
    price: Tensor = x * torch.special.ndtr(d1) - paid
    return price


def network(width: int = 50, depth: int = 8) -> torch.nn.Module:
    """Tanh layers as published: Xavier weights, no bias at the start."""
    sizes = [2] + [width] * depth + [1]
    layers: list[torch.nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        linear = torch.nn.Linear(a, b, dtype=torch.float64)
        torch.nn.init.xavier_normal_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        layers += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def _points(n: int) -> tuple[Tensor, Tensor]:
    x = (0.1 + 19.9 * torch.rand(n, dtype=torch.float64)).requires_grad_()
    return x, (0.95 * torch.rand(n, dtype=torch.float64)).requires_grad_()


def identity_error(f: Function, n: int, free: Callable[[Tensor], Tensor]) -> float:
    """Largest deviation of the conservation law from weight x residual, relative to the law."""
    x, t = _points(n)
    u = f(x, t)
    law, weighted = conservation(u, x, t, free), weight(x, t) * residual(u, x, t)
    return float((law - weighted).detach().abs().max() / law.detach().abs().max())


def run(quick: bool) -> CaseResult:
    """The identity on a random network and on the exact price."""
    torch.manual_seed(19)
    net = network()

    def u(x: Tensor, t: Tensor) -> Tensor:
        value: Tensor = net(torch.stack([x, t], -1))[:, 0]
        return value

    n = 200 if quick else 2000
    checks: list[Check] = []
    for name, free in (("t", lambda t: t), ("sin 3t", lambda t: torch.sin(3 * t))):
        claim = f"conservation = 2b e^(-rt)/(s^2 x) * residual, random net, l(t) = {name}"
        checks.append(at_most(claim, SOURCE, identity_error(u, n, free), 1e-10))
    x, t = _points(n)
    law = conservation(exact(x, t), x, t, lambda t: t)
    checks.append(
        at_most(
            "exact price: conservation residual", SOURCE, float(law.detach().abs().max()), 1e-10
        )
    )
    with torch.no_grad():
        x0 = torch.logspace(-7, math.log10(20), 60, dtype=torch.float64)
        relative = weight(x0, torch.zeros(())).square() / 1e-3
    series = (Series("LSN over PINN weight of residual^2", x0.tolist(), relative.tolist()),)
    caption = "The conservation risk weights the same residual, without bound near x = 0."
    return CaseResult(
        tuple(checks), Curves("price x", "relative weight", series, caption, "log", "log")
    )


CASES = (Case(19, "Lie-symmetry risk is a weighted residual", SOURCE, run),)
