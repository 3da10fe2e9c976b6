# SPDX-License-Identifier: Apache-2.0
"""Figures and page of `symfast.verify`."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from symfast.report.page import FigurePart, Part, TablePart, TextPart, facts, write_page
from symfast.sweep.plot import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from symfast.verify.case import Curves, Scale
    from symfast.verify.run import VerifyReport

#: Longer legends stand beside the axes.
CROWDED = 4
_INTRO = (
    "Every system is run here and compared with its closed form. 'Derived' marks formulas that "
    "are not printed in the paper named. A verdict rests on the tolerance beside it."
)


def write_verify(path: Path, report: "VerifyReport") -> Path:
    """Write the page: a summary, then a heading, a figure and a table per case."""
    parts: list[Part] = [TextPart(str(report), _INTRO), TablePart("Cases", _summary(report))]
    rows = pd.DataFrame(report.rows)
    for outcome in report.outcomes:
        case = outcome.case
        heading = f"{case.number}. {case.name}: {outcome.verdict}"
        parts.append(TextPart(heading, f"{case.source}. {outcome.seconds:.1f} s."))
        if outcome.result is not None and outcome.result.curves is not None:
            curves = outcome.result.curves
            parts.append(FigurePart(draw(curves), curves.caption or case.name))
        shown = rows[rows.case == case.number].drop(columns=["case", "name"])
        parts.append(TablePart("Checks", shown))
    return write_page(path, "symfast verify", facts({"quick": report.quick} | report.facts), parts)


def _summary(report: "VerifyReport") -> pd.DataFrame:
    names = ("case", "name", "source", "checks", "seconds", "verdict")
    rows = [
        (x.case.number, x.case.name, x.case.source, len(x.result.checks) if x.result else 0,
         round(x.seconds, 1), x.verdict)
        for x in report.outcomes
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(names))


def draw(curves: "Curves") -> "Figure":
    """Draw curves in the house style; numbers <= 0 sit at the floor of a log axis.

    Example:
        >>> from symfast.report.verify_page import draw
        >>> from symfast.verify.case import Curves, Series
        >>> draw(Curves("x", "y", (Series("a", [0.0, 1.0], [1.0, 2.0]),))).axes[0].get_xlabel()
        'x'
    """
    figure, (ax,) = new_figure(1)
    looks: dict[str, dict[str, Any]] = {
        "line": {"linewidth": 1.6},
        "dashes": {"linewidth": 1.6, "linestyle": "--"},
        "points": {"linestyle": "", "markersize": 4.5},
    }
    for index, series in enumerate(curves.series):
        number = index if series.colour is None else series.colour
        look = dict(looks[series.style])
        if series.style == "points":
            look["marker"] = MARKERS[number % len(MARKERS)]
        x = [_on_axis(value, curves.xscale, curves.floor) for value in series.x]
        y = [_on_axis(value, curves.yscale, curves.floor) for value in series.y]
        # matplotlib leaves out labels that begin with an underscore
        label = series.name or "_unnamed"
        ax.plot(x, y, color=COLOURS[number % len(COLOURS)], label=label, **look)
    for place, label in curves.vertical:
        ax.axvline(place, color="black", linestyle=":", linewidth=1.5)
        ax.annotate(label, (place, 0.02), xycoords=("data", "axes fraction"), fontsize=9)
    ax.set_xscale(curves.xscale)
    ax.set_yscale(curves.yscale)
    ax.set_xlabel(curves.xlabel)
    ax.set_ylabel(curves.ylabel)
    named = sum(bool(series.name) for series in curves.series)
    if named > CROWDED:  # would cover the curves
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    elif named > 1:
        ax.legend(frameon=False, fontsize=8)
    return figure


def _on_axis(value: float, scale: "Scale", floor: float) -> float:
    if not isfinite(value):
        return float("nan")
    return max(value, floor) if scale == "log" else value
