# SPDX-License-Identifier: Apache-2.0
"""Figures for a page that show their values under the pointer: plain SVG, no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from symfast.sweep.plot import COLOURS, LABELS

if TYPE_CHECKING:
    import pandas as pd

    from symfast.problems.theory import Prediction

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 680, 420, 78, 54, 16, 150


@dataclass(frozen=True)
class HoverPart:
    """An SVG figure with its caption."""

    svg: str
    caption: str
    kind: str = "svg"


class Frame:
    """Maps values to the plot's area; logarithmic where they are positive and wide."""

    def __init__(self, values: Sequence[float], low: float, high: float) -> None:
        finite = [x for x in values if math.isfinite(x)] or [0.0, 1.0]
        self.least, self.most = min(finite), max(finite)
        self.log = self.least > 0 and self.most > 10 * self.least
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        """Position of a value; those outside lie on the edge."""
        a, b, x = self.least, self.most, min(max(value, self.least), self.most)
        if self.log:
            a, b, x = math.log(a), math.log(b), math.log(x)
        return self.low + (self.high - self.low) * ((x - a) / (b - a) if b > a else 0.5)

    def ticks(self) -> list[float]:
        """Five values, evenly placed."""
        if self.log:
            return [float(x) for x in np.geomspace(self.least, self.most, 5)]
        return [float(x) for x in np.linspace(self.least, self.most, 5)]


