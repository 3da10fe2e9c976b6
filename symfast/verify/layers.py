# SPDX-License-Identifier: Apache-2.0
"""Truth case 23: the charges between all layers of a deep net, predicted by Gamma matrices."""

import torch
from torch import Tensor

from symfast.noise_balance import noise_balance
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most

SOURCE = "Ziyin et al. 2024, noise equilibrium; discrete form derived"
SIZES = (6, 4, 4, 5)
CHAINS, LR, LAM, NOISE = 128, 0.02, 0.02, 0.5
FRESH = 16  # samples per chain and record that the Gamma matrices are measured on


class Chains:
    """Independent runs of a linear net W3 W2 W1 from one start, batches of one sample."""

    def __init__(self) -> None:
        self.weights = [
            (torch.randn(b, a, dtype=torch.float64) / a**0.5).repeat(CHAINS, 1, 1)
            for a, b in zip(SIZES, SIZES[1:], strict=False)
        ]
        self.teacher = torch.randn(SIZES[-1], SIZES[0], dtype=torch.float64) / 2
        # unequal inputs and noises: else both sides of the balance are multiples of each other
        self.spread = torch.linspace(0.4, 1.4, SIZES[0], dtype=torch.float64)
        self.noise = NOISE * torch.linspace(0.3, 1.7, SIZES[-1], dtype=torch.float64)

    def slopes(self, n: int) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs of every layer and gradients at every output, each (chains, n, d)."""
        h = [torch.randn(CHAINS, n, SIZES[0], dtype=torch.float64) * self.spread]
        target = h[0] @ self.teacher.T
        target = target + torch.randn_like(target) * self.noise
        for W in self.weights:
            h.append(h[-1] @ W.mT)
        delta = [h[-1] - target]
        for W in self.weights[:0:-1]:
            delta.insert(0, delta[0] @ W)
        return h[:-1], delta

    def step(self) -> None:
        """One sample for every chain, with weight decay."""
        h, delta = self.slopes(1)
        for W, x, d in zip(self.weights, h, delta, strict=True):
            W.mul_(1 - LR * LAM).sub_(LR * d.mT @ x)

    def charges(self) -> tuple[Tensor, Tensor]:
        """Charges (pairs, 4, 4) that are there, and those the Gamma matrices predict."""
        h, delta = self.slopes(FRESH)
        there, predicted = [], []
        for i in range(len(self.weights) - 1):
            sides = noise_balance(h[i], delta[i + 1], self.weights[i], self.weights[i + 1])
            there.append(sides.charge.mean(0))
            # the mean of the discrete law: (1 - (1 - eta lam)^2) C = eta^2 (output - input)
            flow = sides.predicted_charge(LR, LAM) / (1 - LR * LAM / 2)
            predicted.append(flow.mean(0))
        return torch.stack(there), torch.stack(predicted)


def run(quick: bool) -> CaseResult:
    """Burn in, then average both over time."""
    torch.manual_seed(23)
    chains = Chains()
    first, _ = chains.charges()
    for _ in range(4_000 if quick else 8_000):
        chains.step()
    records = []
    for step in range(4_000 if quick else 24_000):
        chains.step()
        if step % 20 == 0:
            records.append(torch.stack(chains.charges()))
    there, predicted = torch.stack(records).mean(0)
    limit = 0.15 if quick else 0.1
    checks: list[Check] = []
    ends = [float(there.min()), float(there.max())]
    series = [Series("equal", ends, ends, "dashes", 2)]
    for i in range(len(there)):
        off = float((there[i] - predicted[i]).norm() / there[i].norm())
        moved = float((there[i] - first[i]).norm() / there[i].norm())
        name = f"layers {i + 1} and {i + 2}"
        checks += [
            at_most(f"{name}: charge matrix against eta/(2 lam) (U^T G_U U - W G_W W^T)", SOURCE,
                    off, limit),
            at_least(f"{name}: the charge at the start was elsewhere, by", "control", moved, 0.5),
        ]  # fmt: skip
        x, y = predicted[i].flatten().tolist(), there[i].flatten().tolist()
        series.append(Series(name, x, y, "points", i))
    caption = "Entries of the charge matrices of a linear net 6-4-4-5 under SGD, mean of 128 runs."
    curves = Curves("predicted by the Gamma matrices", "measured", tuple(series), caption)
    return CaseResult(tuple(checks), curves)


CASES = (Case(23, "noise equilibrium of every layer", SOURCE, run),)
