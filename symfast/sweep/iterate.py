# SPDX-License-Identifier: Apache-2.0
"""Cells for a training loop of the user's own, with the store of a sweep behind it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symfast.extras import need
from symfast.problems.problem import STATUS, Axis, Value
from symfast.sweep.grid import Grid, Values, grid_of
from symfast.sweep.result import SweepResult

if TYPE_CHECKING:
    from symfast.sweep.store import Store


def iterate(
    *, seeds: int | Sequence[int] = 1, out: str | Path | None = None, **axes: Values
) -> "Runs":
    """Return the cells of a grid for your own loop, and a store to write into.

    Each pass of the loop trains one (cell, seed) however it likes and calls ``record``. With
    ``out``, a row is on disk once it is recorded, and a rerun yields only the rows that are not.

    Args:
        seeds: their number, or the seeds themselves.
        out: directory for the rows.
        **axes: one value or several for every hyperparameter: numbers or strings.

    Raises:
        ValueError: if a value is repeated, or there is none.
        SweepMismatchError: if ``out`` holds a different sweep.

    Example:
        >>> from symfast.sweep import iterate
        >>> runs = iterate(lr=[0.1, 0.2], optimizer=["sgd", "adam"], seeds=2)
        >>> for cell, seed in runs:
        ...     runs.record(loss=cell["lr"] + seed)
        >>> runs.result()
        SweepResult(8 rows: 4 cells x 2 seeds, 8 finished)
    """
    need("iterate", "demo", "pandas", *(("pyarrow",) if out is not None else ()))
    if not axes:
        raise ValueError("iterate needs at least one axis, such as lr=[0.1, 0.2]")
    kinds = {name: _axis_of(values) for name, values in axes.items()}
    return Runs(grid_of(kinds, axes, seeds), Path(out) if out is not None else None)


class Runs:
    """The runs of one loop; iterate over it, record each run, and take the result."""

    def __init__(self, grid: Grid, out: Path | None) -> None:
        self.grid = grid
        self.config: dict[str, Any] = {"kind": "iterate", "grid": grid.describe()}
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._store: Store | None = None if out is None else _store(out, self.config, len(grid))
        self._current: int | None = None

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.grid)

    def __iter__(self) -> Iterator[tuple[dict[str, Value], int]]:
        """Yield (cell, seed) of the runs that are not recorded yet.

        Raises:
            RuntimeError: if the loop goes on without having recorded a run.
        """
        for index in range(len(self.grid)):
            if self._has(index):
                continue
            self._current = index
            number, seed = divmod(index, len(self.grid.seeds))
            cell = self.grid.cell(number)
            yield cell, self.grid.seeds[seed]
            if not self._has(index):
                raise RuntimeError(f"the run {cell}, seed {self.grid.seeds[seed]}, has no record")
        self._current = None

    def record(self, *, status: str = "finished", **measured: float) -> None:
        """Store what was measured in the run that the loop is at.

        Args:
            status: "finished", "converged" or "diverged".
            **measured: numbers by name, the same names in every run.

        Raises:
            RuntimeError: outside the loop.
            ValueError: if a name is taken by an axis, or the status is unknown.
        """
        import pandas as pd

        if self._current is None:
            raise RuntimeError("record belongs inside a loop over these runs")
        if status not in STATUS[:3]:
            raise ValueError(f"status must be one of {', '.join(STATUS[:3])}, not {status!r}")
        at = range(self._current, self._current + 1)
        columns: dict[str, Any] = {name: x.tolist() for name, x in self.grid.columns(at).items()}
        taken = sorted(set(columns) & set(measured))
        if taken:
            raise ValueError(f"{taken[0]} names a hyperparameter and cannot be measured")
        row = columns | {name: [float(x)] for name, x in measured.items()} | {"status": [status]}
        if self._store is None:
            self._rows[self._current] = row
        else:
            from symfast.sweep.train import Part

            self._store.write(self._current, Part(pd.DataFrame(row), None, None))

    def result(self) -> SweepResult:
        """Return the rows that are recorded, in the order of the grid."""
        import pandas as pd

        if self._store is not None:
            self._store.join()
            return self._store.result(self.config, 0.0)
        frames = [pd.DataFrame(self._rows[index]) for index in sorted(self._rows)]
        table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        return SweepResult(self.config, table)

    def _has(self, index: int) -> bool:
        return index in self._rows if self._store is None else self._store.has(index)


def _store(out: Path, config: dict[str, Any], rows: int) -> "Store":
    """A store whose parts are single rows."""
    from symfast.sweep.store import Store

    return Store(out, config, rows=rows, chunk=1)


def _axis_of(values: Values) -> Axis:
    """An axis that takes these values: a choice of strings, or any numbers."""
    every = [values] if isinstance(values, str) else values
    if isinstance(every, Sequence) and any(isinstance(x, str) for x in every):
        names = tuple(str(x) for x in every)
        return Axis(names[0], choices=names)
    return Axis(0.0, low=-math.inf)
