# SPDX-License-Identifier: Apache-2.0
"""What one group of units tells: zero and equal units, ranks, charges, distance to every mirror."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symfast.charges import charge_row
from symfast.duplicates import UpTo, equality_tolerance
from symfast.measure import Measured, measure
from symfast.rank import effective_ranks, numerical_ranks, rank_tolerance, stable_ranks
from symfast.sides import SideGrams
from symfast.symmetry_group import ROLES, SymmetryGroup
from symfast.units import Units

#: Groups of more units than this have no full pair distances unless asked for.
PAIRS_UP_TO = 4096
#: A unit is zero if its norm is at most this share of the largest, however coarse the dtype.
ZERO = 1e-6


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """One group, measured. Counts are numbers of units; docs/inspect.md defines every column.

    Attributes:
        name: the group's place in the model.
        kinds: its proved symmetries; empty for a matrix of a file, where nothing is proved.
        row: the columns of the table; None where a quantity does not apply or was not measured.
        units: numbers of the units found, per finding.
        members: names and roles of the tensors.
        values: singular values of U, descending; None if it holds NaN or infinity.
        product: singular values of ``in^T out`` (QK, VO, linear pairs), if the group has them.
        norms: (m,) unit norms.
        distances: (s, s) smallest distance in each tile of the pair distances over the
            root mean square norm, s <= 64; None for large groups.
    """

    name: str
    kinds: tuple[str, ...]
    row: dict[str, Any]
    units: dict[str, list[int]] = field(default_factory=dict)
    members: tuple[tuple[str, str], ...] = ()
    values: Tensor | None = None
    product: Tensor | None = None
    norms: Tensor | None = None
    distances: Tensor | None = None


def diagnose(
    group: SymmetryGroup, tol: float | None = None, pairs_up_to: int = PAIRS_UP_TO
) -> Diagnosis:
    """Measure one group.

    Args:
        group: the group; members may be on any device and of any floating dtype.
        tol: relative distance at which units count as equal or zero; None: 4 eps, and for zero
            at most 1e-6.
        pairs_up_to: largest number of units for which all pair distances are measured.

    Example:
        >>> import torch
        >>> from symfast.diagnosis import diagnose
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> U = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> row = diagnose(SymmetryGroup((Member(U, 0, "weight", "in"),), (), where="weight")).row
        >>> row["dead"], row["duplicates"], row["rank"]
        (1, 1, 1)
    """
    return diagnose_alike([group], tol, pairs_up_to)[0]


def diagnose_alike(
    groups: Sequence[SymmetryGroup], tol: float | None = None, pairs_up_to: int = PAIRS_UP_TO
) -> list[Diagnosis]:
    """Measure groups of one make (`symfast.measure.make_of`) together, as `diagnose` does each.

    Example:
        >>> import torch
        >>> from symfast.diagnosis import diagnose_alike
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> heads = [Member(torch.eye(2, 4), 0, f"head {h}", "in") for h in range(3)]
        >>> [d.row["rank"] for d in diagnose_alike([SymmetryGroup((h,), ()) for h in heads])]
        [2, 2, 2]
    """
    units = groups[0].units
    equal = equality_tolerance(units) if tol is None else tol
    # equal units differ by rounding; small numbers do not become zeros by rounding
    zero = min(equal, ZERO) if tol is None else tol
    ways = _ways(groups[0])
    found = measure(groups, tuple(ways.values()), equal, pairs_up_to)
    rows = _columns(found, units, _found(found, ways, zero))
    norms = found.norms(*ROLES)
    for number, (group, row) in enumerate(zip(groups, rows, strict=True)):
        row |= _charge(group, found, number) if row["status"] == "ok" else {}
    return [
        _diagnosis(group, row, found, norms, number)
        for number, (group, row) in enumerate(zip(groups, rows, strict=True))
    ]


def _diagnosis(
    group: SymmetryGroup, row: dict[str, Any], found: Measured, norms: Tensor, number: int
) -> Diagnosis:
    names = tuple((member.name, member.role) for member in group.members)
    units = row.pop("units")
    if row["status"] != "ok":
        return Diagnosis(group.where, group.kinds, row, members=names)
    product = None if found.product is None else found.product[number]
    distances = None if found.distances is None else found.distances[number].float()
    values = found.values[number]
    return Diagnosis(
        group.where, group.kinds, row, units, names, values, product, norms[number], distances
    )


def _ways(group: SymmetryGroup) -> dict[str, UpTo]:
    """In which ways a unit may repeat an earlier one: up to the moves of its symmetries."""
    ways: dict[str, UpTo] = {"duplicates": "nothing"}
    if "sign_flip" in group.kinds or not group.kinds:
        ways["up_to_sign"] = "sign"
    if "rescale" in group.kinds or not group.kinds:
        ways["up_to_scale"] = "scale"
    return ways


def _found(found: Measured, ways: dict[str, UpTo], tol: float) -> list[dict[str, list[int]]]:
    """Per group: dead units (nothing written), constant ones (only a bias), unread ones, repeats.

    Dead and constant units repeat nothing.
    """
    b, m = found.norms(*ROLES).shape

    def is_zero(role: str, without: bool) -> Tensor:
        if role not in found.squares:
            return torch.full((b, m), without)
        norms = found.norms(role)
        return norms <= tol * norms.amax(1, keepdim=True)

    silent, unbiased = is_zero("in", False), is_zero("bias", True)
    masks = {
        "dead": silent & unbiased,
        "constant": silent & ~unbiased,
        "unread": is_zero("out", False),
    }
    for name, way in ways.items():
        repeats = torch.zeros(b, m, dtype=torch.bool)
        for number, labels in enumerate(found.labels):
            if labels:
                repeats[number] = labels[way] != torch.arange(m)
        masks[name] = repeats & ~silent
    lists: list[dict[str, list[int]]] = [{name: [] for name in masks} for _ in range(b)]
    for name, mask in masks.items():
        for number, unit in mask.nonzero().tolist():
            lists[number][name].append(unit)
    return lists


def _columns(
    found: Measured, units: Units, lists: list[dict[str, list[int]]]
) -> list[dict[str, Any]]:
    """The row of every group, with the numbers of its units under "units"."""
    dtype = "+".join(sorted({str(t.dtype).removeprefix("torch.") for t, _ in units}))
    head = {"m": units.m, "n": units.n, "dtype": dtype}
    numbers = _numbers(found, units)
    rows: list[dict[str, Any]] = []
    for number, (good, lost) in enumerate(zip(found.finite(), lists, strict=True)):
        row: dict[str, Any] = {**head, "status": "ok", "units": lost}
        if good:
            gone = set().union(*(lost[x] for x in ("dead", "constant", "unread", "duplicates")))
            row |= {name: len(those) for name, those in lost.items()}
            row |= {name: column[number] for name, column in numbers.items()}
            row["distinct"] = units.m - len(gone)
        else:
            row["status"] = "holds NaN or infinity"
        rows.append(row)
    return rows


def _numbers(found: Measured, units: Units) -> dict[str, list[Any]]:
    """Columns of one number per group: ranks, and the distance of the nearest mirror of each kind.

    Distances are over the root mean square norm of a unit; all zero for a zero matrix.
    """
    values, tolerance = found.values, rank_tolerance(units)
    columns: dict[str, list[Any]] = {
        "rank": numerical_ranks(values, tolerance).tolist(),
        "stable_rank": stable_ranks(values).tolist(),
        "effective_rank": effective_ranks(values).tolist(),
        "sigma_max": values[:, 0].tolist(),
        "sigma_min": values[:, -1].tolist(),
    }
    if found.product is not None:  # never below the resolution of the two Grams
        ranks = numerical_ranks(found.product, max(tolerance, 1e-7))
        columns["product_rank"] = ranks.tolist()
        columns["product_stable_rank"] = stable_ranks(found.product).tolist()
    norms = found.norms(*ROLES)
    scale = norms.square().mean(1).sqrt()
    some = scale > 0
    scale = torch.where(some, scale, 1)
    smallest = values[:, -1] if units.m <= units.n else torch.zeros_like(scale)
    columns["to_sign_flip"] = (norms.amin(1) / scale).tolist()
    columns["to_direction"] = (smallest / scale).tolist()
    columns["to_swap"] = [None] * len(scale)
    if found.nearest is not None:
        swap = (found.nearest / 2**0.5 / scale).tolist()
        columns["to_swap"] = [x if s else None for x, s in zip(swap, some.tolist(), strict=True)]
    return columns


def _charge(group: SymmetryGroup, found: Measured, number: int) -> dict[str, Any]:
    grams = {role: G[number] for role, G in found.grams.items()}
    squares = {role: x[number] for role, x in found.squares.items()}
    return charge_row(group, SideGrams(group, grams, squares))
