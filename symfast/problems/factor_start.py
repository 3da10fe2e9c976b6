# SPDX-License-Identifier: Apache-2.0
"""First factors of a factorised regression, drawn by seed; schedules of its penalty."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from symfast.factor_init import draw_factors, keep_factors, split
from symfast.problems.problem import Stretch
from symfast.schedule import constant, geometric, harmonic, quadratic

Init: TypeAlias = Literal["keep", "dwf", "pilot"]
#: Kinds of a penalty's schedule, in the order of its table.
PENALTIES = ("constant", "harmonic", "quadratic", "geometric")


def first_factors(
    depth: int, seed: int, scale: float, factored: Tensor, group: Tensor, init: Init, beta: float
) -> Tensor:
    """Return the factors (depth, d) of one replica; f_2 ... are equal within a group of gates.

    With w0 ~ N(0, scale^2): keep: all factors 1 but one, which is w0. pilot: ``f_1 ... f_D = w0``,
    all but one equal and the imbalance of that one beta (Jacobs & Burkholz, ICLR 2025). dwf:
    truncated normal factors (Kolb et al., ICLR 2025), see `symfast.factor_init.draw_factors`.

    Example:
        >>> import torch
        >>> from symfast.problems.factor_start import first_factors
        >>> every, none = torch.ones(4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
        >>> f = first_factors(2, 0, 0.1, every, none, "pilot", beta=1.0)
        >>> torch.allclose(f[0] ** 2 - f[1] ** 2, torch.ones(4, dtype=torch.float64))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(len(factored), generator=generator, dtype=torch.float64) * scale
    if init == "dwf":
        if scale == 0:
            factors = torch.zeros(depth, len(w), dtype=torch.float64)
        else:
            factors = draw_factors((len(w),), depth, scale, generator=generator)
    elif depth == 1:
        factors = w[None].clone()
    elif init == "pilot":
        factors = _split(w, depth, group, beta)
    else:
        factors = torch.ones(depth, len(w), dtype=torch.float64)
        factors[0 if len(group) else -1] = w
    factors[0] = torch.where(factored, factors[0], w)
    factors[1:] = torch.where(factored, factors[1:], 1)
    return factors


def _split(w: Tensor, depth: int, group: Tensor, beta: float) -> Tensor:
    """Factors of a weight with an imbalance of beta; by groups the gates are the equal ones."""
    if len(group) == 0:
        return torch.stack(keep_factors(w, depth, beta))
    norm = torch.zeros_like(w).index_add_(0, group, w.square()).sqrt()[group]
    gate = split(norm, depth, beta)
    own = torch.where(gate > 0, w / gate ** (depth - 1), 0)
    return torch.stack([own, *[gate] * (depth - 1)])


def penalty_schedule(stretch: Stretch, epoch: int, ratio: float) -> Tensor:
    """Return the factor (kinds, steps) of the penalty in every step, kinds as in PENALTIES.

    In epoch k = step // epoch: 1, ``1 / (1 + k)``, ``1 / (1 + k)^2``, ``ratio^k``: those of PILoT.

    Example:
        >>> import torch
        >>> from symfast.problems.factor_start import penalty_schedule
        >>> from symfast.problems.problem import Stretch
        >>> stretch = Stretch(first=1, steps=2, total=4, progress=torch.zeros(2))
        >>> penalty_schedule(stretch, epoch=2, ratio=0.9).tolist()
        [[1.0, 1.0], [1.0, 0.5], [1.0, 0.25], [1.0, 0.9]]
    """
    epochs = torch.arange(stretch.first, stretch.first + stretch.steps) // epoch
    kinds = constant, harmonic, quadratic, geometric(ratio)
    distinct, at = epochs.unique(return_inverse=True)
    rows = [[float(kind(k)) for k in distinct.tolist()] for kind in kinds]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(kinds), -1)[:, at]
