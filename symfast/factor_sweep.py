# SPDX-License-Identifier: Apache-2.0
"""The persistent product-factor sweep: many whole training runs in one operator call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from symfast import ops
from symfast.factor_steps import (
    AdaptiveSteps,
    RandomSteps,
    moment_arguments,
    per_replica,
    random_arguments,
    schedule_arguments,
)
from symfast.reference import factor_sweep as reference

#: Largest number of factors of one weight; csrc/factor_sweep.h has the same number.
MAX_DEPTH = 6
#: Names of the values of `FactorSweep.status`.
STATUS = ("finished", "converged", "diverged", "cancelled")

ops.define(
    "factor_sweep",
    "(Tensor gram, Tensor linear, Tensor factors, Tensor velocity, Tensor second, Tensor depth, "
    "Tensor factored, Tensor lr, Tensor momentum, Tensor lam, Tensor moments, Tensor schedule, "
    "Tensor kind, Tensor lr_schedule, Tensor lr_kind, Tensor group, Tensor x, Tensor y, "
    "Tensor noise, Tensor draws, bool by_output, int rule, int first_step, float tol, "
    "int check_every, Tensor(a!) progress) -> (Tensor w, Tensor factors, Tensor velocity, "
    "Tensor steps, Tensor residual, Tensor status, Tensor second)",
    reference.factor_sweep,
)


class FactorSweep(NamedTuple):
    """What the sweep returns; B replicas, D factor slots, d coordinates."""

    weight: Tensor  # (B, d), product of the factors
    factors: Tensor  # (B, D, d)
    velocity: Tensor  # (B, D, d), pass it back to go on
    steps: Tensor  # (B,) int64, steps used
    residual: Tensor  # (B,), max |dw| between the last two checks
    status: Tensor  # (B,) int64, index into STATUS
    second: Tensor  # (B, D, d) second moment of Adam; (B, 0, d) for SGD


def factor_sweep(
    gram: Tensor, linear: Tensor, factors: Tensor, *,
    steps: int,
    lr: Tensor | float,
    momentum: Tensor | float = 0.0,
    lam: Tensor | float = 0.0,
    depth: Tensor | int | None = None,
    factored: Tensor | None = None,
    velocity: Tensor | None = None,
    tol: float = 0.0,
    check_every: int = 100,
    progress: Tensor | None = None,
    schedule: Tensor | None = None, kind: Tensor | None = None,
    lr_schedule: Tensor | None = None, lr_kind: Tensor | None = None,
    random: RandomSteps | None = None,
    adaptive: AdaptiveSteps | None = None,
    group: Tensor | None = None,
    operator: Callable[..., tuple[Tensor, ...]] | None = None,
) -> FactorSweep:  # fmt: skip
    """Train the factors of B least-squares replicas, all steps in one kernel call.

    Minimises ``1/2 w^T Gram w - c^T w + lam ||w||_{2/D}^{2/D}`` over w = f_1 ... f_D through
    ``v_j = m v_j + g prod_{e != j} f_e + (2 lam / D) f_j``, ``f_j = f_j - lr v_j``: torch's SGD
    with weight decay 2 lam / D on every factor (Ziyin & Wang 2023; Kolb et al. 2025). With
    ``adaptive`` it is torch's Adam or AdamW with that decay instead; AdamW's is no penalty. With
    ``group`` the coordinates of a group share f_2 ... f_D, their gates, and the penalty is ``lam
    ||w_group||_2^{2/D}`` (D-Gating): every coordinate holds a copy of them, and all copies take the
    step of the sum of their gradients, so start them equal. With ``random`` steps see minibatches
    and noise. A replica alone gives the same bits as
    in a sweep of the same dtype on the same processor. Inputs are not changed and no gradient
    flows. A CUDA kernel looks at a request to cancel only when it starts.

    Args:
        gram: (d, d), symmetric, float32 or float64; X^T X / n for least squares.
        linear: (d,), X^T y / n.
        factors: (B, D, d) start; slots beyond a replica's depth are ignored.
        steps: steps of every replica.
        lr: step size, number or (B,).
        momentum: number or (B,); the rate of Adam's first moment.
        lam: penalty weight, number or (B,).
        depth: number of factors per replica, number or (B,) int64; D if left out.
        factored: (d,) bool; False makes a coordinate a plain weight without decay.
        velocity: (B, D, d) start, zero if left out; Adam's first moment.
        tol: stop a replica once max |dw| between two checks is below it; 0 never stops.
        check_every: steps between two checks for convergence, divergence and cancelling.
        progress: (2,) int64; the kernel adds replica steps to [0] and stops if [1] is set.
        schedule: (kinds, steps) factors of lam for the steps to do; constant if left out.
        kind: (B,) int64, row of the schedule; 0 if left out.
        lr_schedule: (kinds, steps) factors of lr for the steps to do; constant if left out.
        lr_kind: (B,) int64, row of it; 0 if left out.
        random: minibatches, label noise and gradient noise; none if left out.
        adaptive: Adam or AdamW; SGD if left out.
        group: (d,) int64, the first coordinate of each one's group; groups lie together, and a
            coordinate that is not factored is one of its own.
        operator: what computes; `symfast.reference.factor_sweep` to compare it with the kernel.

    Raises:
        ValueError: if shapes, dtypes, devices or ranges do not fit.

    Example:
        >>> import torch
        >>> from symfast.factor_sweep import factor_sweep
        >>> start = torch.tensor([1.0, 0.0]).reshape(1, 2, 1)
        >>> out = factor_sweep(torch.eye(1), torch.ones(1), start, steps=2000, lr=0.1, lam=0.25)
        >>> round(out.weight.item(), 4)
        0.75
    """
    _check_problem(gram, linear, factors, velocity, factored)
    _check_stops(steps, check_every, tol)
    depth = _depths(factors, depth)
    factored = torch.ones_like(linear, dtype=torch.bool) if factored is None else factored
    velocity = torch.zeros_like(factors) if velocity is None else velocity
    progress = depth.new_zeros(2) if progress is None else progress
    rates = per_replica(factors, lr=lr, momentum=momentum, lam=lam)
    second, moments = moment_arguments(factors, rates[1], adaptive)
    with torch.no_grad():
        found = (operator or torch.ops.symfast.factor_sweep.default)(
            gram, linear, factors, velocity, second, depth, factored, *rates, moments,
            *schedule_arguments(factors, "schedule", schedule, kind, steps),
            *schedule_arguments(factors, "lr_schedule", lr_schedule, lr_kind, steps),
            depth.new_zeros(0) if group is None else group,
            *random_arguments(factors, random, adaptive), tol, check_every, progress,
        )  # fmt: skip
    return FactorSweep(*found)


def _check_problem(
    gram: Tensor, linear: Tensor, factors: Tensor, velocity: Tensor | None, factored: Tensor | None
) -> None:
    """Refuse shapes, dtypes and devices that do not fit together."""
    if factors.ndim != 3 or not 1 <= factors.shape[1] <= MAX_DEPTH:
        raise ValueError(
            f"factors must have shape (replicas, depth, d) with depth 1 to {MAX_DEPTH}, "
            f"not {tuple(factors.shape)}"
        )
    if factors.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"factors must be float32 or float64, not {factors.dtype}")
    d = factors.shape[2]
    wanted = {"gram": (gram, (d, d)), "linear": (linear, (d,))}
    if velocity is not None:
        wanted["velocity"] = (velocity, tuple(factors.shape))
    for name, (x, shape) in wanted.items():
        if x.shape != shape or x.dtype != factors.dtype or x.device != factors.device:
            raise ValueError(
                f"{name} must be {factors.dtype} of shape {shape} on {factors.device}, "
                f"not {x.dtype} of shape {tuple(x.shape)} on {x.device}"
            )
    if factored is not None and (factored.shape != (d,) or factored.dtype != torch.bool):
        raise ValueError(f"factored must be a bool tensor of shape ({d},)")


def _check_stops(steps: int, check_every: int, tol: float) -> None:
    """Refuse numbers of steps and tolerances out of range."""
    if steps < 0 or check_every < 1 or not tol >= 0:
        raise ValueError(
            f"steps {steps}, check_every {check_every} and tol {tol} must be at least 0, 1 and 0"
        )


def _depths(factors: Tensor, depth: Tensor | int | None) -> Tensor:
    """The (B,) depths; all factor slots if none is given."""
    replicas, slots, _ = factors.shape
    every = torch.as_tensor(slots if depth is None else depth, device=factors.device)
    if every.dtype != torch.int64 or bool(((every < 1) | (every > slots)).any()):
        raise ValueError(f"depth must be integers from 1 to the {slots} factors given")
    if every.ndim > 1 or (every.ndim == 1 and len(every) != replicas):
        raise ValueError(
            f"depth must be a number or hold one number for each of {replicas} replicas"
        )
    return every.expand(replicas)


def _factor_sweep_fake(
    gram: Tensor,
    linear: Tensor,
    factors: Tensor,
    velocity: Tensor,
    second: Tensor,
    depth: Tensor,
    *others: Any,
) -> tuple[Tensor, ...]:
    """Shapes and dtypes of the outputs."""
    replicas, _, d = factors.shape
    shape = tuple(factors.shape)
    return (
        factors.new_empty(replicas, d),
        factors.new_empty(shape),
        factors.new_empty(shape),
        depth.new_empty(replicas),
        factors.new_empty(replicas),
        depth.new_empty(replicas),
        factors.new_empty(tuple(second.shape)),
    )


torch.library.register_fake("symfast::factor_sweep", _factor_sweep_fake, lib=ops.LIBRARY)
