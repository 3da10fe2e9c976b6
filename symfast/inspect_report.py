# SPDX-License-Identifier: Apache-2.0
"""What an inspection returns: a table, text, JSON and a page."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symfast.diagnosis import Diagnosis
from symfast.extras import need
from symfast.files import json_value, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

COLUMNS = (
    *("m", "n", "dtype", "status", "dead", "constant", "unread", "duplicates", "up_to_sign"),
    *("up_to_scale", "distinct", "rank", "stable_rank", "effective_rank", "product_rank"),
    *("product_stable_rank", "sigma_max", "sigma_min", "to_sign_flip", "to_swap", "to_direction"),
    *("imbalance", "sign_locked", "dormant", "still"),
)
COUNTS = frozenset(
    ("m", "n", "dead", "constant", "unread", "duplicates", "up_to_sign", "up_to_scale", "distinct")
    + ("rank", "product_rank", "sign_locked", "dormant", "still")
)
#: Rows that text shows before it refers to the table.
SHOWN = 60


@dataclass(frozen=True, eq=False)
class InspectReport:
    """One diagnosis per group.

    Attributes:
        title: the model's class, or the file.
        diagnoses: the groups in order.
        seconds: time of the inspection.
        notes: what was left out, in words.

    Example:
        >>> import symfast as sf, torch
        >>> report = sf.inspect(torch.nn.Linear(3, 2))
        >>> report.table.group.tolist()
        ['weight']
    """

    title: str
    diagnoses: list[Diagnosis]
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> "pd.DataFrame":
        """One row per group; <NA> where a quantity does not apply or was not measured."""
        need("the table of a report", "models", "pandas")
        import pandas as pd

        rows = [
            {"group": d.name, "kinds": ", ".join(d.kinds)} | {c: d.row.get(c) for c in COLUMNS}
            for d in self.diagnoses
        ]
        table = pd.DataFrame(rows, columns=["group", "kinds", *COLUMNS])
        types = {c: "Int64" if c in COUNTS else "float64" for c in COLUMNS}
        return table.astype(types | {"dtype": "object", "status": "object"})

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text, with unit numbers and spectra; also written to ``path``.

        Example:
            >>> import json, symfast as sf, torch
            >>> json.loads(sf.inspect(torch.nn.Linear(3, 2)).to_json())["groups"][0]["rank"]
            2
        """
        groups = [
            {"group": d.name, "kinds": list(d.kinds), "members": [list(x) for x in d.members]}
            | {name: json_value(d.row.get(name)) for name in COLUMNS}
            | {"units": d.units, "singular_values": _list(d.values)}
            | {"product_singular_values": _list(d.product), "unit_norms": _list(d.norms)}
            for d in self.diagnoses
        ]
        facts: dict[str, Any] = {"model": self.title, "seconds": self.seconds, "notes": self.notes}
        text = json.dumps(facts | {"groups": groups}, allow_nan=False)
        if path is not None:
            write_whole(path, text)
        return text

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page: summary, ranks, spectra, distance maps, table.

        Example:
            >>> import symfast as sf, tempfile, torch
            >>> sf.inspect(torch.nn.Linear(3, 2)).to_html(tempfile.mkdtemp() + "/page.html").name
            'page.html'
        """
        from symfast.report.inspect_page import write_inspection

        return write_inspection(path, self)

    def summary(self) -> str:
        """Return the finding in one sentence.

        Example:
            >>> import symfast as sf, torch
            >>> sf.inspect(torch.nn.Linear(3, 2)).summary()
            '1 group, 2 units: nothing has collapsed'
        """
        names = {"dead": "dead", "constant": "constant", "unread": "unread"}
        names |= {"duplicates": "duplicate", "sign_locked": "sign-locked", "dormant": "dormant"}
        parts = []
        for column, word in names.items():
            total = sum(d.row.get(column) or 0 for d in self.diagnoses)
            parts += [f"{total} {word}"] if total else []
        short = sum(_rank_deficient(d) for d in self.diagnoses)
        parts += [f"{_count(short, 'group')} short of full rank"] if short else []
        broken = sum(d.row["status"] != "ok" for d in self.diagnoses)
        parts += [f"{_count(broken, 'group')} with NaN or infinity"] if broken else []
        units = sum(d.row["m"] for d in self.diagnoses)
        found = ", ".join(parts) or "nothing has collapsed"
        return f"{_count(len(self.diagnoses), 'group')}, {_count(units, 'unit')}: {found}"

    def __str__(self) -> str:
        """The table as text, the summary and the notes."""
        import io

        from rich.console import Console

        console = Console(file=io.StringIO(), width=200, color_system=None)
        console.print(self.rich_table())
        console.print(self.summary(), highlight=False)
        for line in self._footnotes():
            console.print(line, highlight=False, markup=False)
        file = console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()

    def __repr__(self) -> str:
        return f"InspectReport({self.title}: {self.summary()})"

    def rich_table(self) -> "Table":
        """The table for a rich console; columns without a number are left out.

        Example:
            >>> import symfast as sf, torch
            >>> sf.inspect(torch.nn.Linear(3, 2)).rich_table().row_count
            1
        """
        from rich.markup import escape
        from rich.table import Table

        shown = [c for c in COLUMNS if any(self._says(d, c) for d in self.diagnoses)]
        table = Table(title=escape(self.title), title_style="bold")
        table.add_column("group", overflow="fold")
        if any(d.kinds for d in self.diagnoses):
            table.add_column("kinds", overflow="fold")
        for name in shown:
            table.add_column(name.replace("_", " "), justify="right")
        for d in self.diagnoses[:SHOWN]:
            kinds = [", ".join(d.kinds)] if len(table.columns) > len(shown) + 1 else []
            table.add_row(escape(d.name), *kinds, *(_cell(d.row.get(c)) for c in shown))
        return table

    @staticmethod
    def _says(d: Diagnosis, column: str) -> bool:
        value = d.row.get(column)
        return value not in (None, "ok") and not (
            column in ("dead", "constant", "unread", "up_to_sign", "up_to_scale") and value == 0
        )

    def _footnotes(self) -> list[str]:
        more = len(self.diagnoses) - SHOWN
        hidden = [f"{more} more groups are in report.table, to_json() and to_html()"]
        return hidden * (more > 0) + self.notes[:SHOWN] + [f"{self.seconds:.2f} s"]


def _rank_deficient(d: Diagnosis) -> bool:
    rank = d.row.get("rank")
    return rank is not None and rank < min(d.row["m"], d.row["n"])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _list(values: Any) -> list[Any] | None:
    return None if values is None else [json_value(value) for value in values.tolist()]
