# SPDX-License-Identifier: Apache-2.0
"""Rows of a monitored training on disk: parts while it runs, one parquet file when it is done."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symfast.extras import need
from symfast.files import remove_orphans, replacing

if TYPE_CHECKING:
    import pandas as pd

TABLE = "monitor.parquet"
#: Rows that belong to the same place of a run; of two, the later written counts.
KEYS = ["step", "group"]


class MonitorStore:
    """A directory of rows; every file appears whole or not at all, so a killed run loses nothing.

    A run that starts again in the same directory goes on after the parts it finds. Where it
    repeats steps, the rows written last count.

    Raises:
        ModuleNotFoundError: if pyarrow or pandas is missing.
        NotADirectoryError: if the path is a file.

    Example:
        >>> import tempfile
        >>> from symfast.monitor_store import MonitorStore, read_monitor
        >>> store = MonitorStore(tempfile.mkdtemp())
        >>> store.write([{"step": 0, "group": "fc", "rank": 3.0}])
        >>> store.write([{"step": 0, "group": "fc", "rank": 2.0}])
        >>> read_monitor(store.directory)["rank"].tolist()
        [2.0]
        >>> store.finish()
        >>> [path.name for path in store.directory.iterdir()]
        ['monitor.parquet']
    """

    def __init__(self, directory: str | Path) -> None:
        need("a directory of rows", "models", "pandas", "pyarrow")  # now, not at step 10,000
        self.directory = Path(directory)
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectoryError(f"{directory} is a file; out is a directory of rows")
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_orphans(self.directory)
        numbers = [int(path.stem.removeprefix("part-")) for path in _parts(self.directory)]
        self._next = max(numbers, default=-1) + 1

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store rows as one more part."""
        if rows:
            import pandas as pd

            with replacing(self.directory / f"part-{self._next:06d}.parquet") as file:
                pd.DataFrame(list(rows)).to_parquet(file, index=False)
            self._next += 1

    def finish(self) -> None:
        """Join everything in the directory to one file and remove the parts."""
        parts = _parts(self.directory)
        if parts:
            with replacing(self.directory / TABLE) as file:
                read_monitor(self.directory).to_parquet(file, index=False)
            for part in parts:
                part.unlink()


def read_monitor(directory: str | Path) -> "pd.DataFrame":
    """Rows of a monitored training, finished or not, by step and group.

    Raises:
        FileNotFoundError: if the directory holds no rows.
        ValueError: if a file is damaged, or holds no rows of a monitored training.

    Example:
        >>> import tempfile
        >>> from symfast.monitor_store import MonitorStore, read_monitor
        >>> store = MonitorStore(tempfile.mkdtemp())
        >>> store.write([{"step": 5, "group": "fc", "rank": 3.0}])
        >>> read_monitor(store.directory).step.tolist()
        [5]
    """
    import pandas as pd

    directory = Path(directory)
    table = directory / TABLE
    files = [table] * table.exists() + _parts(directory)
    if not files:
        raise FileNotFoundError(f"{directory} holds neither {TABLE} nor parts of it")
    rows = pd.concat([_read(file) for file in files], ignore_index=True)
    rows = rows.drop_duplicates(KEYS, keep="last")
    return rows.sort_values("step", kind="stable").reset_index(drop=True)


def _read(path: Path) -> "pd.DataFrame":
    """One file of rows, or an error that says which file it is."""
    import pandas as pd
    import pyarrow as pa

    try:
        rows = pd.read_parquet(path)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to go on without it") from error
    missing = [name for name in KEYS if name not in rows]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}: it is no file of monitored rows")
    return rows


def _parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("part-*.parquet"))