def hover_map(table: "pd.DataFrame", metric: str, x: str, y: str) -> HoverPart:
    """Heat map of the mean over seeds; every cell shows mean, range, seeds and lost runs.

    Example:
        >>> import pandas as pd
        >>> from symfast.report.hover import hover_map
        >>> rows = {"lr": [1.0, 2.0], "depth": [2, 3], "loss": [1, 2], "status": "finished"}
        >>> part = hover_map(pd.DataFrame(rows), "loss", "lr", "depth")
        >>> part.svg.count("<title>")
        2
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    xs, ys = sorted(table[x].unique()), sorted(table[y].unique())
    groups = {key: rows for key, rows in table.groupby([x, y])}
    means = {key: _mean(rows, metric) for key, rows in groups.items()}
    values = [value for value in means.values() if math.isfinite(value)] or [0.0]
    least, most = min(values), max(values)
    wide, high = (WIDTH - LEFT - RIGHT) / len(xs), (HEIGHT - TOP - BOTTOM) / len(ys)
    marks = []
    for (a, b), rows in groups.items():
        left, top = LEFT + wide * xs.index(a), HEIGHT - BOTTOM - high * (ys.index(b) + 1)
        share = (means[a, b] - least) / (most - least or 1)
        colour = to_hex(colormaps["cividis"](share)) if math.isfinite(means[a, b]) else "#ddd"
        box = f'x="{left:.2f}" y="{top:.2f}" width="{wide + 0.4:.2f}" height="{high + 0.4:.2f}"'
        text = f"{x} = {_text(a)}, {y} = {_text(b)}\n{_summary(rows, metric)}"
        marks.append(f'<rect {box} fill="{colour}"><title>{escape(text)}</title></rect>')
    marks += _map_ticks(xs, ys, wide, high) + _scale(least, most)
    caption = f"{_label(metric)}, mean over seeds; point at a cell for its values. Grey: all lost."
    return HoverPart(_svg(marks, x, y), caption)


def hover_curves(
    table: "pd.DataFrame",
    metric: str,
    x: str,
    hue: str | None,
    theory: "Sequence[Prediction]" = (),
) -> HoverPart:
    """Median over seeds with the range as a band; every point shows its values.

    Example:
        >>> import pandas as pd
        >>> from symfast.report.hover import hover_curves
        >>> rows = {"lr": [0.1, 0.2], "loss": [1.0, 2.0], "status": "finished"}
        >>> hover_curves(pd.DataFrame(rows), "loss", "lr", None).svg.count("<circle")
        2
    """
    good = table[(table.status != "diverged") & table[metric].map(math.isfinite)]
    across = Frame(table[x].tolist(), LEFT, WIDTH - RIGHT)
    up = Frame(good[metric].tolist(), HEIGHT - BOTTOM, TOP)
    marks = []
    groups: list[tuple[Any, Any]] = list(good.groupby(hue)) if hue else [("", good)]
    for number, (value, rows) in enumerate(groups):
        name = f"{LABELS.get(hue, hue)} = {_text(value)}" if hue else ""
        marks += _curve(rows, metric, x, across, up, number, name)
    for prediction in theory:
        if prediction.x_name == x and prediction.metric in ("", metric):
            marks += _prediction(prediction, across, up, len(groups))
    marks += _axis_ticks(across, up)
    seeds = "" if "seed" not in table else f" over {table.seed.nunique()} seeds"
    caption = f"{_label(metric)}: median and range{seeds}; point at a dot for its values."
    return HoverPart(_svg(marks, x, metric), caption)


def _curve(
    rows: "pd.DataFrame", metric: str, x: str, across: Frame, up: Frame, number: int, name: str
) -> list[str]:
    """One line with its band and dots."""
    colour = COLOURS[number % len(COLOURS)]
    points = [(float(str(a)), group) for a, group in rows.groupby(x)]
    high = [f"{across(a):.1f},{up(g[metric].max()):.1f}" for a, g in points]
    low = [f"{across(a):.1f},{up(g[metric].min()):.1f}" for a, g in reversed(points)]
    middle = [(across(a), up(g[metric].median())) for a, g in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in middle)
    marks = [f'<polygon points="{" ".join(high + low)}" fill="{colour}" opacity="0.2"/>']
    marks.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    for (a, b), (value, group) in zip(middle, points, strict=True):
        text = escape(f"{name}\n{x} = {_text(value)}\n{_summary(group, metric)}".strip())
        dot = f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}">'
        marks.append(f"{dot}<title>{text}</title></circle>")
    place = f'x="{WIDTH - RIGHT + 12}" y="{TOP + 14 + 18 * number}"'
    marks.append(f'<text {place} fill="{colour}">{escape(name)}</text>')
    return marks


def _prediction(prediction: "Prediction", across: Frame, up: Frame, curves: int) -> list[str]:
    """A dashed theory curve, or a dashed vertical line."""
    style = 'fill="none" stroke="#000" stroke-dasharray="5 4" stroke-width="1.4"'
    title = f"<title>{escape(prediction.label)}</title>"
    if prediction.y:
        pairs = zip(prediction.x, prediction.y, strict=True)
        line = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in pairs)
        return [f'<polyline points="{line}" {style}>{title}</polyline>']
    if not across.least <= prediction.x[0] <= across.most:
        return []
    at = across(prediction.x[0])
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {style}>'
    place = f'x="{WIDTH - RIGHT + 12}" y="{TOP + 20 + 18 * curves}"'
    return [f"{line}{title}</line>", f"<text {place}>{escape('┆ ' + prediction.label)}</text>"]


def _axis_ticks(across: Frame, up: Frame) -> list[str]:
    base = HEIGHT - BOTTOM
    marks = [f'<path d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="#59636e"/>']
    for x in across.ticks():
        marks.append(f'<text x="{across(x):.1f}" y="{base + 18}" class="mid">{_text(x)}</text>')
    for y in up.ticks():
        marks.append(f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" class="end">{_text(y)}</text>')
    return marks


def _map_ticks(xs: list[Any], ys: list[Any], wide: float, high: float) -> list[str]:
    marks, base = [], HEIGHT - BOTTOM
    for i in sorted({round(x) for x in np.linspace(0, len(xs) - 1, min(6, len(xs)))}):
        at = LEFT + wide * (i + 0.5)
        marks.append(f'<text x="{at:.1f}" y="{base + 18}" class="mid">{_text(xs[i])}</text>')
    for i in sorted({round(y) for y in np.linspace(0, len(ys) - 1, min(6, len(ys)))}):
        at = base - high * (i + 0.5) + 4
        marks.append(f'<text x="{LEFT - 6}" y="{at:.1f}" class="end">{_text(ys[i])}</text>')
    return marks


def _scale(least: float, most: float) -> list[str]:
    """Colours and what they stand for."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    marks, step, left = [], (HEIGHT - TOP - BOTTOM) / 32, WIDTH - RIGHT + 24
    for i in range(32):
        top, colour = HEIGHT - BOTTOM - step * (i + 1), to_hex(colormaps["cividis"](i / 31))
        box = f'x="{left}" y="{top:.2f}" width="16" height="{step + 0.4:.2f}"'
        marks.append(f'<rect {box} fill="{colour}"/>')
    for value, at in ((most, TOP + 10), (least, HEIGHT - BOTTOM)):
        marks.append(f'<text x="{left + 22}" y="{at}">{_text(value)}</text>')
    return marks


def _svg(marks: list[str], x: str, y: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    marks = [
        *marks,
        f'<text x="{middle}" y="{HEIGHT - 12}" class="mid">{escape(_label(x))}</text>',
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" class="mid">'
        f"{escape(_label(y))}</text>",
    ]
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(marks)}</svg>')  # noqa: S704


def _summary(rows: "pd.DataFrame", metric: str) -> str:
    """Mean and range over seeds, and how many runs were lost."""
    good = rows[rows.status != "diverged"][metric]
    lost = len(rows) - len(good)
    if not len(good):
        return f"{metric}: all {lost} runs diverged"
    spread = f"{_text(good.min())} to {_text(good.max())}"
    note = f", {lost} diverged" if lost else ""
    return f"{metric} = {_text(good.mean())} ({spread}, {len(good)} runs{note})"


def _mean(rows: "pd.DataFrame", metric: str) -> float:
    return float(rows[rows.status != "diverged"][metric].mean())


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
