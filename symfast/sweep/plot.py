# SPDX-License-Identifier: Apache-2.0
"""Figures of a sweep: curves with seeds as bands, and heat maps. No global plotting state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from symfast.problems.theory import Prediction

#: Okabe and Ito's palette, distinguishable with every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LABELS = {
    "weight_decay": "penalty weight λ",
    "lr": "learning rate η",
    "momentum": "momentum",
    "depth": "depth D",
    "loss": "training loss",
    "objective": "penalised objective",
    "sparsity": "sparsity (share of weights ≤ 1e-4)",
    "zeros": "share of exactly zero weights",
    "violation": "constraint violation max|Oᵀθ|",
    "residual": "last change max|Δw|",
    "steps": "steps used",
    "seed": "seed",
    "label_noise": "label noise σ",
    "gradient_noise": "gradient noise σ",
    "batch_size": "batch size",
    "test_loss": "test loss",
    "rank": "rank",
    "distinct": "distinct hidden units",
}


def new_figure(
    panels: int = 1, width: float = 6.4, height: float = 4.2
) -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels side by side in the house style.

    Example:
        >>> from symfast.sweep.plot import new_figure
        >>> figure, axes = new_figure(2)
        >>> len(axes)
        2
    """
    figure = Figure(figsize=(width * panels, height), dpi=150, layout="constrained")
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def band(
    ax: "Axes", table: pd.DataFrame, x: str, metric: str, style: int, label: str, **line: Any
) -> None:
    """Median over seeds as a line, the range over seeds as a band.

    Raises:
        KeyError: if a column does not exist.

    Example:
        >>> import pandas as pd
        >>> from symfast.sweep.plot import band, new_figure
        >>> _, (ax,) = new_figure()
        >>> band(ax, pd.DataFrame({"lr": [0.1, 0.2], "loss": [1.0, 2.0]}), "lr", "loss", 0, "SGD")
        >>> len(ax.lines)
        1
    """
    grouped = table.groupby(x)[metric]
    middle, low, high = grouped.median(), grouped.min(), grouped.max()
    colour = COLOURS[style % len(COLOURS)]
    look: dict[str, Any] = {"marker": MARKERS[style % len(MARKERS)], "markersize": 4.5}
    ax.plot(middle.index, middle, color=colour, label=label, **(look | {"linewidth": 1.6} | line))
    ax.fill_between(middle.index, low, high, color=colour, alpha=0.2, linewidth=0)


def curves(
    table: pd.DataFrame,
    metric: str,
    x: str,
    hue: str | None = None,
    theory: "Sequence[Prediction]" = (),
) -> Figure:
    """One curve per value of ``hue``; diverged rows are left out and counted in the title.

    Raises:
        ValueError: if a column does not exist or holds no numbers.

    Example:
        >>> import pandas as pd
        >>> from symfast.sweep.plot import curves
        >>> rows = {"lr": [0.1, 0.2], "loss": [1, 2], "depth": [2, 2], "seed": [0, 0]}
        >>> figure = curves(pd.DataFrame(rows | {"status": "finished"}), "loss", "lr", "depth")
        >>> figure.axes[0].get_xlabel()
        'learning rate η'
    """
    for name in (metric, x):
        _check_column(table, name)
    figure, (ax,) = new_figure()
    good = table[table.status != "diverged"]
    groups: list[tuple[Any, pd.DataFrame]] = [("", good)]
    if hue is not None:
        if hue not in table:
            raise ValueError(f"no column called {hue!r}; there are {', '.join(table.columns)}")
        groups = list(good.groupby(hue))
    for style, (value, rows) in enumerate(groups):
        text = f"{value:g}" if isinstance(value, int | float) else str(value)
        band(ax, rows, x, metric, style, f"{LABELS.get(hue, hue)} = {text}" if hue else metric)
    _draw_theory(ax, metric, x, theory)
    _log_if_wide(ax.set_xscale, table[x])
    ax.set_xlabel(LABELS.get(x, x))
    ax.set_ylabel(LABELS.get(metric, metric))
    seeds, lost = table.seed.nunique(), len(table) - len(good)
    note = f", {lost} diverged runs left out" if lost else ""
    ax.set_title(f"median and range over {seeds} seed{'s' * (seeds > 1)}{note}", fontsize=9)
    if len(good):
        ax.legend(frameon=False, fontsize=9)
    return figure


def _draw_theory(ax: "Axes", metric: str, x: str, theory: "Sequence[Prediction]") -> None:
    """Dashed curves and vertical lines where theory has something to say."""
    for prediction in theory:
        if prediction.x_name != x or prediction.metric not in ("", metric):
            continue
        look: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2}
        if prediction.y:
            ax.plot(prediction.x, prediction.y, label=prediction.label, zorder=5, **look)
        elif ax.dataLim.x0 <= prediction.x[0] <= ax.dataLim.x1:
            ax.axvline(prediction.x[0], label=prediction.label, **look)


def heat_map(table: pd.DataFrame, metric: str, x: str, y: str) -> Figure:
    """Mean over seeds (and any further axis) on the grid of two hyperparameters.

    Raises:
        ValueError: if a column does not exist or holds no numbers.

    Example:
        >>> import pandas as pd
        >>> from symfast.sweep.plot import heat_map
        >>> rows = {"lr": [1.0, 2.0], "depth": [2, 3], "loss": [1, 2], "status": "finished"}
        >>> figure = heat_map(pd.DataFrame(rows), "loss", "lr", "depth")
        >>> figure.axes[0].get_ylabel()
        'depth D'
    """
    for name in (metric, x, y):
        _check_column(table, name)
    good = table[table.status != "diverged"]
    values = good.pivot_table(index=y, columns=x, values=metric, aggfunc="mean")
    figure, (ax,) = new_figure()
    ax.grid(visible=False)
    image = ax.imshow(values.to_numpy(), origin="lower", aspect="auto", cmap="cividis")
    for set_ticks, ticks in ((ax.set_xticks, values.columns), (ax.set_yticks, values.index)):
        shown = np.unique(np.linspace(0, len(ticks) - 1, min(len(ticks), 6)).round().astype(int))
        set_ticks(shown, [f"{ticks[i]:.3g}" for i in shown])
    ax.set_xlabel(LABELS.get(x, x))
    ax.set_ylabel(LABELS.get(y, y))
    figure.colorbar(image, ax=ax, label=LABELS.get(metric, metric))
    return figure


def _check_column(table: pd.DataFrame, name: str) -> None:
    """Refuse a column that is not there or holds no numbers."""
    numbers = list(table.select_dtypes("number").columns)
    if name not in numbers:
        raise ValueError(f"no column of numbers called {name!r}; there are {', '.join(numbers)}")


def _log_if_wide(set_scale: Any, values: "pd.Series[float]") -> None:
    """A logarithmic axis for positive values over more than a decade."""
    if values.min() > 0 and values.max() > 10 * values.min():
        set_scale("log")
