# SPDX-License-Identifier: Apache-2.0
"""The sweep engine: a grid of training runs, chunk by chunk, each chunk one kernel call."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from symfast.factor_sweep import STATUS, FactorSweep, factor_sweep
from symfast.problems import Factorized
from symfast.sweep.grid import Grid, Numbers, axis, seed_axis
from symfast.sweep.result import SweepResult

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: Called with (replica steps done, replica steps in all) a few times a second.
Progress: TypeAlias = Callable[[int, int], None]
#: Replicas of one kernel call; bounds the memory of a sweep of any size.
CHUNK = 1 << 16
POLL_SECONDS = 0.05


def sweep(
    problem: Factorized,
    *,
    lr: Numbers = 0.1,
    weight_decay: Numbers = 0.0,
    momentum: Numbers = 0.9,
    seeds: int | Sequence[int] = 1,
    steps: int = 20_000,
    tol: float = 0.0,
    check_every: int = 100,
    out: str | Path | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> SweepResult:
    """Train every combination of hyperparameters, depths and seeds; one kernel call per chunk.

    Each replica runs ``steps`` of momentum SGD on its factors. ``weight_decay`` is lam in
    ``loss + lam ||w||_{2/D}^{2/D}``: every factor gets torch's weight decay 2 lam / D, which is lam
    itself for D = 2. Diverged replicas are rows with that status.

    Args:
        problem: what to train; its depths are one axis of the sweep.
        lr: one or several step sizes.
        weight_decay: one or several penalty weights lam.
        momentum: one or several.
        seeds: their number, or the seeds themselves.
        steps: steps of every replica.
        tol: a replica stops early once max |dw| between two checks is below; 0 never stops.
        check_every: steps between two checks.
        out: directory for the results. A finished one of the same configuration is read, not
            computed; an unfinished one is completed.
        dtype: torch.float64 or torch.float32.
        device: where the kernel runs.
        progress: called with (replica steps done, in all) while the kernel runs.

    Raises:
        ValueError: if an argument is out of range.
        SweepMismatchError: if ``out`` holds a different sweep.
        KeyboardInterrupt: on Ctrl-C; finished chunks stay in ``out``.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep import sweep
        >>> problem = Factorized(torch.eye(4), torch.arange(4.0), depth=2)
        >>> result = sweep(problem, weight_decay=[0.1, 0.3], seeds=2, steps=5000)
        >>> result.table.sparsity.tolist()
        [0.25, 0.25, 0.5, 0.5]
    """
    if not isinstance(problem, Factorized):
        raise TypeError(f"problem must be one of symfast.problems, not {type(problem).__name__}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, not {dtype}")
    if steps < 1 or check_every < 1 or not tol >= 0:
        raise ValueError("steps and check_every must be at least 1 and tol must not be negative")
    grid = Grid(
        problem.depths,
        axis("lr", lr),
        axis("momentum", momentum),
        axis("weight_decay", weight_decay),
        seed_axis(seeds),
    )
    options = {"steps": steps, "tol": tol, "check_every": check_every}
    train = _Trainer(problem, grid, options, dtype, _usable(device), progress)
    if out is None:
        return _collect(train, grid)
    return _collect_stored(train, grid, Path(out))


def _usable(device: torch.device | str) -> torch.device:
    """The device, if torch can put a tensor there."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"device {device} cannot be used: {error}") from error


class _Trainer:
    """Trains a range of replicas; remembers how many steps of the whole sweep are done."""

    def __init__(
        self,
        problem: Factorized,
        grid: Grid,
        options: dict[str, Any],
        dtype: torch.dtype,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.problem, self.grid, self.options = problem, grid, options
        self.dtype, self.device, self.progress = dtype, device, progress
        self.seconds = 0.0

    def config(self) -> dict[str, Any]:
        """Everything the numbers depend on."""
        return {
            "problem": self.problem.describe(),
            "grid": self.grid.describe(),
            "options": self.options,
            "dtype": str(self.dtype),
            "device": self.device.type,
        }

    def rows(self, replicas: range) -> tuple["pd.DataFrame", "np.ndarray[Any, Any]"]:
        """Train replicas and measure them: table rows and model weights (rows, d)."""
        import pandas as pd

        columns = self.grid.columns(replicas)
        found = self._train(replicas, columns)
        w = found.weight.to("cpu", torch.float64)
        depth = torch.tensor(columns["depth"])
        lam = torch.tensor(columns["weight_decay"], dtype=torch.float64)
        measured = {name: x.numpy() for name, x in self.problem.measure(w, depth, lam).items()}
        table = pd.DataFrame(columns | measured)
        table["residual"] = found.residual.double().cpu().numpy()
        table["steps"] = found.steps.cpu().numpy()
        table["status"] = [STATUS[i] for i in found.status.tolist()]
        return table, self.problem.theta(w).numpy()

    def _train(self, replicas: range, columns: dict[str, list[Any]]) -> FactorSweep:
        """One kernel call in a thread of its own, so that this one can report and interrupt."""
        place: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        counter = torch.zeros(2, dtype=torch.int64, device=self.device)

        def call() -> FactorSweep:
            return factor_sweep(
                self.problem.gram.to(**place),
                self.problem.linear.to(**place),
                self.problem.start(columns["depth"], columns["seed"]).to(**place),
                depth=torch.tensor(columns["depth"], device=self.device),
                factored=self.problem.factored.to(self.device),
                lr=torch.tensor(columns["lr"], **place),
                momentum=torch.tensor(columns["momentum"], **place),
                lam=torch.tensor(columns["weight_decay"], **place),
                progress=counter,
                **self.options,
            )

        begin = time.perf_counter()
        found = self._watch(call, counter, replicas.start)
        self.seconds += time.perf_counter() - begin
        return found

    def _watch(self, call: Callable[[], FactorSweep], counter: Tensor, first: int) -> FactorSweep:
        """Poll the kernel's counter; on Ctrl-C ask it to stop, wait for it, and raise."""
        steps = self.options["steps"]
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            try:
                while True:
                    try:
                        found = future.result(timeout=POLL_SECONDS)
                        break
                    except NotYet:
                        # Reading a device counter would wait for the kernel that writes it.
                        if self.progress and counter.device.type == "cpu":
                            self.progress(first * steps + int(counter[0]), len(self.grid) * steps)
            except KeyboardInterrupt:
                counter[1] = 1
                raise
        if self.progress:
            self.progress(first * steps + int(counter[0]), len(self.grid) * steps)
        return found


def _collect(train: _Trainer, grid: Grid) -> SweepResult:
    """All chunks in memory."""
    import numpy as np
    import pandas as pd

    parts = [train.rows(replicas) for replicas in grid.chunks(CHUNK)]
    table = pd.concat([table for table, _ in parts], ignore_index=True)
    weights = np.concatenate([weights for _, weights in parts])
    return SweepResult(train.config(), table, weights, train.seconds)


def _collect_stored(train: _Trainer, grid: Grid, out: Path) -> SweepResult:
    """Only the chunks that are not on disk yet, then one file."""
    from symfast.sweep.store import Store

    store = Store(out, train.config())
    if not store.finished:
        chunks = list(grid.chunks(CHUNK))
        for number, replicas in enumerate(chunks):
            if not store.has(number):
                store.write(number, *train.rows(replicas))
        store.finish(len(chunks))
    return SweepResult(train.config(), *store.read(), train.seconds, out)
