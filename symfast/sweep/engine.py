# SPDX-License-Identifier: Apache-2.0
"""The sweep engine: a grid of training runs, chunk by chunk, each chunk one kernel call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from symfast.extras import need
from symfast.problems.problem import Problem, Replicas
from symfast.problems.theory import predictions
from symfast.sweep.grid import Grid, Values, axis_name, grid_of
from symfast.sweep.result import SweepResult
from symfast.sweep.train import Progress, Trainer

if TYPE_CHECKING:
    from symfast.sweep.store import Store

#: Most replicas of one kernel call: enough to fill a machine, few enough to lose little to a kill.
CHUNK = {"cpu": 1 << 14, "cuda": 1 << 16}
#: Memory of the replicas of one kernel call.
CHUNK_BYTES = 1 << 30
#: Weights are kept by default if those of the whole sweep take at most this.
WEIGHT_BYTES = 1 << 28


def sweep(
    problem: Problem,
    *,
    seeds: int | Sequence[int] = 1,
    steps: int = 20_000,
    every: int | None = None,
    out: str | Path | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    keep_weights: bool | None = None,
    chunk: int | None = None,
    shard: tuple[int, int] | None = None,
    ray: bool = False,
    progress: Progress | None = None,
    **axes: Values | Any,
) -> SweepResult:
    """Train every combination of hyperparameters with every seed; one kernel call per chunk.

    The other keywords are axes of the problem (``lr``, ``weight_decay``, ...; see
    ``problem.axes``), each one value or several, and its options (``problem.options``). ``noise``
    is short for ``label_noise``, or ``gradient_noise`` where labels have none. Diverged replicas
    are rows with that status.

    Args:
        problem: what to train, one of `symfast.problems`.
        seeds: their number, or the seeds themselves.
        steps: steps of every replica.
        every: measure each time this many steps are done, into ``result.series``.
        out: directory for the results. A finished one of the same configuration is read, not
            computed; an unfinished one is completed, also after a kill at any moment.
        dtype: torch.float64 or torch.float32.
        device: where the kernel runs.
        keep_weights: whether to store the weights; None: if all of them take at most 256 MB.
        chunk: replicas of one kernel call; None: what fits 1 GB, series included, at most 16,384
            (CUDA: 65,536).
        shard: (rank, world size): compute only every world-size'th chunk, for several processes
            with one ``out``; under torchrun that is
            `symfast.sweep.cluster.shard_of_environment()`.
        ray: compute the chunks on a Ray cluster, into ``out`` of this machine.
        progress: called with (replica steps done, in all) while the kernel runs.
        **axes: values of the problem's axes and options.

    Raises:
        ModuleNotFoundError: without pandas (and pyarrow for ``out``), which the extra "demo" has.
        TypeError: if the problem is none, or a keyword is neither an axis nor an option of it.
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
    _check(problem, out, dtype, steps, every, chunk)
    given, options = split_keywords(problem, axes)
    if every is not None and options.get("tol", 0) > 0 and every % options["check_every"]:
        raise ValueError(
            f"with tol above 0 every must be a multiple of check_every = {options['check_every']}: "
            f"each measurement after {every} steps would be one more check for convergence"
        )
    grid = grid_of(problem.axes, given, seeds)
    place = _usable(device)
    kept = _keeps_weights(problem, grid, dtype) if keep_weights is None else keep_weights
    train = Trainer(problem, grid, steps, every, options, dtype, place, kept, progress)
    size = chunk or _chunk_size(train)
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (rank, world size) with rank below it, not {shard}")
    if out is None:
        if shard is not None or ray:
            raise ValueError("shard and ray need out, the directory where all results meet")
        return _collect(train, size)
    return _collect_stored(train, size, Path(out), shard or (0, 1), ray)


