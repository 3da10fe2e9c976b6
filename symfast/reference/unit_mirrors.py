# SPDX-License-Identifier: Apache-2.0
"""Mirrors between hidden units in plain torch, as csrc/unit_mirrors.h applies them after a step."""

from torch import Tensor

from symfast.reference.plan import new_cluster, new_coefficients

#: Names by the codes of ``Constraint`` in csrc/unit_mirrors.h: `symfast.codes` but for the first.
CONSTRAINTS = ("none", "project", "shrink", "prox")
NONE = 0


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
        >>> from symfast.codes import PROJECT
        >>> from symfast.reference.unit_mirrors import constrain
        >>> U, table = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([0, 2, 3])
        >>> every, none = torch.tensor([0, 1, 2]), torch.zeros(0, 3)
        >>> constrain(U, PROJECT, torch.zeros(1), table, every, none).flatten().tolist()
        [2.0, 2.0, 0.0]
    """
    U, a = U.clone(), amount[:, None, None]
    for start, end in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
        group = members[start:end]
        move = new_cluster if end - start > 1 else new_coefficients
        U[:, group] = move(U[:, group], constraint, a)
    for row in directions:
        c = row @ U  # (R, n)
        change = new_coefficients(c, constraint, a[:, 0]) - c
        U = U + row[:, None] * change[:, None]
    return U
