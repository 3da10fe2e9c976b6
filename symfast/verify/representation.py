# SPDX-License-Identifier: Apache-2.0
"""Truth case 18: weight decay aligns representations, gradients and weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symfast.alignment import Alignments, alignments, correlation
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least, at_most

SOURCE = "Ziyin et al. 2025, canonical representation hypothesis"
SIZES = (20, 40, 40, 8)
DECAYS = (0.0, 1e-3, 5e-3, 2e-2)
#: Names of the six pairs, and those that decay must create.
NAMES = Alignments._fields
CREATED = ("HaZa", "GaZa", "GbZb")


@dataclass
class Students:
    """Tanh networks 20-40-40-8 (decays, seeds), trained by SGD on a noisy tanh teacher."""

    seeds: int

    def __post_init__(self) -> None:
        torch.manual_seed(18)
        batch = (len(DECAYS), self.seeds)
        self.teacher = self._draw(self.seeds)  # one teacher a seed, shared by the decays
        start = self._draw(self.seeds)
        self.weights = [W.expand(*batch, -1, -1).clone() for W in start]
        self.lam = torch.tensor(DECAYS, dtype=torch.float64)[:, None, None, None]

    @staticmethod
    def _draw(seeds: int) -> list[Tensor]:
        return [
            torch.randn(seeds, b, a, dtype=torch.float64) / (3 * a) ** 0.5  # as torch.nn.Linear
            for a, b in zip(SIZES, SIZES[1:], strict=False)
        ]

    @staticmethod
    def forward(weights: list[Tensor], x: Tensor) -> list[Tensor]:
        """Inputs of every layer, and the output: each (..., n, d)."""
        layers = [x]
        for W in weights[:-1]:
            layers.append(torch.tanh(layers[-1] @ W.mT))
        layers.append(layers[-1] @ weights[-1].mT)
        return layers

    def gradients(self, n: int) -> tuple[list[Tensor], list[Tensor]]:
        """Layer inputs h and gradients with respect to pre-activations g, on n fresh samples."""
        x = torch.randn(self.seeds, n, SIZES[0], dtype=torch.float64)
        target = self.forward(self.teacher, x)[-1]
        layers = self.forward(self.weights, x)
        noise = 0.3 * torch.randn_like(target)  # the same for every decay
        g = [2 * (layers[-1] - target - noise)]
        for W, h in zip(self.weights[:0:-1], layers[-2:0:-1], strict=True):
            g.insert(0, (g[0] @ W) * (1 - h.square()))
        return layers[:-1], g

    def train(self, steps: int) -> None:
        """SGD, batch 8, rate 0.02, decay lam, on the squared error summed over outputs."""
        for _ in range(steps):
            h, g = self.gradients(8)
            for i, W in enumerate(self.weights):
                self.weights[i] = W - 0.02 * (g[i].mT @ h[i] / 8 + self.lam * W)

    def align(self, centred: bool = False) -> Tensor:
        """Six alignments of the middle layer (6, decays): mean over seeds, on 4096 samples."""
        h, g = self.gradients(4096)
        found = alignments(h[1], g[1], self.weights[1], centred=centred)
        return torch.stack(found).mean(-1)

    def control(self) -> float:
        """Largest mean |alignment| of H_a, G_a with the entries of Z_a shuffled, ten times."""
        h, g = self.gradients(4096)
        H, G, Z = h[1].mT @ h[1], g[1] @ self.weights[1], self.weights[1].mT @ self.weights[1]
        G = G.mT @ G
        found = []
        for _ in range(10):
            order = torch.randperm(Z[0, 0].numel())
            shuffled = Z.flatten(-2)[..., order].view_as(Z)
            found += [correlation(H, shuffled).abs(), correlation(G, shuffled).abs()]
        return float(torch.stack(found).mean(0).max())


def run(quick: bool) -> CaseResult:
    """Train at four decays and correlate."""
    students = Students(2 if quick else 4)
    students.train(12_000)
    found, centred = students.align(), students.align(centred=True)
    by = dict(zip(NAMES, found, strict=True))
    rise = max(float((a - b).max()) for a, b in zip(found.T, found.T[1:], strict=False))
    weak = max(float(by[name][0]) for name in CREATED)
    checks = (
        at_least("smallest of six alignments at decay 5e-3", SOURCE, float(found[:, 2].min()), 0.85,
                 ">= .9 +- .05"),
        at_least("smallest of six alignments at decay 2e-2", SOURCE, float(found[:, 3].min()), 0.85,
                 ">= .9 +- .05"),
        at_most("HaZa, GaZa, GbZb without decay", SOURCE, weak, 0.65, "<= .6 +- .05"),
        at_most("largest fall of an alignment as decay grows", SOURCE, rise, 0.03),
        at_least("centred and normalised, decay 5e-3: smallest", SOURCE,
                 float(centred[:, 2].min()), 0.7),
        at_most("control: entries of Z shuffled", SOURCE, students.control(), 0.1, "0"),
    )  # fmt: skip
    x = [lam or 1e-4 for lam in DECAYS]  # zero decay is drawn at the left edge
    series = tuple(Series(name, x, by[name].tolist()) for name in NAMES)
    caption = "Pearson correlation of Gram matrices, middle layer of 20-40-40-8 (left edge: 0)."
    return CaseResult(checks, Curves("weight decay", "alignment", series, caption, "log"))


CASES = (Case(18, "representation alignment vs decay", SOURCE, run),)
