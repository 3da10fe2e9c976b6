# SPDX-License-Identifier: Apache-2.0
"""Mirrors between hidden units in plain torch, as csrc/unit_mirrors.h applies them after a step."""

import torch
from torch import Tensor

#: Names by the codes of ``Constraint`` in csrc/unit_mirrors.h.
CONSTRAINTS = ("none", "project", "shrink", "prox")
NONE, PROJECT, SHRINK, PROX = range(4)


def constrain(
    U: Tensor, constraint: int, amount: Tensor, offsets: Tensor, members: Tensor, directions: Tensor
) -> Tensor:
    """Unit matrices ``U + A (f(C) - C)``, ``C = A^T U``, one mirror after the other.

    Args:
        U: (R, h, n), a row for each unit.
        constraint: PROJECT, SHRINK or PROX (elementwise; a cluster's frame is Helmert's).
        amount: (R,), of shrink and prox.
        offsets: (groups + 1,) int64; group g is ``members[offsets[g]:offsets[g + 1]]``, one unit
            for its sign flip, several for their permutation.
        members: unit numbers, int64.
        directions: (k, h), orthonormal rows, applied after the groups.

    Returns:
        (R, h, n)

    Example:
        >>> import torch
        >>> from symfast.reference.unit_mirrors import PROJECT, constrain
        >>> U, table = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([0, 2, 3])
        >>> every, none = torch.tensor([0, 1, 2]), torch.zeros(0, 3)
        >>> constrain(U, PROJECT, torch.zeros(1), table, every, none).flatten().tolist()
        [2.0, 2.0, 0.0]
    """
    U, a = U.clone(), amount[:, None, None]
    for start, end in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
        group = members[start:end]
        U[:, group] = _group(U[:, group], constraint, a)
    for row in directions:
        c = row @ U  # (R, n)
        change = _coefficient(c, constraint, a[:, 0]) - c
        U = U + row[:, None] * change[:, None]
    return U


def _coefficient(c: Tensor, constraint: int, amount: Tensor) -> Tensor:
    """f(c)."""
    if constraint == PROJECT:
        return c - c  # not 0: NaN and infinity must show
    if constraint == SHRINK:
        return c * (1 - amount)
    return torch.where(c > amount, c - amount, torch.where(c < -amount, c + amount, c - c))


def _group(u: Tensor, constraint: int, amount: Tensor) -> Tensor:
    """A group (R, count, n): mean = u_0 + sum(u_i - u_0) / count is exact for equal members."""
    count = u.shape[1]
    if count == 1:
        return _coefficient(u, constraint, amount)
    d = u - u[:, :1]
    mean = u[:, :1] + d.sum(1, keepdim=True) / count
    if constraint == PROJECT:
        return mean.expand_as(u)
    if constraint == SHRINK:
        return mean + (u - mean) * (1 - amount)
    j = torch.arange(1, count, dtype=u.dtype, device=u.device)[:, None]
    size = (j * (j + 1)).sqrt()
    c = _coefficient((d.cumsum(1)[:, :-1] - j * d[:, 1:]) / size, PROX, amount) / size
    rest = c.flip(1).cumsum(1).flip(1)
    zero = torch.zeros_like(rest[:, :1])
    return mean + torch.cat([rest, zero], 1) - torch.cat([zero, j * c], 1)
