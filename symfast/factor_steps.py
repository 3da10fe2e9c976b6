# SPDX-License-Identifier: Apache-2.0
"""What the steps of a product-factor sweep may have beside SGD: rates, moments, random numbers."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from symfast.reference.replica import ADAM, ADAMW, SGD


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


class AdaptiveSteps(NamedTuple):
    """Adam or AdamW on the factors, with the ``momentum`` of the sweep as the first moment's rate.

    The decay 2 lam / D of a factor is coupled, part of the gradient, or decoupled as in AdamW.
    """

    rule: Literal["adam", "adamw"]
    beta2: Tensor | float = 0.999  # number or (B,)
    eps: Tensor | float = 1e-8
    second: Tensor | None = None  # (B, D, d), zero if left out; pass it back to go on
    first_step: int = 0  # steps taken before, for the bias corrections


def per_replica(like: Tensor, **values: Tensor | float) -> list[Tensor]:
    """Return (B,) tensors of hyperparameters in the dtype and on the device of the factors.

    Raises:
        ValueError: if one is not a number or one for each replica, finite and not negative.

    Example:
        >>> import torch
        >>> from symfast.factor_steps import per_replica
        >>> per_replica(torch.ones(2, 1, 1), lr=0.5)[0].tolist()
        [0.5, 0.5]
    """
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


def schedule_arguments(
    like: Tensor, name: str, schedule: Tensor | None, kind: Tensor | None, steps: int
) -> tuple[Tensor, Tensor]:
    """Return factors (kinds, steps) of a rate and the row (B,) of every replica, by default ones.

    Raises:
        ValueError: if the schedule has another number of steps.

    Example:
        >>> import torch
        >>> from symfast.factor_steps import schedule_arguments
        >>> schedule_arguments(torch.ones(2, 1, 1), "schedule", None, None, 3)[0].tolist()
        [[1.0, 1.0, 1.0]]
    """
    if schedule is None:
        schedule = like.new_ones(1, steps)
    if kind is None:
        kind = torch.zeros(len(like), dtype=torch.int64, device=like.device)
    if schedule.ndim != 2 or schedule.shape[1] != steps:
        raise ValueError(f"{name} must have shape (kinds, {steps})")
    return schedule.to(like), kind


def moment_arguments(
    like: Tensor, momentum: Tensor, adaptive: AdaptiveSteps | None
) -> tuple[Tensor, Tensor]:
    """Return the second moment and rows beta2 and eps (2, B); both empty for SGD.

    Raises:
        ValueError: if the rule is unknown, a rate out of range, or the second moment of another
            shape, dtype or device.

    Example:
        >>> import torch
        >>> from symfast.factor_steps import AdaptiveSteps, moment_arguments
        >>> rates = moment_arguments(torch.ones(1, 1, 1), torch.zeros(1), AdaptiveSteps("adam"))[1]
        >>> rates.flatten().tolist() == torch.tensor([0.999, 1e-8]).tolist()
        True
    """
    if adaptive is None:
        return like[:, :0], like.new_zeros(2, 0)
    if adaptive.rule not in ("adam", "adamw"):
        raise ValueError(f'rule must be "adam" or "adamw", not {adaptive.rule!r}')
    beta2, eps = per_replica(like, beta2=adaptive.beta2, eps=adaptive.eps)
    if bool((beta2 >= 1).any()) or bool((momentum >= 1).any()) or bool((eps == 0).any()):
        raise ValueError("of Adam momentum and beta2 must be below 1 and eps above 0")
    second = torch.zeros_like(like) if adaptive.second is None else adaptive.second
    if second.shape != like.shape or second.dtype != like.dtype or second.device != like.device:
        raise ValueError(f"second must match factors, {like.dtype} of shape {tuple(like.shape)}")
    return second, torch.stack([beta2, eps])


def random_arguments(
    like: Tensor, random: RandomSteps | None, adaptive: AdaptiveSteps | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, bool, int, int]:
    """Return x, y, noise (2, B), draws (3, B), by_output, the rule's code and first_step.

    Raises:
        ValueError: if random numbers and moments start at different steps.

    Example:
        >>> import torch
        >>> from symfast.factor_steps import random_arguments
        >>> random_arguments(torch.ones(2, 1, 3), None, None)[2].shape
        torch.Size([2, 0])
    """
    rule = SGD if adaptive is None else ADAM if adaptive.rule == "adam" else ADAMW
    if random is None:
        d, replicas = like.shape[2], 0 if adaptive is None else len(like)
        none = torch.zeros(3, replicas, dtype=torch.int64, device=like.device)
        x, y = like.new_zeros(0, d), like.new_zeros(0, 1)
        first_step = 0 if adaptive is None else adaptive.first_step
        return x, y, like.new_zeros(2, replicas), none, False, rule, first_step
    if adaptive is not None and adaptive.first_step != random.first_step:
        raise ValueError(
            f"random steps begin at {random.first_step}, adaptive ones at {adaptive.first_step}"
        )
    noise = per_replica(like, label_noise=random.label_noise, gradient_noise=random.gradient_noise)
    draws = torch.stack([random.seed, random.cell, random.batch]).to(like.device)
    arrays = random.x.to(like), random.y.to(like), torch.stack(noise), draws
    return *arrays, random.by_output, rule, random.first_step
