# SPDX-License-Identifier: Apache-2.0
"""What a sweep returns: a table, the weights, figures and a page."""

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symfast.sweep.grid import axis_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from symfast.problems.theory import Prediction
    from symfast.sweep.store import Store


class SweepResult:
    """One row per cell and seed, in the order of the grid, seeds fastest.

    A result on disk is read when table, series or weights are first asked for.

    Args:
        config: what was computed.
        table: the rows, unless there is a store.
        weights: (rows, p), or None if they were not kept.
        seconds: spent in the kernel; 0 if the result was read from disk.
        series: one row per (cell, seed, step), or None.
        directory: where the result is stored.
        store: reads table, series and weights.
        theory: what theory predicts, for figures.

    Raises:
        ValueError: unless there is either a table or a store.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep import sweep
        >>> problem = Factorized(torch.eye(4), torch.arange(4.0))
        >>> sweep(problem, weight_decay=[0.1, 0.2], seeds=3, steps=100)
        SweepResult(6 rows: 2 cells x 3 seeds, 6 finished)
    """

    def __init__(
        self,
        config: dict[str, Any],
        table: "pd.DataFrame | None" = None,
        weights: "np.ndarray[Any, Any] | None" = None,
        seconds: float = 0.0,
        *,
        series: "pd.DataFrame | None" = None,
        directory: Path | None = None,
        store: "Store | None" = None,
        theory: "Sequence[Prediction]" = (),
    ) -> None:
        if (table is None) == (store is None):
            raise ValueError("a result has either a table or a store to read it from")
        self.config, self.seconds, self.directory = config, seconds, directory
        self.theory = list(theory)
        self._table, self._weights, self._series, self._store = table, weights, series, store

    @cached_property
    def table(self) -> "pd.DataFrame":
        """Hyperparameters, order parameters, steps and status of every run."""
        return self._table if self._store is None else self._store.table()  # type: ignore[return-value]

    @cached_property
    def series(self) -> "pd.DataFrame | None":
        """Order parameters every so many steps, the start included; None if not asked for."""
        return self._series if self._store is None else self._store.series()

    @cached_property
    def weights(self) -> "np.ndarray[Any, Any]":
        """Weights (rows, p).

        Raises:
            ValueError: if they were not kept.
        """
        found = self._weights if self._store is None else self._store.weights()
        if found is None:
            raise ValueError("the weights were not kept; sweep again with keep_weights=True")
        return found

    @property
    def missing(self) -> int:
        """Rows that other shards have not computed yet."""
        grid = self.config.get("grid", {})
        return math.prod(len(values) for values in grid.values()) - len(self.table)

    def __repr__(self) -> str:
        """Size and how the rows ended."""
        counts = ", ".join(f"{n} {name}" for name, n in self.table.status.value_counts().items())
        seeds = self.table.seed.nunique()
        cells = self.table.cell.nunique()
        lost = f", {self.missing} missing" if self.missing else ""
        return f"SweepResult({len(self.table)} rows: {cells} cells x {seeds} seeds, {counts}{lost})"

    @property
    def axes(self) -> list[str]:
        """Names of the hyperparameters."""
        return [name for name in self.config.get("grid", {}) if name != "seeds"]

    @property
    def varied(self) -> list[str]:
        """Names of the hyperparameters with more than one value, those with most values first."""
        grid = self.config.get("grid", {})
        return sorted((n for n in self.axes if len(grid[n]) > 1), key=lambda n: -len(grid[n]))

    def plot(
        self, metric: str, x: str | None = None, y: str | None = None, hue: str | None = None
    ) -> "Figure":
        """Draw one column over one hyperparameter (seeds as a band) or over two (a heat map).

        What theory predicts in closed form is drawn dashed into curves. "noise" names the axis that
        it is in `symfast.sweep`.

        Args:
            metric: a column of the table, such as "sparsity".
            x: hyperparameter on the horizontal axis; by default weight_decay, or what varies most.
            y: hyperparameter on the vertical axis of a heat map, or None for curves.
            hue: one curve per value of this column; by default depth, or what else varies.

        Raises:
            ValueError: if a column does not exist or holds no numbers.

        Example:
            >>> import torch
            >>> from symfast.problems import Factorized
            >>> from symfast.sweep import sweep
            >>> problem = Factorized(torch.eye(4), torch.arange(4.0))
            >>> result = sweep(problem, weight_decay=[0.1, 0.2], steps=100)
            >>> result.plot("loss").axes[0].get_ylabel()
            'training loss'
        """
        from symfast.sweep.plot import curves, heat_map

        x = axis_name(self.axes, x) if x else self._across()
        if y is not None:
            return heat_map(self.table, metric, x, axis_name(self.axes, y))
        hue = axis_name(self.axes, hue) if hue else self._hue(x)
        return curves(self.table, metric, x, hue, self.theory)

    def _across(self) -> str:
        """What the horizontal axis shows unless told otherwise."""
        if "weight_decay" in self.axes and "weight_decay" in (self.varied or ["weight_decay"]):
            return "weight_decay"
        return (self.varied or self.axes)[0]

    def _hue(self, x: str) -> str | None:
        """What curves differ by unless told otherwise."""
        others = [name for name in ("depth", *self.varied) if name in self.axes and name != x]
        return others[0] if others else None

    def to_html(self, path: str | Path, metrics: "Sequence[str] | None" = None) -> Path:
        """Write one self-contained page: diagrams that show their values, theory, cells, settings.

        Two hyperparameters with more than three values each make heat maps, otherwise curves with
        seeds as bands are drawn.

        Args:
            path: where to; directories are made as needed.
            metrics: columns to draw; by default sparsity and loss, or the first six.

        Raises:
            ValueError: if a column does not exist or holds no numbers.

        Example:
            >>> import tempfile, torch
            >>> from symfast.problems import Factorized
            >>> from symfast.sweep import sweep
            >>> problem = Factorized(torch.eye(4), torch.arange(4.0))
            >>> result = sweep(problem, weight_decay=[0.1, 0.2], steps=100)
            >>> result.to_html(tempfile.mkdtemp() + "/page.html").name
            'page.html'
        """
        from symfast.report.sweep_page import write_sweep

        return write_sweep(self, path, metrics)


