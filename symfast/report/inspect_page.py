# SPDX-License-Identifier: Apache-2.0
"""Figures and page of an inspection."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from symfast.diagnosis import Diagnosis
from symfast.report.page import FigurePart, Part, TablePart, TextPart, write_page
from symfast.sweep.plot import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from symfast.inspect_report import InspectReport

#: Groups drawn in the figures of one page; the table has all.
CURVES, MAPS, BARS = 48, 12, 120
#: Foot of the logarithmic axis of spectra.
FLOOR = 1e-10


def write_inspection(path: str | Path, report: "InspectReport") -> Path:
    """Write the page of one inspection.

    Example:
        >>> import symfast as sf, tempfile, torch
        >>> from symfast.report.inspect_page import write_inspection
        >>> report = sf.inspect(torch.nn.Linear(3, 2))
        >>> page = write_inspection(tempfile.mkdtemp() + "/a.html", report)
        >>> page.read_text().count("data:image/png;base64,")
        3
    """
    measured = [d for d in report.diagnoses if d.values is not None]
    parts: list[Part] = [TextPart("What collapsed", report.summary() + ".")]
    parts += _findings(report.diagnoses)
    if measured:
        parts.append(FigurePart(rank_figure(measured), _BARS + _some(measured, BARS)))
        parts.append(FigurePart(spectrum_figure(measured), _CURVES + _some(measured, CURVES)))
    mapped = [d for d in measured if d.distances is not None]
    if mapped:
        parts.append(FigurePart(distance_figure(mapped), _MAPS + _some(mapped, MAPS)))
    table = report.table
    table = table.dropna(axis="columns", how="all").astype(object).where(lambda x: x.notna(), "–")
    parts.append(TablePart("Every group", table))
    facts = {"model": report.title, "seconds": f"{report.seconds:.2f}"}
    facts |= {f"note {i + 1}": note for i, note in enumerate(report.notes)}
    return write_page(path, f"symfast inspect: {Path(report.title).name}", facts, parts)


_BARS = (
    "Share of the largest possible rank min(m, n): numerical rank, effective rank (entropy of the "
    "singular values) and stable rank (energy over its largest part)."
)
_CURVES = "Singular values of every unit matrix over its largest, by relative index."
_MAPS = (
    "Distances of units over the root mean square norm, units in order, smallest of each tile of "
    "at most 64 x 64; dark off the diagonal means equal units."
)


def _some(found: Sequence[Diagnosis], drawn: int) -> str:
    return f" The first {drawn} of {len(found)} groups are drawn." if len(found) > drawn else ""


def _findings(diagnoses: Sequence[Diagnosis]) -> list[Part]:
    """One paragraph per finding that names groups and units."""
    sentences = {
        "dead": "Dead units: nothing is written to them",
        "constant": "Constant units: only a bias is written",
        "unread": "Unread units: nothing reads them",
        "duplicates": "Duplicate units: they repeat an earlier one",
        "dormant": "Dormant units on the example data",
    }
    parts: list[Part] = []
    for name, sentence in sentences.items():
        places = [
            f"{d.name} ({', '.join(map(str, d.units[name][:12]))}"
            f"{', …' if len(d.units[name]) > 12 else ''})"
            for d in diagnoses
            if d.units.get(name)
        ]
        if places:
            more = f"; and {len(places) - 20} more groups" if len(places) > 20 else ""
            parts.append(TextPart(sentence, "; ".join(places[:20]) + more + "."))
    return parts


def rank_figure(diagnoses: Sequence[Diagnosis]) -> "Figure":
    """Numerical, effective and stable rank of every group over min(m, n).

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.report.inspect_page import rank_figure
        >>> len(rank_figure(sf.inspect(torch.nn.Linear(3, 2)).diagnoses).axes[0].collections)
        3
    """
    shown = diagnoses[:BARS]
    figure, (ax,) = new_figure(1, width=12.8, height=4.4)
    x = np.arange(len(shown))
    full = np.array([max(min(d.row["m"], d.row["n"]), 1) for d in shown])
    for colour, marker, column in zip(
        COLOURS, "os^", ("rank", "effective_rank", "stable_rank"), strict=False
    ):
        y = np.array([d.row[column] for d in shown]) / full
        label = "numerical rank" if column == "rank" else column.replace("_", " ")
        ax.scatter(x, y, s=16, color=colour, marker=marker, label=label)
    ax.set_ylim(-0.03, 1.05)
    ax.set_ylabel("rank / min(m, n)")
    step = max(1, len(shown) // 40)
    ax.set_xticks(x[::step], [_short(d.name) for d in shown[::step]], rotation=90, fontsize=6)
    ax.legend(frameon=False, ncols=3, loc="lower right", fontsize=8)
    return figure


def spectrum_figure(diagnoses: Sequence[Diagnosis]) -> "Figure":
    """Singular values over the largest, linear and logarithmic.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.report.inspect_page import spectrum_figure
        >>> len(spectrum_figure(sf.inspect(torch.nn.Linear(3, 2)).diagnoses).axes)
        2
    """
    shown = [d for d in diagnoses[:CURVES] if d.values is not None and len(d.values)]
    figure, axes = new_figure(2)
    for number, d in enumerate(shown):
        assert d.values is not None
        s = d.values.numpy() / max(float(d.values[0]), 1e-300)
        index = (np.arange(len(s)) + 0.5) / len(s)
        colour = COLOURS[number % len(COLOURS)]
        label = _short(d.name) if len(shown) <= len(COLOURS) else None
        for ax in axes:
            ax.plot(index, np.maximum(s, FLOOR), label=label, color=colour, linewidth=1, alpha=0.8)
    axes[1].set_yscale("log")
    for ax in axes:
        ax.set_xlabel("index / number of singular values")
        ax.set_ylabel("singular value / largest")
    if 0 < len(shown) <= len(COLOURS):
        axes[0].legend(frameon=False, fontsize=7)
    return figure


def distance_figure(diagnoses: Sequence[Diagnosis]) -> "Figure":
    """Maps of unit distances, those with the most equal units first.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.report.inspect_page import distance_figure
        >>> len(distance_figure(sf.inspect(torch.nn.Linear(3, 2)).diagnoses).axes)
        2
    """
    from matplotlib.figure import Figure

    order = sorted(diagnoses, key=lambda d: d.row.get("to_swap") or 0.0)[:MAPS]
    columns = min(4, len(order))
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), dpi=110, layout="constrained")
    image = None
    for number, d in enumerate(order):
        ax = figure.add_subplot(rows, columns, number + 1)
        assert d.distances is not None
        image = ax.imshow(d.distances.numpy(), cmap="viridis", vmin=0, vmax=1.5, origin="upper")
        ax.set_title(_short(d.name, 34), fontsize=7)
        ax.set_xticks([])
        ax.set_yticks([])
    if image is not None:
        figure.colorbar(image, ax=figure.axes, shrink=0.6, label="distance / rms norm")
    return figure


def _short(name: str, length: int = 40) -> str:
    return name if len(name) <= length else "…" + name[-length + 1 :]
