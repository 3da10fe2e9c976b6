# SPDX-License-Identifier: Apache-2.0
"""The one progress bar of all commands."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Move(Protocol):
    """Called with what is done, what there is in all, and a few words."""

    def __call__(self, done: int, total: int, words: str = "") -> None:
        """Move the bar."""


@contextmanager
def progress_bar(shown: bool, label: str) -> Iterator[Move | None]:
    """Yield a callback that moves a bar on stderr, or None where nobody would see it.

    Args:
        shown: whether to show it at all; off a terminal it never is.
        label: what is going on, to the left of the bar.

    Example:
        >>> from symfast.progress import progress_bar
        >>> with progress_bar(shown=False, label="sweep") as move:
        ...     move is None
        True
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    words_column = TextColumn("{task.fields[words]}")
    with Progress(*columns, *times, words_column, console=console) as bar:
        task = bar.add_task(label, total=None, words="")

        def move(done: int, total: int, words: str = "") -> None:
            bar.update(task, completed=done, total=total, words=words)

        yield move


def with_speed(move: Move | None, steps: int | None = None) -> Callable[[int, int], None] | None:
    """Return a callback (steps done, in all) that also tells the speed; None for None.

    Args:
        move: what `progress_bar` yields.
        steps: steps of one run; the speed in cells then stands beside the one in steps.

    Example:
        >>> from symfast.progress import with_speed
        >>> seen = []
        >>> tell = with_speed(lambda done, total, words="": seen.append((done, total)))
        >>> tell(5, 10)
        >>> seen
        [(5, 10)]
    """
    if move is None:
        return None
    start = time.perf_counter()
    before: list[int] = []

    def tell(done: int, total: int) -> None:
        before.append(done)
        del before[1:]  # what was on disk at the first call cost no time
        seconds = time.perf_counter() - start
        speed = (done - before[0]) / max(seconds, 1e-9)
        cells = f"{speed / steps:,.1f} cells/s, " if steps else ""
        words = f"{cells}{speed / 1e6:,.1f}M steps/s" if seconds > 0.2 else ""
        move(done, total, words)

    return tell
