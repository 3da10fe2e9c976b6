# SPDX-License-Identifier: Apache-2.0
"""Truth case 7: SGD noise fixes the ratio of the layers' norms, gradient descent keeps it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from symfast.noise_balance import noise_balance
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most, near

SOURCE = "Ziyin et al. 2024, noise equilibrium"
CHAINS = 64
#: Starting norms of (u, w): two inits far apart on both sides of every equilibrium.
STARTS = ((2.0, 0.2), (0.2, 2.0))


@dataclass
class Rank1:
    """Chains of f = u (w x), (2 inits, chains, .), under teacher T = a b^T and label noise 1."""

    dx: int
    dy: int

    def __post_init__(self) -> None:
        a, b = (torch.randn(d, dtype=torch.float64) for d in (self.dy, self.dx))
        self.a, self.b = a / a.norm(), b / b.norm()
        shape = (2, CHAINS, 1)
        start = torch.tensor(STARTS, dtype=torch.float64)
        self.u = (start[:, 0, None, None] * self.a).expand(*shape[:2], -1).clone()
        self.w = (start[:, 1, None, None] * self.b).expand(*shape[:2], -1).clone()

    def step(self, x: Tensor, noise: Tensor, lr: float) -> None:
        """One sample for every chain."""
        inner = (self.w * x).sum(-1, keepdim=True)
        delta = self.u * inner - self.a * (x @ self.b)[..., None] - noise
        to_w = x * (delta * self.u).sum(-1, keepdim=True)
        self.u = self.u - lr * delta * inner
        self.w = self.w - lr * to_w

    def run(self, lr: float, steps: int) -> Tensor:
        """Ratio |u|^2 / |w|^2 (records, 2) over time, each a mean over chains and 500 steps."""
        block, ratios = 500, []
        for _ in range(steps // block):
            x = torch.randn(block, 2, CHAINS, self.dx, dtype=torch.float64)
            noise = torch.randn(block, 2, CHAINS, self.dy, dtype=torch.float64)
            u = w = torch.zeros(2, dtype=torch.float64)
            for t in range(block):
                self.step(x[t], noise[t], lr)
                if t % 10 == 0:
                    u = u + self.u.square().sum(-1).mean(-1)
                    w = w + self.w.square().sum(-1).mean(-1)
            ratios.append(u / w)
        return torch.stack(ratios)

    def descend(self, lr: float, steps: int) -> tuple[Tensor, Tensor]:
        """GD on the expected loss |u w^T - T|^2 / 2: final ratio and charge drift, both (2,)."""
        u, w = self.u[:, 0], self.w[:, 0]
        before = u.square().sum(-1) - w.square().sum(-1)
        for _ in range(steps):
            off = u[:, :, None] * w[:, None, :] - torch.outer(self.a, self.b)
            u, w = u - lr * (off @ w[..., None])[..., 0], w - lr * (off.mT @ u[..., None])[..., 0]
        uu, ww = u.square().sum(-1), w.square().sum(-1)
        return uu / ww, (uu - ww - before).abs()

    def imbalance(self) -> Tensor:
        """Relative imbalance (2,) of the Gamma matrices, each side a mean over chains."""
        x = torch.randn(2, CHAINS, 512, self.dx, dtype=torch.float64)
        f = (x @ self.w[..., None]) * self.u[..., None, :]
        noise = torch.randn(*x.shape[:-1], self.dy, dtype=torch.float64)
        delta = f - (x @ self.b)[..., None] * self.a - noise
        sides = noise_balance(x, delta, self.w[..., None, :], self.u[..., None])
        left, right = (side.mean(1).flatten() for side in (sides.input_side, sides.output_side))
        return (left - right).abs() / (left + right)


def _one(dx: int, dy: int, lr: float, steps: int) -> tuple[Tensor, Tensor, Rank1]:
    """Final ratio of each init (2,), over the second half of the time; the path; the chains."""
    torch.manual_seed(dx)
    net = Rank1(dx, dy)
    path = net.run(lr, steps)
    return path[len(path) // 2 :].mean(0), path, net


def _control() -> list[Check]:
    torch.manual_seed(7)
    ratios, drift = Rank1(8, 2).descend(0.01, 3000)
    checks = []
    for (u, w), ratio in zip(STARTS, ratios.tolist(), strict=True):
        charge = u**2 - w**2  # kept, and |u| |w| = |T| = 1 at the end
        kept = ((charge + math.sqrt(charge**2 + 4)) / 2) ** 2
        claim = f"GD from |u| = {u}, |w| = {w}: the ratio its charge demands"
        checks.append(near(claim, SOURCE, kept, ratio, 1e-2, relative=True))
    return [
        *checks,
        at_most("GD: drift of |u|^2 - |w|^2", SOURCE, float(drift.max()), 3e-3, "O(eta)"),
    ]


def run(quick: bool) -> CaseResult:
    """Both shapes from both inits; the bias at half the rate is smaller (full only)."""
    checks: list[Check] = []
    curves: list[Series] = []
    for dx, dy in ((8, 2), (2, 8)):
        theory, bias = dy / dx, {}
        for lr, steps in ((0.02, 20_000),) if quick else ((0.02, 40_000), (0.01, 100_000)):
            found, path, net = _one(dx, dy, lr, steps)
            bias[lr] = float((found / theory - 1).abs().max())
            for i, start in enumerate(("|u| > |w|", "|u| < |w|")):
                claim = f"(dx, dy) = ({dx}, {dy}), eta {lr}, start {start}: |u|^2/|w|^2 = dy/dx"
                checks.append(near(claim, SOURCE, theory, float(found[i]), 4 * lr, relative=True))
                if lr == 0.02:
                    x = [500.0 * (j + 1) for j in range(len(path))]
                    curves.append(Series(f"({dx}, {dy}), {start}", x, path[:, i].tolist()))
            balance = float(net.imbalance().max())
            claim = f"({dx}, {dy}), eta {lr}: both sides of the balance by Gamma matrices"
            checks.append(at_most(claim, SOURCE, balance, 4 * lr))
        if not quick:
            shrunk = bias[0.01] / bias[0.02] if bias[0.02] else 0.0
            claim = f"({dx}, {dy}): bias at eta .01 over bias at .02"
            # |u|^2/|w|^2 of (8, 2) is within the noise of theory at both rates
            noise_floor = bias[0.01] < 0.01
            words = "< 1, or below 1%"
            checks.append(Check(claim, SOURCE, "1/2", shrunk, words, shrunk < 1 or noise_floor))
    caption = "Rank-1 net under label noise: both inits meet at dy/dx (0.25 and 4)."
    figure = Curves("step", "|u|^2 / |w|^2", tuple(curves), caption, yscale="log")
    return CaseResult(tuple(checks + _control()), figure)


CASES = (Case(7, "noise equilibrium ratio", SOURCE, run),)
