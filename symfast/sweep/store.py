# SPDX-License-Identifier: Apache-2.0
"""The directory of a sweep: a manifest, parts while it runs, one parquet file when it is done.

Every file appears whole or not at all, and what is in it follows from the manifest alone. So a
process may be killed at any moment, and several may work in one directory without locks: at worst
two compute the same part and one replaces the other's file with its equal.
"""

import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from symfast.files import create, read_json, remove_orphans, replacing
from symfast.sweep.manifest import SweepMismatchError, flat, plain, versions
from symfast.sweep.train import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from symfast.problems.theory import Prediction
    from symfast.sweep.result import SweepResult

__all__ = ["MANIFEST", "SERIES", "TABLE", "Store", "SweepMismatchError"]

FORMAT = 2
MANIFEST, TABLE, SERIES = "manifest.json", "sweep.parquet", "series.parquet"


class Store:
    """A sweep on disk, in parts of ``chunk`` rows until all are there.

    Raises:
        SweepMismatchError: if the directory belongs to a sweep with another configuration.
        ValueError: if the directory holds a table without a readable manifest.

    Example:
        >>> import tempfile, pandas as pd
        >>> from symfast.sweep.store import Store
        >>> from symfast.sweep.train import Part
        >>> store = Store(tempfile.mkdtemp(), {"steps": 10}, rows=1, chunk=1)
        >>> rows = pd.DataFrame({"cell": [0], "seed": [0], "loss": [0.5]})
        >>> store.write(0, Part(rows, None, None))
        >>> store.join()
        True
        >>> store.table().loss.tolist()
        [0.5]
    """

    def __init__(
        self, directory: str | Path, config: dict[str, Any], *, rows: int, chunk: int
    ) -> None:
        self.directory = Path(directory)
        self.rows = rows
        if (self.directory / TABLE).exists() and not (self.directory / MANIFEST).exists():
            raise ValueError(f"{self.directory} has a {TABLE} but no {MANIFEST}; choose another")
        self.directory.mkdir(parents=True, exist_ok=True)
        wanted = plain(config)
        facts = {"format": FORMAT, "config": wanted, "rows": rows, "chunk": chunk}
        facts |= {"seeds": wanted.get("grid", {}).get("seeds")}
        facts |= {"versions": versions(), "created": datetime.now(timezone.utc).isoformat()}
        create(self.directory / MANIFEST, facts)
        stored = _read_manifest(self.directory / MANIFEST)
        if stored["config"] != wanted:
            raise SweepMismatchError(self.directory, flat(stored["config"]), flat(wanted))
        self._config = wanted
        self.chunk: int = stored["chunk"]
        self.parts = -(-rows // self.chunk)
        if stored["versions"] != facts["versions"] and not self.finished:
            warnings.warn(
                f"{self.directory} was begun with {stored['versions']}; new parts come from "
                f"{facts['versions']} and may differ in the last digits",
                stacklevel=2,
            )
        remove_orphans(self.directory)

    @property
    def finished(self) -> bool:
        """Whether the whole table is there."""
        return (self.directory / TABLE).exists()

    def has(self, number: int) -> bool:
        """Whether one part is there, alone or in the whole table."""
        return self._part(number).exists() or self.finished

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are still to be computed."""
        return [number for number in range(self.parts) if not self.has(number)]

    def write(self, number: int, part: Part) -> None:
        """Store one part: its series first, since the table says that the part is there.

        Raises:
            ValueError: if the part has not the rows of its number.
        """
        if len(part.table) != self._rows(number):
            raise ValueError(f"part {number} has {self._rows(number)} rows, not {len(part.table)}")
        rows = pa.Table.from_pandas(part.table, preserve_index=False)
        if part.weights is not None:
            values = pa.array(np.ascontiguousarray(part.weights).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(values, part.weights.shape[1])
            rows = rows.append_column("w", column)
        if part.series is not None:
            series = pa.Table.from_pandas(part.series, preserve_index=False)
            _write_tables(self._series(number), [series])
        _write_tables(self._part(number), [rows])

    def join(self) -> bool:
        """Join the parts to one file once all are there; return whether the sweep is finished."""
        if not self.finished and not self.missing():
            try:
                if self._series(0).exists():
                    series = (_read(self._series(i)) for i in range(self.parts))
                    _write_tables(self.directory / SERIES, series)
                _write_tables(self.directory / TABLE, self._checked_parts())
            except FileNotFoundError:  # another process has joined them meanwhile
                if not self.finished:
                    raise
        if self.finished:
            for number in range(self.parts):
                self._part(number).unlink(missing_ok=True)
                self._series(number).unlink(missing_ok=True)
        return self.finished

    def table(self) -> pd.DataFrame:
        """Return the rows that are there, without weights, in the order of the grid."""
        return self._frame(TABLE, self._part)

    def series(self) -> pd.DataFrame | None:
        """Return the time series that are there, or None if none were asked for."""
        if not (self.directory / SERIES).exists() and not self._series(0).exists():
            return None
        return self._frame(SERIES, self._series)

    def weights(self) -> "np.ndarray[Any, Any] | None":
        """Return the weights (rows, p) that are there, or None if they were not kept."""
        tables = [_read(path) for path in self._sources(TABLE, self._part)]
        if not tables or "w" not in tables[0].column_names:
            return None
        column = pa.concat_tables(tables).column("w").combine_chunks()
        values: np.ndarray[Any, Any] = column.flatten().to_numpy()
        return values.reshape(len(column), -1)

    def result(
        self, config: dict[str, Any], seconds: float, theory: "Iterable[Prediction]" = ()
    ) -> "SweepResult":
        """Return the result; table, series and weights are read when they are asked for."""
        from symfast.sweep.result import SweepResult

        return SweepResult(
            config, seconds=seconds, directory=self.directory, store=self, theory=list(theory)
        )

    def _frame(self, whole: str, part: Any) -> pd.DataFrame:
        sources = self._sources(whole, part)
        tables = [_without_weights(_checked(path)) for path in sources]
        return pa.concat_tables(tables).to_pandas() if tables else self._empty()

    def _empty(self) -> pd.DataFrame:
        """No rows yet, but the columns that every sweep has."""
        axes = [name for name in self._config.get("grid", {}) if name != "seeds"]
        columns: dict[str, Any] = dict.fromkeys(["cell", "seed", *axes, "steps"], ())
        return pd.DataFrame(columns).astype({"cell": int, "seed": int}).assign(status="")

    def _sources(self, whole: str, part: Any) -> list[Path]:
        """The joined file, or the parts that are there."""
        if self.finished:
            return [self.directory / whole]
        return [part(i) for i in range(self.parts) if self._part(i).exists()]

    def _checked_parts(self) -> "Iterable[pa.Table]":
        """Every part, its number of rows checked."""
        for number in range(self.parts):
            table = _read(self._part(number))
            if len(table) != self._rows(number):
                raise ValueError(
                    f"{self._part(number)} holds {len(table)} rows instead of "
                    f"{self._rows(number)}; delete it, and a rerun will compute it anew"
                )
            yield table

    def _rows(self, number: int) -> int:
        return min(self.chunk, self.rows - number * self.chunk)

    def _part(self, number: int) -> Path:
        return self.directory / f"part-{number:06d}.parquet"

    def _series(self, number: int) -> Path:
        return self.directory / f"series-{number:06d}.parquet"


def _read_manifest(path: Path) -> dict[str, Any]:
    """The stored manifest, or an error that names the file."""
    stored = read_json(path)
    wanted = {"format": int, "config": dict, "rows": int, "chunk": int, "versions": dict}
    complete = isinstance(stored, dict) and all(
        isinstance(stored.get(name), kind) for name, kind in wanted.items()
    )
    if not complete or stored["format"] != FORMAT or stored["chunk"] < 1:
        raise ValueError(f"{path} is not a sweep manifest of format {FORMAT}; choose another place")
    return dict(stored)


def _read(path: Path) -> pa.Table:
    """One parquet file, or an error that says which and what to do."""
    try:
        return pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, and a rerun will compute it anew"
        ) from error


def _checked(path: Path) -> pa.Table:
    """One parquet file with the columns that every table of a sweep has."""
    table = _read(path)
    missing = [name for name in ("cell", "seed") if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]!r}: it is no table of this sweep; delete it, and a "
            "rerun will compute it anew"
        )
    return table


def _without_weights(table: pa.Table) -> pa.Table:
    return table.drop_columns("w") if "w" in table.column_names else table


def _write_tables(path: Path, tables: "Iterable[pa.Table]") -> None:
    """One parquet file of some tables, whole or not at all, one table in memory at a time."""
    every = iter(tables)
    first = next(every)
    with replacing(path) as file, pq.ParquetWriter(file, first.schema, compression="zstd") as sink:
        sink.write_table(first)
        for table in every:
            sink.write_table(table.cast(first.schema))
