# SPDX-License-Identifier: Apache-2.0
"""The directory of a sweep: a manifest, parts while it runs, one parquet file when it is done."""

import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from symfast.build import build_info

FORMAT = 1
MANIFEST, TABLE = "manifest.json", "sweep.parquet"


class SweepMismatchError(ValueError):
    """A directory already holds a different sweep; it is never overwritten."""

    def __init__(self, directory: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
        names = sorted(set(stored) | set(wanted))
        changed = [name for name in names if stored.get(name) != wanted.get(name)]
        details = "; ".join(
            f"{name}: stored {_short(stored.get(name))}, asked for {_short(wanted.get(name))}"
            for name in changed
        )
        super().__init__(
            f"{directory} holds another sweep ({details}). "
            "Choose another directory, or delete this one to compute anew."
        )


class Store:
    """A sweep on disk; every file appears whole or not at all, so a killed run can be resumed.

    Raises:
        SweepMismatchError: if the directory belongs to a sweep with another configuration.
        ValueError: if the directory exists without a readable manifest and is not empty.

    Example:
        >>> import tempfile, pandas as pd, numpy as np
        >>> from symfast.sweep.store import Store
        >>> store = Store(tempfile.mkdtemp(), {"steps": 10})
        >>> store.write(0, pd.DataFrame({"loss": [0.5]}), np.ones((1, 2)))
        >>> store.finish(1)
        >>> store.read()[0].loss.tolist()
        [0.5]
    """

    def __init__(self, directory: str | Path, config: dict[str, Any]) -> None:
        self.directory = Path(directory)
        config = json.loads(json.dumps(config))
        manifest = self.directory / MANIFEST
        if manifest.exists():
            stored = _read_manifest(manifest)
            if stored["config"] != config:
                raise SweepMismatchError(self.directory, _flat(stored["config"]), _flat(config))
            return
        if self.directory.is_dir() and (self.directory / TABLE).exists():
            raise ValueError(f"{self.directory} has a {TABLE} but no {MANIFEST}; choose another")
        self.directory.mkdir(parents=True, exist_ok=True)
        facts = {"format": FORMAT, "config": config, "seeds": config.get("grid", {}).get("seeds")}
        facts |= {"versions": _versions(), "created": datetime.now(timezone.utc).isoformat()}
        _write_atomically(manifest, json.dumps(facts, indent=2).encode())

    @property
    def finished(self) -> bool:
        """Whether the whole table is there."""
        return (self.directory / TABLE).exists()

    def has(self, part: int) -> bool:
        """Whether one part is there."""
        return self._part(part).exists()

    def write(self, part: int, table: pd.DataFrame, weights: "np.ndarray[Any, Any]") -> None:
        """Store the rows of one part with their weights (rows, d)."""
        rows = pa.Table.from_pandas(table, preserve_index=False)
        flat = pa.array(np.ascontiguousarray(weights).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, weights.shape[1])
        _write_table(self._part(part), rows.append_column("w", column))

    def finish(self, parts: int) -> None:
        """Join the parts to one file and remove them."""
        _write_table(
            self.directory / TABLE,
            pa.concat_tables(pq.read_table(self._part(i)) for i in range(parts)),
        )
        for i in range(parts):
            self._part(i).unlink()

    def read(self) -> tuple[pd.DataFrame, "np.ndarray[Any, Any]"]:
        """Return the table and the weights (rows, d) of a finished sweep."""
        rows = pq.read_table(self.directory / TABLE)
        column = rows.column("w").combine_chunks()
        weights = column.flatten().to_numpy().reshape(len(rows), -1)
        return rows.drop_columns("w").to_pandas(), weights

    def _part(self, number: int) -> Path:
        return self.directory / f"part-{number:05d}.parquet"


def _read_manifest(path: Path) -> dict[str, Any]:
    """The stored manifest, or an error that names the file."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or "config" not in stored:
        raise ValueError(f"{path} is not a sweep manifest of format {FORMAT}")
    return stored


def _versions() -> dict[str, str]:
    """What produced the numbers."""
    info = build_info()
    return {
        "symfast": str(info.get("version", info.get("symfast", "unknown"))),
        "kernels": str(info.get("kernels")),
        "cpu_capability": str(info.get("cpu_capability")),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots, so that a mismatch can be named."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    """At most 40 characters of a value."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a neighbour file, flush it to disk, then rename it over ``path``."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _write_table(path: Path, table: pa.Table) -> None:
    """One parquet file, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    _write_atomically(path, sink.getvalue().to_pybytes())
