# SPDX-License-Identifier: Apache-2.0
"""Truth case 24: Lie Symmetry Net beside a plain PINN on Black-Scholes, at small scale."""

import torch
from torch import Tensor, nn

from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most
from symfast.verify.conservation import K, R, T, exact, network, residual, weight

SOURCE = "Jiang et al. 2025 (Lie Symmetry Net), small scale"
HIGHEST = 20.0
NAMES = ("PINN", "LSN")


def _points(n: int) -> tuple[Tensor, Tensor]:
    """Prices in [1e-7, 20] as published, and times in [0, 1]."""
    x = 1e-7 + HIGHEST * torch.rand(n, dtype=torch.float64)
    return x.requires_grad_(), (T * torch.rand(n, dtype=torch.float64)).requires_grad_()


def price(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """The network's price of the call."""
    value: Tensor = net(torch.stack([x, t], -1))[:, 0]
    return value


def risk(net: nn.Module, lie: bool) -> Tensor:
    """``1e-3 PDE + boundary + 0.1 payoff`` on fresh points, and the conservation law if told."""
    x, t = _points(50)
    off = residual(price(net, x, t), x, t)
    total = 1e-3 * off.square().mean()
    if lie:  # the law is this multiple of the residual: case 19
        total = total + (weight(x, t) * off).square().mean()
    _, t = _points(250)
    low, high = torch.zeros_like(t), torch.full_like(t, HIGHEST)
    total = total + price(net, low, t).square().mean() / 2
    wanted = HIGHEST - K * torch.exp(-R * (T - t))
    total = total + (price(net, high, t) - wanted).square().mean() / 2
    x, _ = _points(250)
    payoff = price(net, x, torch.full_like(x, T)) - (x - K).clamp_min(0)
    return total + 0.1 * payoff.square().mean()


def error(net: nn.Module) -> float:
    """Relative error of the price on a grid."""
    side = torch.linspace(0.1, HIGHEST, 60, dtype=torch.float64)
    x, t = torch.meshgrid(side, torch.linspace(0, 0.95, 20, dtype=torch.float64), indexing="ij")
    x, t = x.flatten(), t.flatten()
    with torch.no_grad():
        wanted = exact(x, t)
        return float((price(net, x, t) - wanted).norm() / wanted.norm())


def train(lie: bool, seed: int, steps: int, records: int) -> list[float]:
    """Adam 1e-3 on a tanh network of 4 x 32; the error over time."""
    torch.manual_seed(seed)
    net = network(width=32, depth=4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    path = [error(net)]
    for step in range(steps):
        optimizer.zero_grad()
        risk(net, lie).backward()
        optimizer.step()
        if (step + 1) % (steps // records) == 0:
            path.append(error(net))
    return path


def run(quick: bool) -> CaseResult:
    """Same starts, points and steps for both; the published gain is reported, not judged."""
    seeds, steps, records = (1, 150, 6) if quick else (3, 1_000, 20)
    paths = [
        torch.tensor([train(lie, seed, steps, records) for seed in range(seeds)]).mean(0)
        for lie in (False, True)
    ]
    ends = [float(path[-1]) for path in paths]
    checks = [
        at_most(f"{name}: error after {steps} steps over the untrained one's",
                SOURCE, float(path[-1] / path[0]), 0.95, "falls")
        for name, path in zip(NAMES, paths, strict=True)
    ]  # fmt: skip
    gain = ends[0] / ends[1]
    checks.append(
        Check("error of the PINN over the LSN's (published after 200,000 steps: above 10)", SOURCE,
              "reported, not judged", gain, "> 0", gain > 0)
    )  # fmt: skip
    x = [steps / records * i for i in range(records + 1)]
    series = tuple(Series(n, x, path.tolist()) for n, path in zip(NAMES, paths, strict=True))
    caption = "Black-Scholes, tanh 4 x 32, Adam 1e-3: error of the price, mean over seeds."
    figure = Curves("step", "relative error", series, caption, yscale="log")
    return CaseResult(tuple(checks), figure)


CASES = (Case(24, "Lie Symmetry Net beside a PINN", SOURCE, run),)
