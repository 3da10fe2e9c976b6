# SPDX-License-Identifier: Apache-2.0
"""What a sweep returns: a table, the weights, figures and a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class SweepResult:
    """One row per cell and seed, in the order of the grid, seeds fastest.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep import sweep
        >>> problem = Factorized(torch.eye(4), torch.arange(4.0))
        >>> sweep(problem, weight_decay=[0.1, 0.2], seeds=3, steps=100)
        SweepResult(6 rows: 2 cells x 3 seeds, 6 finished)
    """

    config: dict[str, Any]
    table: "pd.DataFrame"
    weights: "np.ndarray[Any, Any]"  # (rows, d), float64
    seconds: float  # spent in the kernel; 0 if the result was read from disk
    directory: Path | None = None

    def __repr__(self) -> str:
        """Size and how the rows ended."""
        counts = ", ".join(f"{n} {name}" for name, n in self.table.status.value_counts().items())
        seeds = self.table.seed.nunique()
        cells = self.table.cell.nunique()
        return f"SweepResult({len(self.table)} rows: {cells} cells x {seeds} seeds, {counts})"

    def plot(
        self, metric: str, x: str = "weight_decay", y: str | None = None, hue: str = "depth"
    ) -> "Figure":
        """Draw one column over one hyperparameter (seeds as a band) or over two (a heat map).

        Args:
            metric: a column of the table, such as "sparsity".
            x: hyperparameter on the horizontal axis.
            y: hyperparameter on the vertical axis of a heat map, or None for curves.
            hue: one curve per value of this column.

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

        if y is None:
            return curves(self.table, metric, x, hue)
        return heat_map(self.table, metric, x, y)

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page: configuration, figures and the table of cells.

        Example:
            >>> import tempfile, torch
            >>> from symfast.problems import Factorized
            >>> from symfast.sweep import sweep
            >>> problem = Factorized(torch.eye(4), torch.arange(4.0))
            >>> result = sweep(problem, weight_decay=[0.1, 0.2], steps=100)
            >>> result.to_html(tempfile.mkdtemp() + "/page.html").name
            'page.html'
        """
        from symfast.report.page import FigurePart, Part, TablePart, facts, write_page

        figures = [
            FigurePart(self.plot(name), f"{name} over the sweep; bands span the seeds.")
            for name in ("sparsity", "loss")
        ]
        cells = cell_table(self.table)
        parts: list[Part] = [*figures, TablePart("Cells, averaged over seeds", cells)]
        return write_page(path, "symfast sweep", facts(self.config), parts)


def cell_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row per cell: hyperparameters, means over seeds, seeds and how many diverged.

    Example:
        >>> import pandas as pd
        >>> from symfast.sweep.result import cell_table
        >>> row = {"cell": 0, "depth": 2, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
        >>> row |= {"seed": 0, "loss": 1.0, "objective": 1.0, "sparsity": 0.5, "zeros": 0.5}
        >>> row |= {"violation": 0.1, "residual": 0.0, "steps": 10, "status": "finished"}
        >>> cell_table(pd.DataFrame([row])).seeds.tolist()
        [1]
    """
    keys = ["cell", "depth", "lr", "momentum", "weight_decay"]
    groups = table.groupby(keys, sort=False)
    means = groups[["loss", "objective", "sparsity", "zeros", "violation"]].mean()
    means["seeds"] = groups["seed"].count()
    means["diverged"] = groups["status"].agg(lambda status: int((status == "diverged").sum()))
    return means.reset_index()
