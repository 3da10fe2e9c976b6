# SPDX-License-Identifier: Apache-2.0
"""Figures and page of the demo."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor

from symfast.files import write_whole
from symfast.problems import SUPPORT
from symfast.report.page import FigurePart, Part, TablePart, TextPart, facts, png_bytes, write_page
from symfast.sweep.plot import COLOURS, band, new_figure
from symfast.sweep.result import SweepResult, cell_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Foot of the logarithmic axis; smaller violations, exact zeros included, are drawn on it.
FLOOR = 1e-17


@dataclass(frozen=True)
class Check:
    """One line of the table of claims."""

    claim: str
    expected: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Timing:
    """Seconds for the whole sweep, and how they were found."""

    name: str
    seconds: float
    note: str


def write_demo(
    out: Path,
    result: SweepResult,
    mirror: pd.DataFrame,
    threshold: float,
    lasso: Tensor,
    names: list[str],
    checks: Sequence[Check],
    timings: Sequence[Timing],
) -> None:
    """Write ``sweep.png``, ``threshold.png`` and ``report.html`` into ``out``."""
    path, constraint = path_figure(result, lasso, names), threshold_figure(mirror)
    write_whole(out / "sweep.png", png_bytes(path))
    write_whole(out / "threshold.png", png_bytes(constraint))
    seeds = result.table.seed.nunique()
    verdicts = pd.DataFrame([vars(check) for check in checks])
    verdicts["holds"] = ["holds" if check.holds else "FAILS" for check in checks]
    speed = pd.DataFrame([vars(timing) for timing in timings])
    speed["faster"] = [f"{t.seconds / timings[0].seconds:,.0f}x" for t in timings]
    parts: list[Part] = [
        TextPart("Weight decay on product factors is a sparse penalty", _INTRO),
        FigurePart(
            path,
            f"Left: depth-2 weights of {seeds} seeds (dots) on scikit-learn's Lasso path (lines). "
            f"Right: share of weights of size at most {SUPPORT:g}; median and range over "
            f"{seeds} seeds.",
        ),
        FigurePart(
            constraint,
            f"Three swap mirrors on real data, λ* = {threshold:.4f}. Median and range over {seeds} "
            f"seeds; right, below {FLOOR:g} points are drawn at the foot.",
        ),
        TablePart("Claims", verdicts),
        TablePart("Time for the whole sweep", speed),
        TablePart("Cells, averaged over seeds", cell_table(result.table, result.axes)),
    ]
    write_page(out / "report.html", "symfast demo", facts(result.config), parts)


_INTRO = (
    "Every weight of a linear regression on the diabetes data is a product of D factors, trained "
    "by plain SGD with momentum and weight decay. The decay then acts as λ‖w‖^(2/D): the Lasso for "
    "D = 2, sharper penalties for D = 3 and 4. All trainings ran inside one kernel call."
)


def path_figure(result: SweepResult, lasso: Tensor, names: list[str]) -> "Figure":
    """Depth-2 weights over the Lasso path, and sparsity over the penalty for every depth."""
    figure, (left, right) = new_figure(2)
    table = result.table
    rows = (table.depth == 2).to_numpy()
    lam = np.unique(table.weight_decay)[::-1]
    weights = result.weights[rows]
    for i in range(len(names)):
        colour = COLOURS[i % len(COLOURS)]
        dashes = "-" if i < len(COLOURS) else "--"
        left.plot(lam, lasso[:, i], color=colour, linestyle=dashes, linewidth=1.3)
        left.plot(
            table.weight_decay[rows], weights[:, i], ".", color=colour, markersize=4, alpha=0.6
        )
    _label_ends(left, float(lam[-1]), lasso[-1].tolist(), names)
    left.set_xscale("log")
    left.set_xlim(lam[-1] * 0.62, lam[0] * 1.1)
    left.set_xlabel("penalty weight λ")
    left.set_ylabel("weight (standardised units)")
    left.set_title("depth 2: SGD (dots) on the Lasso path (lines)", fontsize=10)
    for style, (depth, group) in enumerate(table.groupby("depth")):
        band(right, group, "weight_decay", "sparsity", style, f"D = {depth}")
    share = (lasso.abs() <= SUPPORT).double().mean(-1)
    reference = {"color": "black", "linestyle": ":", "linewidth": 2.2, "zorder": 5}
    right.plot(lam, share, label="Lasso, scikit-learn", **reference)  # type: ignore[arg-type]
    right.set_xscale("log")
    right.set_ylim(-0.03, 1.03)
    right.set_xlabel("penalty weight λ")
    right.set_ylabel("sparsity (share of weights ≤ 1e-4)")
    seeds = table.seed.nunique()
    penalty = r"$\lambda\,\|w\|_{2/D}^{2/D}$"
    right.set_title(f"penalty {penalty}: median and range, {seeds} seeds", fontsize=10)
    right.legend(frameon=False)
    return figure


def _label_ends(ax: "Axes", x: float, heights: list[float], names: list[str]) -> None:
    """Names at the left ends of the lines, pushed apart where they would overlap."""
    gap = (max(heights) - min(heights)) / 22
    last = -np.inf
    for height, name in sorted(zip(heights, names, strict=True)):
        last = max(height, last + gap)
        colour = COLOURS[names.index(name) % len(COLOURS)]
        ax.text(x * 0.93, last, name, ha="right", va="center", fontsize=8, color=colour)


def threshold_figure(table: pd.DataFrame) -> "Figure":
    """Constraint violation over the penalty weight in units of the threshold, both scales."""
    figure, (linear, log) = new_figure(2)
    drawn = table.assign(violation=table.violation.clip(lower=FLOOR))
    labels = {
        2: r"DCS, two factors: $\lambda\,\|O^{\!\top}\theta\|_1$",
        1: r"quadratic penalty: $\lambda\,\|O^{\!\top}\theta\|_2^2$",
    }
    for ax in (linear, log):
        for style, depth in enumerate((2, 1)):
            band(ax, drawn[drawn.depth == depth], "ratio", "violation", style, labels[depth])
        ax.axvline(1, color="black", linestyle=":", linewidth=1.5)
        ax.set_xscale("log")
        ax.set_xlabel("penalty weight λ / λ*")
        ax.set_ylabel("constraint violation max|Oᵀθ|")
    linear.set_ylim(bottom=-0.005)
    linear.set_title("mirror constraint on real data", fontsize=10)
    linear.legend(frameon=False, loc="upper right")
    log.text(1.06, 1e-8, "exact-penalty\nthreshold λ*", fontsize=9)
    log.set_yscale("log")
    ticks = [FLOOR, 1e-12, 1e-8, 1e-4, 1]
    log.set_yticks(ticks, [r"$<10^{-17}$", *(f"$10^{{{round(np.log10(t))}}}$" for t in ticks[1:])])
    log.minorticks_off()
    log.set_title("exact above λ*; a quadratic penalty never is", fontsize=10)
    return figure
