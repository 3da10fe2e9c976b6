# SPDX-License-Identifier: Apache-2.0
"""Truth case 22: under weight decay the number of different neurons does not grow with width."""

import torch
from torch import Tensor

from symfast.problems import TwoLayer
from symfast.sweep import sweep
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least, at_most

SOURCE = "Ziyin et al. 2025, Parameter Symmetry Potentially Unifies (conjecture)"
WIDTHS = (4, 8, 16, 32, 64)
DECAYS = (0.0, 1e-3, 1e-2)
TEACHER = 3


def teacher() -> tuple[Tensor, Tensor]:
    """256 samples of a tanh network 6-3-1."""
    g = torch.Generator().manual_seed(22)
    X = torch.randn(256, 6, generator=g, dtype=torch.float64)
    W = torch.linalg.qr(torch.randn(6, TEACHER, generator=g, dtype=torch.float64)).Q
    return X, torch.tanh(2 * X @ W) @ torch.tensor([1.0, -1.5, 2.0], dtype=torch.float64)


def run(quick: bool) -> CaseResult:
    """Tanh students of 4 to 64 units; whole trainings in one kernel call per width."""
    X, Y = teacher()
    seeds, steps = (2, 6_000) if quick else (8, 20_000)
    counts = torch.zeros(len(WIDTHS), len(DECAYS), dtype=torch.float64)
    for i, width in enumerate(WIDTHS):
        problem = TwoLayer(X, Y, hidden=width, activation="tanh", bias=False)
        table = sweep(
            problem, steps=steps, lr=0.2, weight_decay=DECAYS, batch_size=32, seeds=seeds
        ).table
        means = table.groupby("weight_decay").distinct.mean()
        counts[i] = torch.tensor([float(means[lam]) for lam in DECAYS])
    strong, none = counts[:, -1], counts[:, 0]
    checks = (
        at_most(f"decay 0.01, widths {WIDTHS[0]} to {WIDTHS[-1]}: most distinct units", SOURCE,
                float(strong.max()), TEACHER + 1, f"{TEACHER}, the teacher's"),
        at_most("... growth from width 16 to 64", SOURCE, float(strong[-1] - strong[2]), 0.5),
        at_least("no decay: growth from width 4 to 64", "control", float(none[-1] - none[0]), 2.0,
                 "grows"),
    )  # fmt: skip
    series = tuple(
        Series(f"decay {lam:g}", WIDTHS, counts[:, i].tolist()) for i, lam in enumerate(DECAYS)
    )
    caption = f"Distinct units (up to sign, 10%) of tanh students; the teacher has {TEACHER}."
    return CaseResult(checks, Curves("hidden units", "distinct units", series, caption))


CASES = (Case(22, "distinct neurons against width", SOURCE, run),)
