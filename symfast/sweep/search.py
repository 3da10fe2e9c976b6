# SPDX-License-Identifier: Apache-2.0
"""An objective for Optuna: one trial is one cell, all of its seeds in one kernel call."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from symfast.problems.problem import Axis, Problem
from symfast.sweep.engine import split_keywords, sweep
from symfast.sweep.result import metrics

#: (low, high), (low, high, "log"), or a list of values to choose from.
Range: TypeAlias = tuple[float, float] | tuple[float, float, str] | list[Any]


def objective(
    problem: Problem,
    metric: str,
    space: Mapping[str, Range],
    *,
    seeds: int | Sequence[int] = 4,
    **settings: Any,
) -> Callable[[Any], float]:
    """Return a function of an Optuna trial: the mean of a metric over seeds.

    A trial with a diverged seed is pruned. Every seed is also a user attribute of the trial.

    Args:
        problem: what to train.
        metric: a column of the sweep's table, such as "loss".
        space: for every axis to search (low, high), (low, high, "log") or a list of values.
        seeds: of every trial.
        **settings: further arguments of `symfast.sweep`, such as steps or fixed axes.

    Raises:
        TypeError: if the space names what the problem does not have.
        ValueError: if a range is none, or the table has no such metric.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep import objective
        >>> problem = Factorized(torch.eye(4), torch.arange(4.0))
        >>> space = {"lr": (0.01, 1.0, "log")}
        >>> function = objective(problem, "loss", space, steps=100)
        >>> import optuna  # doctest: +SKIP
        >>> optuna.create_study().optimize(function, n_trials=20)  # doctest: +SKIP
    """
    split_keywords(problem, dict.fromkeys(space, 0.0))
    unknown = [name for name in space if name not in problem.axes]
    if unknown:
        raise TypeError(f"{unknown[0]} is no axis of {type(problem).__name__}")
    for name, values in space.items():
        _check_range(name, values)

    def function(trial: Any) -> float:
        chosen = {name: _suggest(trial, name, x, problem.axes[name]) for name, x in space.items()}
        result = sweep(problem, seeds=seeds, **(settings | chosen))
        table = result.table
        if metric not in metrics(table, result.axes):
            there = ", ".join(metrics(table, result.axes))
            raise ValueError(f"there is no metric called {metric!r}; there are {there}")
        for seed, value in zip(table.seed, table[metric], strict=True):
            trial.set_user_attr(f"{metric} of seed {seed}", float(value))
        if (table.status == "diverged").any() or not math.isfinite(table[metric].mean()):
            from optuna import TrialPruned

            raise TrialPruned(f"{(table.status == 'diverged').sum()} seeds diverged")
        return float(table[metric].mean())

    return function


def _check_range(name: str, values: Any) -> None:
    """Refuse what is neither a range nor a list."""
    if isinstance(values, list) and values:
        return
    pair = isinstance(values, tuple) and len(values) in (2, 3) and values[0] < values[1]
    if not pair or (len(values) == 3 and (values[2] != "log" or values[0] <= 0)):
        raise ValueError(
            f'the range of {name} must be (low, high), (low, high, "log") with low above 0, or a '
            f"list of values, not {values!r}"
        )


def _suggest(trial: Any, name: str, values: Range, axis: Axis) -> Any:
    """One value of a trial."""
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    log = len(values) == 3
    if axis.integer:
        return trial.suggest_int(name, int(values[0]), int(values[1]), log=log)
    return trial.suggest_float(name, values[0], values[1], log=log)
