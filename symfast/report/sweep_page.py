# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from symfast.report.hover import HoverPart, hover_curves, hover_map
from symfast.report.page import Part, TablePart, facts, write_page
from symfast.sweep.result import cell_table, metrics

if TYPE_CHECKING:
    from symfast.sweep.result import SweepResult

#: A table of more cells than this is left to the parquet file.
MOST_CELLS = 5_000


def write_sweep(
    result: "SweepResult", path: str | Path, chosen: "Sequence[str] | None" = None
) -> Path:
    """Write the diagrams, the table of cells and the configuration as one page.

    Raises:
        ValueError: if a column does not exist or holds no numbers.

    Example:
        >>> import tempfile, torch
        >>> from symfast.problems import Factorized
        >>> from symfast.report.sweep_page import write_sweep
        >>> from symfast.sweep import sweep
        >>> result = sweep(Factorized(torch.eye(2), torch.ones(2)), lr=[0.1, 0.2], steps=9)
        >>> write_sweep(result, tempfile.mkdtemp() + "/page.html").exists()
        True
    """
    there = metrics(result.table, result.axes)
    usual = [name for name in ("sparsity", "loss") if name in there]
    names = list(chosen) if chosen is not None else usual or there[:6]
    for name in names:
        if name not in there:
            raise ValueError(f"no column of numbers called {name!r}; there are {', '.join(there)}")
    parts: list[Part] = [_diagram(result, name) for name in names]
    cells = cell_table(result.table, result.axes)
    note = f"; the first {MOST_CELLS} of {len(cells)}" if len(cells) > MOST_CELLS else ""
    parts.append(TablePart(f"Cells, averaged over seeds{note}", cells.head(MOST_CELLS)))
    return write_page(path, "symfast sweep", facts(result.config), parts)


def _diagram(result: "SweepResult", metric: str) -> HoverPart:
    """A heat map if two hyperparameters have more than three values, else curves."""
    grid = result.config["grid"]
    wide = [name for name in result.varied if len(grid[name]) > 3]
    if len(wide) >= 2:
        return hover_map(result.table, metric, wide[0], wide[1])
    x = result._across()
    return hover_curves(result.table, metric, x, result._hue(x), result.theory)
