# SPDX-License-Identifier: Apache-2.0
"""Carry one symmetry group of a model onto the same group of an anchor, one kind at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from symfast.head_match import scale_between
from symfast.polar import polar
from symfast.sides import gather, sides
from symfast.symmetry_group import SymmetryGroup


def side_rows(group: SymmetryGroup) -> tuple[Tensor, Tensor]:
    """Unit matrices of what is multiplied (in, bias) and divided (out) by a rescaling."""
    device = group.members[0].tensor.device
    written, read = (gather(side, group.m, device) for side in sides(group))
    return written, read


def distance(group: SymmetryGroup, anchor: SymmetryGroup) -> float:
    """Euclidean distance between the unit matrices, norm statistics included."""
    return float((gather(group.members, group.m) - gather(anchor.members, anchor.m)).norm())


def rotations(
    pairs: Sequence[tuple[SymmetryGroup, SymmetryGroup]], written: bool = False
) -> Tensor:
    """Return the rotations (groups, m, m) that bring groups of m units nearest to their anchors.

    ``polar(U1 U2^T)`` of (group, anchor) pairs, all heads of a layer in one call; ``written`` as in
    `match_`.
    """
    both = [_compared(*pair, written) for pair in pairs]
    return polar(torch.stack([first @ second.mT for first, second in both]))


def match_(
    group: SymmetryGroup,
    anchor: SymmetryGroup,
    kind: str,
    written: bool = False,
    rotation: Tensor | None = None,
) -> None:
    """Move ``group`` in place to the element of ``kind`` that is nearest to ``anchor``.

    permutation: assignment on ``U1 U2^T`` (units brought to balanced gauge first if they may be
    rescaled, absolute values if they may be flipped). rotation: ``polar(U1 U2^T)``. sign_flip: the
    sign of ``<u1_j, u2_j>``. rescale, scale: the positive root of a quartic, per unit or for all.
    ``written`` compares only what writes the units: from the input on, that does not depend on
    groups not matched yet. ``rotation`` is the matrix of `rotations`, where it is known already.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind == "permutation":
        group.apply_permutation_(_assignment(group, anchor, written))
    elif kind == "rotation":
        found = rotations([(group, anchor)], written)[0] if rotation is None else rotation
        group.apply_rotation_(found)
    elif kind == "sign_flip":
        first, second = _compared(group, anchor, written)
        group.apply_scaling_(torch.where((first * second).sum(1) < 0, -1.0, 1.0).double())
    elif kind in ("rescale", "scale"):
        (A1, B1), (A2, B2) = side_rows(anchor), side_rows(group)
        if kind == "scale":
            A1, B1, A2, B2 = (x.reshape(1, -1) for x in (A1, B1, A2, B2))
        if written:
            factors = _ratio(A1.norm(dim=1), A2.norm(dim=1))
        else:
            factors = scale_between(A1[:, None], B1[:, None], A2[:, None], B2[:, None])
        group.apply_scaling_(factors.expand(group.m))
    else:
        raise ValueError(f"there is no matching for the kind {kind!r}")


def _compared(group: SymmetryGroup, anchor: SymmetryGroup, written: bool) -> tuple[Tensor, Tensor]:
    """Unit matrices U1 of the anchor and U2 of the group, or of what writes them."""
    first, second = (torch.cat(side_rows(x)[: 1 if written else 2], 1) for x in (anchor, group))
    return first, second


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """A / b where both are positive, else 1."""
    usable = (a > 0) & (b > 0)
    return torch.where(usable, a / torch.where(usable, b, 1), 1)


def _assignment(group: SymmetryGroup, anchor: SymmetryGroup, written: bool) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    first, second = (_gauged(x, group.kinds, written) for x in (anchor, group))
    gain = first @ second.mT
    if "sign_flip" in group.kinds:
        gain = gain.abs()
    _, columns = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    return torch.as_tensor(columns)


def _gauged(group: SymmetryGroup, kinds: tuple[str, ...], written: bool) -> Tensor:
    """The unit matrix, with in and out of each unit brought to equal norm where that is free."""
    into, read = side_rows(group)
    if written:
        return torch.nn.functional.normalize(into, dim=1) if "rescale" in kinds else into
    if "rescale" not in kinds:
        return gather(group.members, group.m)
    s = _ratio(read.norm(dim=1, keepdim=True), into.norm(dim=1, keepdim=True)).sqrt()
    return torch.cat([s * into, read / s], 1)
