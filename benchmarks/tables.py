# SPDX-License-Identifier: Apache-2.0
"""Tables that a benchmark fills row by row and prints when its file is done."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest


def tables() -> tuple[Callable[..., None], Any]:
    """A function that adds a row to the table of a title, and the fixture that prints them all."""
    rows: dict[str, list[tuple[Any, ...]]] = {}

    def note(title: str, *cells: Any) -> None:
        """Add a row to a table of this run."""
        rows.setdefault(title, []).append(cells)

    @pytest.fixture(scope="module", autouse=True)
    def report() -> Iterator[None]:
        """Print the collected rows at the end of the run."""
        yield
        for title, lines in rows.items():
            print(f"\n{title}")
            for line in lines:
                print("| " + " | ".join(str(cell) for cell in line) + " |")

    return note, report
