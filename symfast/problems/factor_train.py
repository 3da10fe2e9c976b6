# SPDX-License-Identifier: Apache-2.0
"""What `Factorized` sweeps over, and a stretch of its training in one kernel call."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from symfast.factor_steps import AdaptiveSteps, RandomSteps
from symfast.factor_sweep import MAX_DEPTH, FactorSweep, factor_sweep
from symfast.problems.coordinates import Coordinates
from symfast.problems.factor_start import PENALTIES, penalty_schedule
from symfast.problems.problem import Axis, Replicas, State, Stretch
from symfast.problems.schedule import SCHEDULES, schedule
from symfast.replica import Rule

#: One value for a whole sweep; `Factorized.options` tells what they mean.
OPTIONS: Mapping[str, Any] = {"tol": 0.0, "check_every": 100, "epoch": 100, "ratio": 0.95}


#: What a user of AdamW is told.
_NO_PENALTY = (
    "AdamW shrinks factors beside their gradients: that is no penalty of their product, and the "
    'sparse solutions of SGD are not found; optimizer="adam" couples the decay'
)


def check_optimizer(optimizer: str) -> None:
    """Refuse what is no optimizer of the kernel, and warn of AdamW.

    Raises:
        ValueError: if there is no such optimizer.

    Example:
        >>> from symfast.problems.factor_train import check_optimizer
        >>> check_optimizer("adam")
    """
    if optimizer not in get_args(Rule):
        known = ", ".join(get_args(Rule))
        raise ValueError(f"optimizer must be one of {known}, not {optimizer!r}")
    if optimizer == "adamw":
        warnings.warn(_NO_PENALTY, stacklevel=4)


def factor_axes(depths: tuple[int, ...], scale: float, optimizer: Rule) -> Mapping[str, Axis]:
    """Return the axes of product factors, slowest in a grid first.

    Example:
        >>> from symfast.problems.factor_train import factor_axes
        >>> list(factor_axes((2,), 0.1, "sgd"))[-3:]
        ['gradient_noise', 'label_noise', 'weight_decay']
    """
    moments = optimizer != "sgd"
    most = 1 - 1e-9 if moments else math.inf
    return {
        "depth": Axis(depths, low=1, high=MAX_DEPTH, integer=True),
        "penalty_schedule": Axis("constant", choices=PENALTIES),
        "schedule": Axis("constant", choices=SCHEDULES),
        "scale": Axis(scale),
        "batch_size": Axis(0, integer=True, high=2**31),
        "lr": Axis(0.001 if moments else 0.1),
        "momentum": Axis(0.9, high=most),
        **({"beta2": Axis(0.999, high=most), "eps": Axis(1e-8, low=1e-30)} if moments else {}),
        "gradient_noise": Axis(0.0),
        "label_noise": Axis(0.0),
        "weight_decay": Axis(0.0),
    }


def train_factors(
    at: Coordinates,
    optimizer: Rule,
    state: State,
    replicas: Replicas,
    stretch: Stretch,
    rows: Tensor,
) -> FactorSweep:
    """Train some replicas for a stretch.

    Args:
        at: the regression in its trained coordinates.
        optimizer: "sgd", "adam" or "adamw".
        state: of all replicas; not changed.
        replicas: those to train.
        stretch: which steps.
        rows: (B,) where in the state the replicas are.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.problems.factor_train import train_factors
        >>> from symfast.problems.problem import Replicas, Stretch
        >>> problem = Factorized(torch.eye(2), torch.ones(2))
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> cells = {name: torch.zeros(1) for name in problem.axes} | {"depth": zero + 2}
        >>> replicas = Replicas(cells, seeds=zero, keys=zero)
        >>> state = problem.start(replicas, dtype=torch.float64, device=torch.device("cpu"))
        >>> stretch = Stretch(first=0, steps=5, total=5, progress=torch.zeros(2, dtype=torch.int64))
        >>> train_factors(problem.at, "sgd", state, replicas, stretch, zero).steps.tolist()
        [5]
    """
    like, cells = state["w"], replicas.cells
    options = {**OPTIONS, **stretch.options}
    penalty = penalty_schedule(stretch, options.pop("epoch"), options.pop("ratio"))
    with stretch.counter(like.device) as counter:
        return factor_sweep(
            at.gram.to(like),
            at.linear.to(like),
            state["factors"][rows],
            velocity=state["velocity"][rows],
            depth=cells["depth"].to(like.device, torch.int64),
            factored=at.factored.to(like.device),
            group=at.group.to(like.device),
            lr=cells["lr"].to(like),
            momentum=cells["momentum"].to(like),
            lam=cells["weight_decay"].to(like),
            schedule=penalty.to(like),
            kind=cells["penalty_schedule"].to(like.device, torch.int64),
            lr_schedule=schedule(stretch).T.to(like),
            lr_kind=cells["schedule"].to(like.device, torch.int64),
            random=_random(at, replicas, stretch, like),
            adaptive=_adaptive(optimizer, state, cells, stretch, rows),
            steps=stretch.steps,
            progress=counter,
            **options,
        )


def _adaptive(
    optimizer: Rule, state: State, cells: Mapping[str, Tensor], stretch: Stretch, rows: Tensor
) -> AdaptiveSteps | None:
    """Adam's or AdamW's rates and second moments."""
    if optimizer == "sgd":
        return None
    beta2, eps = cells["beta2"].to(state["w"]), cells["eps"].to(state["w"])
    return AdaptiveSteps(optimizer, beta2, eps, state["second"][rows], stretch.first)


def _random(
    at: Coordinates, replicas: Replicas, stretch: Stretch, like: Tensor
) -> RandomSteps | None:
    """Minibatches and noise, if any replica has them."""
    cells = replicas.cells
    kinds = "batch_size", "label_noise", "gradient_noise"
    if not any(bool((cells[name] != 0).any()) for name in kinds):
        return None
    return RandomSteps(
        at.x.to(like),
        at.y.to(like),
        seed=replicas.seeds.to(like.device),
        cell=(replicas.keys & 0xFFFFFFFF).to(like.device),
        batch=cells["batch_size"].to(like.device, torch.int64),
        label_noise=cells["label_noise"].to(like),
        gradient_noise=cells["gradient_noise"].to(like),
        first_step=stretch.first,
        by_output=at.by_output,
    )