def cell_table(table: "pd.DataFrame", axes: "Sequence[str]") -> "pd.DataFrame":
    """One row per cell: hyperparameters, means over seeds, seeds and how many diverged.

    Args:
        table: rows of a sweep.
        axes: names of the hyperparameters.

    Example:
        >>> import pandas as pd
        >>> from symfast.sweep.result import cell_table
        >>> rows = {"cell": [0, 0], "seed": [0, 1], "lr": [0.1, 0.1], "loss": [1.0, 2.0]}
        >>> found = cell_table(pd.DataFrame(rows | {"steps": 9, "status": "finished"}), ["lr"])
        >>> found.loss.tolist(), found.seeds.tolist()
        ([1.5], [2])
    """
    keys = ["cell", *axes]
    groups = table.groupby(keys, sort=False)
    means = groups[metrics(table, axes)].mean()
    means["seeds"] = groups["seed"].count()
    means["diverged"] = groups["status"].agg(lambda status: int((status == "diverged").sum()))
    return means.reset_index()


def metrics(table: "pd.DataFrame", axes: "Sequence[str]") -> list[str]:
    """Return the names of the measured columns of numbers.

    Example:
        >>> import pandas as pd
        >>> from symfast.sweep.result import metrics
        >>> metrics(pd.DataFrame({"cell": [0], "lr": [0.1], "loss": [1.0]}), ["lr"])
        ['loss']
    """
    others = {"cell", "seed", "step", "steps", *axes}
    return [name for name in table.select_dtypes("number").columns if name not in others]
