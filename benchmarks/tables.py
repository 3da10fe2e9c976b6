# SPDX-License-Identifier: Apache-2.0
"""What a run of the benchmarks found: tables, points of the roofline, curves of cost over work.

A benchmark file says ``note, report = tables()`` and adds rows; ``report`` prints them when the
file is done. conftest.py writes all that was found into ``results/<processor>.json``, where
figures.py and readme.py find it.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

#: {stem of a benchmark file: {"tables": .., "roofline": .., "scaling": ..}} of this run
FOUND: dict[str, dict[str, Any]] = {}


def _found() -> dict[str, Any]:
    """The record of the benchmark file that calls."""
    stem = sys._getframe(2).f_globals["__name__"].rpartition(".")[2]
    return FOUND.setdefault(stem, {"tables": {}, "roofline": {}, "scaling": {}})


def tables() -> tuple[Callable[..., None], Any]:
    """A function that adds a row to the table of a title, and the fixture that prints them all."""
    record = _found()["tables"]

    def note(title: str, *cells: Any, **columns: Any) -> None:
        """Add a row to a table of this run; columns by name head the table."""
        table = record.setdefault(title, {"columns": [], "rows": []})
        names = [name.replace("_", " ") for name in columns]
        if len(names) > len(table["columns"]):
            table["columns"] = names
        table["rows"].append([str(cell) for cell in (*cells, *columns.values())])

    @pytest.fixture(scope="module", autouse=True)
    def report() -> Iterator[None]:
        """Print the collected rows at the end of the run."""
        yield
        for title, table in record.items():
            print(f"\n{title}")
            for row in [table["columns"], *table["rows"]] if table["columns"] else table["rows"]:
                print("| " + " | ".join(row) + " |")

    return note, report


def judged(found: str, reached: bool, wanted: str) -> str:
    """What was found; in bold beside what was wanted where that is missed."""
    return found if reached else f"**{found}**, {wanted} wanted"


def note_ratios(
    note: Callable[..., None], title: str, times: dict[str, float], **columns: Any
) -> None:
    """Add a row: columns, then how many times faster the first contender is than each other."""
    first, *others = times
    ratios = {name: f"{times[name] / times[first]:.2f}x" for name in others}
    note(title, **columns, **ratios)


def point(name: str, *, flops: float, moved: float, seconds: float) -> None:
    """Add a point to the roofline: operations, bytes that must move, and the time taken."""
    _found()["roofline"][name] = {"flops": flops, "bytes": moved, "seconds": seconds}


def cost(series: str, unit: str, work: float, seconds: float) -> None:
    """Add a point to the curve of a job's time over the amount of its work, in units."""
    curve = _found()["scaling"].setdefault(series, {"unit": unit, "points": []})
    curve["points"].append([work, seconds])
