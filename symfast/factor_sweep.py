# SPDX-License-Identifier: Apache-2.0
"""The persistent product-factor sweep: many whole training runs in one operator call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from symfast import ops
from symfast.reference import factor_sweep as reference

#: Largest number of factors of one weight; csrc/factor_sweep.h has the same number.
MAX_DEPTH = 6
#: Names of the values of `FactorSweep.status`.
STATUS = ("finished", "converged", "diverged", "cancelled")

ops.define(
    "factor_sweep",
    "(Tensor gram, Tensor linear, Tensor factors, Tensor velocity, Tensor depth, Tensor factored, "
    "Tensor lr, Tensor momentum, Tensor lam, Tensor schedule, Tensor kind, Tensor lr_schedule, "
    "Tensor lr_kind, Tensor group, Tensor x, Tensor y, Tensor noise, Tensor draws, "
    "bool by_output, int first_step, float tol, int check_every, "
    "Tensor(a!) progress) -> (Tensor w, Tensor factors, Tensor velocity, Tensor steps, "
    "Tensor residual, Tensor status)",
    reference.factor_sweep,
)


class RandomSteps(NamedTuple):
    """Minibatches and noise of a sweep of B replicas over data with d = i o weights.

    A replica with a batch size above 0 or label noise takes the gradient of rows of the data,
    ``1/B sum_s x_s (x_s . w - y_s - sigma z_s)``, in every step: rows drawn with replacement from
    (seed, step), or all in order, and z from (seed, cell, step). Gradient noise adds ``sigma' z``
    to the gradient with respect to w; the factors get it as they get the gradient.
    """

    x: Tensor  # (n, i), in the dtype of the factors
    y: Tensor  # (n, o)
    seed: Tensor  # (B,) int64
    cell: Tensor  # (B,) int64 in [0, 2^32)
    batch: Tensor  # (B,) int64, 0 for all samples
    label_noise: Tensor  # (B,), standard deviations
    gradient_noise: Tensor  # (B,)
    first_step: int = 0  # number of the first step, which keys the random numbers
    by_output: bool = False  # coordinate of feature f and output k: k i + f, otherwise f o + k


class FactorSweep(NamedTuple):
    """What the sweep returns; B replicas, D factor slots, d coordinates."""

    weight: Tensor  # (B, d), product of the factors
    factors: Tensor  # (B, D, d)
    velocity: Tensor  # (B, D, d), pass it back to go on
    steps: Tensor  # (B,) int64, steps used
    residual: Tensor  # (B,), max |dw| between the last two checks
    status: Tensor  # (B,) int64, index into STATUS


def factor_sweep(
    gram: Tensor,
    linear: Tensor,
    factors: Tensor,
    *,
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
    schedule: Tensor | None = None,
    kind: Tensor | None = None,
    lr_schedule: Tensor | None = None,
    lr_kind: Tensor | None = None,
    random: RandomSteps | None = None,
    group: Tensor | None = None,
    operator: Callable[..., tuple[Tensor, ...]] | None = None,
) -> FactorSweep:
    """Run momentum SGD on the factors of B least-squares replicas, all steps in one kernel call.

    Minimises ``1/2 w^T Gram w - c^T w + lam ||w||_{2/D}^{2/D}`` over w = f_1 ... f_D through
    ``v_j = m v_j + g prod_{e != j} f_e + (2 lam / D) f_j``, ``f_j = f_j - lr v_j``: torch's SGD
    with weight decay 2 lam / D on every factor (Ziyin & Wang 2023; Kolb et al. 2025). With
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
        momentum: number or (B,).
        lam: penalty weight, number or (B,).
        depth: number of factors per replica, number or (B,) int64; D if left out.
        factored: (d,) bool; False makes a coordinate a plain weight without decay.
        velocity: (B, D, d) start, zero if left out.
        tol: stop a replica once max |dw| between two checks is below it; 0 never stops.
        check_every: steps between two checks for convergence, divergence and cancelling.
        progress: (2,) int64; the kernel adds replica steps to [0] and stops if [1] is set.
        schedule: (kinds, steps) factors of lam for the steps to do; constant if left out.
        kind: (B,) int64, row of the schedule; 0 if left out.
        lr_schedule: (kinds, steps) factors of lr for the steps to do; constant if left out.
        lr_kind: (B,) int64, row of it; 0 if left out.
        random: minibatches, label noise and gradient noise; none if left out.
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
    group = depth.new_zeros(0) if group is None else group
    with torch.no_grad():
        found = (operator or torch.ops.symfast.factor_sweep.default)(
            gram, linear, factors, velocity, depth, factored,
            *_per_replica(factors, lr=lr, momentum=momentum, lam=lam),
            *_schedule(factors, "schedule", schedule, kind, steps),
            *_schedule(factors, "lr_schedule", lr_schedule, lr_kind, steps),
            group, *_random(factors, random), tol, check_every, progress,
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


def _per_replica(like: Tensor, **values: Tensor | float) -> list[Tensor]:
    """The (B,) tensors of hyperparameters in the dtype and on the device of the factors."""
    found = []
    for name, x in values.items():
        value = torch.as_tensor(x, dtype=like.dtype, device=like.device)
        if value.ndim > 1 or (value.ndim == 1 and len(value) != len(like)):
            raise ValueError(
                f"{name} must be a number or hold one number for each of {len(like)} replicas"
            )
        if not bool(value.isfinite().all()) or bool((value < 0).any()):
            raise ValueError(f"{name} must be finite and not negative")
        found.append(value.expand(len(like)))
    return found


def _schedule(
    like: Tensor, name: str, schedule: Tensor | None, kind: Tensor | None, steps: int
) -> tuple[Tensor, Tensor]:
    """Factors (kinds, steps) of a rate, and the row (B,) of every replica; constant by default."""
    if schedule is None:
        schedule = like.new_ones(1, steps)
    if kind is None:
        kind = torch.zeros(len(like), dtype=torch.int64, device=like.device)
    if schedule.ndim != 2 or schedule.shape[1] != steps:
        raise ValueError(f"{name} must have shape (kinds, {steps})")
    return schedule.to(like), kind


def _random(
    like: Tensor, random: RandomSteps | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, bool, int]:
    """The operator's x, y, noise (2, B), draws (3, B), by_output and first_step."""
    if random is None:
        d = like.shape[2]
        none = torch.zeros(3, 0, dtype=torch.int64, device=like.device)
        x, y = like.new_zeros(0, d), like.new_zeros(0, 1)
        return x, y, like.new_zeros(2, 0), none, False, 0
    noise = _per_replica(like, label_noise=random.label_noise, gradient_noise=random.gradient_noise)
    draws = torch.stack([random.seed, random.cell, random.batch]).to(like.device)
    arrays = random.x.to(like), random.y.to(like), torch.stack(noise), draws
    return *arrays, random.by_output, random.first_step


def _factor_sweep_fake(
    gram: Tensor, linear: Tensor, factors: Tensor, velocity: Tensor, depth: Tensor, *others: Any
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
    )


torch.library.register_fake("symfast::factor_sweep", _factor_sweep_fake, lib=ops.LIBRARY)