def _check(
    problem: Problem, out: str | Path | None, dtype: torch.dtype, steps: int, every: int | None,
    chunk: int | None,
) -> None:  # fmt: skip
    """Refuse what no sweep can do."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be one of symfast.problems, not {type(problem).__name__}")
    need("a sweep", "demo", "pandas", *(("pyarrow",) if out is not None else ()))
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, not {dtype}")
    if steps < 1 or (every is not None and every < 1) or (chunk is not None and chunk < 1):
        raise ValueError("steps, every and chunk must be at least 1")


def split_keywords(
    problem: Problem, keywords: Mapping[str, Any]
) -> tuple[dict[str, Values], dict[str, Any]]:
    """Return the values of the axes and the options, defaults filled in.

    Raises:
        TypeError: if a keyword is neither.
        ValueError: if an option is negative or of another type.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep.engine import split_keywords
        >>> split_keywords(Factorized(torch.eye(2), torch.ones(2)), {"lr": 0.2, "tol": 1e-9})
        ({'lr': 0.2}, {'tol': 1e-09, 'check_every': 100, 'epoch': 100, 'ratio': 0.95})
    """
    axes, options, given = problem.axes, dict(problem.options), {}
    for name, value in keywords.items():
        known = axis_name(axes, name)
        if known in given:
            raise TypeError(f"{name} and {known} are the same axis; give one of them")
        if known in axes:
            given[known] = value
        elif known in options:
            options[known] = _option(known, value, options[known])
        else:
            there = ", ".join([*axes, *options])
            kind = type(problem).__name__
            raise TypeError(f"{kind} has no axis or option called {name!r}; it has {there}")
    return given, options


def _option(name: str, value: Any, default: Any) -> Any:
    """An option of the type of its default; numbers must not be negative, counts at least 1."""
    wanted = type(default)
    if isinstance(default, bool | str) and not isinstance(value, wanted):
        raise ValueError(f"{name} must be a {wanted.__name__}, not {value!r}")
    if isinstance(default, int | float) and not isinstance(default, bool):
        least = 1 if isinstance(default, int) else 0
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise ValueError(f"{name} must be a number of at least {least}, not {value!r}")
        return wanted(value)
    return value


def _usable(device: torch.device | str) -> torch.device:
    """The device, if torch can put a tensor there."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"device {device} cannot be used: {error}") from error


def _chunk_size(train: Trainer) -> int:
    """Replicas of one kernel call: their state and, twice while they are joined, their series."""
    most, one = CHUNK.get(train.device.type, CHUNK["cpu"]), train.problem.replica_bytes
    if train.every is not None:
        first = train.grid.replicas(range(1), train.problem.axes)
        state = train.problem.start(first, dtype=train.dtype, device=torch.device("cpu"))
        columns = len(train.problem.measure(state, first)) + len(train.grid.axes) + 3
        one += 2 * 8 * columns * (1 + -(-train.steps // train.every))
    return max(1, min(most, CHUNK_BYTES // one))


def _keeps_weights(problem: Problem, grid: Grid, dtype: torch.dtype) -> bool:
    """Whether the weights of all replicas are few enough to be kept without being asked to."""
    first: Replicas = grid.replicas(range(1), problem.axes)
    one = problem.weights(problem.start(first, dtype=dtype, device=torch.device("cpu")))
    return one.numel() * one.element_size() * len(grid) <= WEIGHT_BYTES


def _collect(train: Trainer, size: int) -> SweepResult:
    """All chunks in memory."""
    import numpy as np
    import pandas as pd

    parts = [train.part(rows) for rows in train.grid.chunks(size)]
    table = pd.concat([part.table for part in parts], ignore_index=True)
    kept = [part.weights for part in parts if part.weights is not None]
    weights = np.concatenate(kept) if kept else None
    rows = [part.series for part in parts if part.series is not None]
    series = pd.concat(rows, ignore_index=True) if rows else None
    theory = predictions(train.problem, dict(train.grid.axes))
    return SweepResult(train.config(), table, weights, train.seconds, series=series, theory=theory)


def _collect_stored(
    train: Trainer, size: int, out: Path, shard: tuple[int, int], ray: bool
) -> SweepResult:
    """Only the chunks that are not on disk yet, then one file."""
    from symfast.sweep.store import Store

    config = train.config()
    store = Store(out, config, rows=len(train.grid), chunk=size)  # one that exists keeps its chunk
    if ray:
        from symfast.sweep.cluster import compute_on_ray

        compute_on_ray(train, store)
    else:
        _compute(train, store, shard)
    store.join()
    theory = predictions(train.problem, dict(train.grid.axes))
    return store.result(config, train.seconds, theory)


def _compute(train: Trainer, store: "Store", shard: tuple[int, int]) -> None:
    """The missing ones of every world'th chunk."""
    rank, world = shard
    for number, rows in enumerate(train.grid.chunks(store.chunk)):
        if number % world != rank:
            continue
        if store.has(number):
            train.skip(rows)
        else:
            store.write(number, train.part(rows))
