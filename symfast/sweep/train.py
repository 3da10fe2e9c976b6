# SPDX-License-Identifier: Apache-2.0
"""Training one chunk of a sweep: start, stretches of steps in one kernel call each, measures."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from symfast.problems.problem import STATUS, Problem, Replicas, State, Stretch
from symfast.sweep.grid import Grid

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: Called with (replica steps done, replica steps in all) a few times a second.
Progress: TypeAlias = Callable[[int, int], None]
POLL_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one chunk."""

    table: "pd.DataFrame"
    weights: "np.ndarray[Any, Any] | None"  # (rows, p)
    series: "pd.DataFrame | None"


@dataclass(eq=False)
class Trainer:
    """Trains ranges of replicas of one sweep; remembers how many steps of it are done."""

    problem: Problem
    grid: Grid
    steps: int
    every: int | None  # measure each time this many steps are done
    options: Mapping[str, Any]
    dtype: torch.dtype
    device: torch.device
    keep_weights: bool
    progress: Progress | None = None
    seconds: float = field(default=0.0, init=False)  # spent in the kernel
    done: int = field(default=0, init=False)  # replica steps, those read from disk included

    def config(self) -> dict[str, Any]:
        """Everything the numbers depend on."""
        return {
            "problem": self.problem.describe(),
            "grid": self.grid.describe(),
            "steps": self.steps,
            "every": self.every,
            "options": dict(self.options),
            "dtype": str(self.dtype),
            "device": self.device.type,
            "keep_weights": self.keep_weights,
        }

    def skip(self, rows: range) -> None:
        """Count a chunk that is on disk already."""
        self.done += len(rows) * self.steps
        self._report(0)

    def without_progress(self) -> "Trainer":
        """Return a fresh trainer that reports to nobody, as another process needs it."""
        return replace(self, progress=None)

    def part(self, rows: range) -> Part:
        """Train one range of replicas and measure it."""
        import pandas as pd

        columns, replicas = self.grid.columns(rows), self.grid.replicas(rows, self.problem.axes)
        state = self.problem.start(replicas, dtype=self.dtype, device=self.device)
        measured = {} if self.every is None else self._measure(state, replicas)
        series = [] if self.every is None else [pd.DataFrame(columns | {"step": 0} | measured)]
        for first in range(0, self.steps, self.every or self.steps):
            count = min(self.every or self.steps, self.steps - first)
            state = self._stretch(state, replicas, first, count)
            if self.every is not None:
                measured = self._measure(state, replicas)
                series.append(pd.DataFrame(columns | {"step": first + count} | measured))
        self.done += len(rows) * self.steps
        if self.every is None:
            measured = self._measure(state, replicas)
        table = pd.DataFrame(columns | measured)
        table["steps"] = state["steps"].cpu().numpy()
        table["status"] = [STATUS[i] for i in state["status"].tolist()]
        kept = self.problem.weights(state).detach().cpu().numpy() if self.keep_weights else None
        return Part(table, kept, pd.concat(series, ignore_index=True) if series else None)

    def _measure(self, state: State, replicas: Replicas) -> dict[str, Any]:
        """Order parameters as columns."""
        measured = self.problem.measure(state, replicas)
        return {name: x.detach().cpu().numpy() for name, x in measured.items()}

    def _stretch(self, state: State, replicas: Replicas, first: int, count: int) -> State:
        """One kernel call in a thread of its own, so that this one can report and interrupt."""
        counter = torch.zeros(2, dtype=torch.int64)
        stretch = Stretch(first, count, self.steps, counter, self.options)

        def call() -> State:
            with torch.no_grad():
                return self.problem.train(state, replicas, stretch)

        begin = time.perf_counter()
        found = self._watch(call, counter, first * len(replicas))
        self.seconds += time.perf_counter() - begin
        return found

    def _watch(self, call: Callable[[], State], counter: Tensor, before: int) -> State:
        """Poll the kernel's counter; on Ctrl-C ask it to stop, wait for it, and raise."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            try:
                while True:
                    try:
                        found = future.result(timeout=POLL_SECONDS)
                        break
                    except NotYet:
                        self._report(before + int(counter[0]))
            except KeyboardInterrupt:
                counter[1] = 1
                raise
        self._report(before + int(counter[0]))
        return found

    def _report(self, here: int) -> None:
        """Tell the user's callback."""
        if self.progress:
            self.progress(self.done + here, len(self.grid) * self.steps)
