# SPDX-License-Identifier: Apache-2.0
"""What one group of units tells: zero and equal units, ranks, charges, distance to every mirror."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symfast.charges import charge_of, unit_squares
from symfast.duplicates import UpTo, equal_classes, equality_tolerance
from symfast.gram import (
    BLOCK,
    dual_gram,
    gram,
    pair_distances,
    resolved_spectrum,
    row_blocks,
    unit_rows,
)
from symfast.rank import (
    effective_rank,
    numerical_rank,
    product_spectrum,
    rank_tolerance,
    stable_rank,
)
from symfast.symmetry_group import Member, SymmetryGroup
from symfast.units import Units

#: Groups of more units than this have no full pair distances unless asked for.
PAIRS_UP_TO = 4096
#: A unit is zero if its norm is at most this share of the largest, however coarse the dtype.
ZERO = 1e-6
#: Side of the stored map of distances.
MAP = 64


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
    units = group.units
    row: dict[str, Any] = {"m": group.m, "n": group.n, "dtype": _dtype_name(units)}
    names = tuple((member.name, member.role) for member in group.members)
    squares = [unit_squares([member]).cpu() for member in group.members]
    norms = torch.stack(squares).sum(0).sqrt()
    if not bool(torch.isfinite(norms).all()):
        row["status"] = "holds NaN or infinity"
        return Diagnosis(group.where, group.kinds, row, members=names)
    row["status"] = "ok"
    if tol is None:
        # equal units differ by rounding; small numbers do not become zeros by rounding
        zero, tol = min(equality_tolerance(units), ZERO), equality_tolerance(units)
    else:
        zero = tol
    found = _zero_units(group, squares, zero)
    silent = [*found["dead"], *found["constant"]]
    found |= _equal_units(group, silent, tol)
    row |= {name: len(numbers) for name, numbers in found.items()}
    gone = set().union(*(found[name] for name in ("dead", "constant", "unread", "duplicates")))
    row["distinct"] = group.m - len(gone)
    G = gram(units) if group.m <= group.n else None
    values = resolved_spectrum(units, dual_gram(units) if G is None else G).cpu()
    row |= _ranks(units, values)
    product = _product(group)
    if product is not None:
        row["product_rank"] = numerical_rank(product, _product_tolerance(group))
        row["product_stable_rank"] = stable_rank(product)
    nearest, distances = _pairs(units, G, pairs_up_to)
    row |= _mirror_distances(group, values, norms, nearest)
    row |= _charge_columns(group)
    return Diagnosis(group.where, group.kinds, row, found, names, values, product, norms, distances)


def _dtype_name(units: Units) -> str:
    return "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor, _ in units}))


def _by_role(group: SymmetryGroup, *roles: str) -> list[Member]:
    return [member for member in group.members if member.role in roles]


def _zero_units(group: SymmetryGroup, squares: list[Tensor], tol: float) -> dict[str, list[int]]:
    """Dead (nothing written), constant (only a bias), unread (nothing reads them)."""

    def is_zero(role: str, without: bool) -> Tensor:
        parts = [s for s, member in zip(squares, group.members, strict=True) if member.role == role]
        if not parts:
            return torch.full((group.m,), without)
        norms = torch.stack(parts).sum(0).sqrt()
        return norms <= tol * norms.max()

    silent, unbiased = is_zero("in", False), is_zero("bias", True)
    return {
        "dead": _numbers(silent & unbiased),
        "constant": _numbers(silent & ~unbiased),
        "unread": _numbers(is_zero("out", False)),
    }


def _equal_units(group: SymmetryGroup, silent: list[int], tol: float) -> dict[str, list[int]]:
    """Units that repeat an earlier one in what is written; sign and scale where they are moves."""
    writers = _by_role(group, "in", "bias", "norm")
    if not _by_role(group, "in"):
        writers = list(group.members)
    ways: dict[str, UpTo] = {"duplicates": "nothing"}
    if "sign_flip" in group.kinds or not group.kinds:
        ways["up_to_sign"] = "sign"
    if "rescale" in group.kinds or not group.kinds:
        ways["up_to_scale"] = "scale"
    units = Units([(member.tensor, member.dim) for member in writers])
    classes = equal_classes(units, tuple(ways.values()), tol)
    found: dict[str, list[int]] = {}
    for name, up_to in ways.items():
        repeats = classes[up_to] != torch.arange(group.m)
        repeats[silent] = False
        found[name] = _numbers(repeats)
    return found


def _ranks(units: Units, values: Tensor) -> dict[str, Any]:
    tolerance = rank_tolerance(units)
    return {
        "rank": numerical_rank(values, tolerance),
        "stable_rank": stable_rank(values),
        "effective_rank": effective_rank(values),
        "sigma_max": float(values[0]) if len(values) else 0.0,
        "sigma_min": float(values[-1]) if len(values) else 0.0,
    }


def _product(group: SymmetryGroup) -> Tensor | None:
    """Spectrum of ``in^T out`` where the units can be rotated: the rank of what they carry."""
    writers, readers = _by_role(group, "in"), _by_role(group, "out")
    if not writers or not readers or not {"rotation"} & {*group.kinds, *group.unproved}:
        return None
    sides = [[(member.tensor, member.dim) for member in side] for side in (writers, readers)]
    return product_spectrum(*(gram(side).cpu() for side in sides))


def _product_tolerance(group: SymmetryGroup) -> float:
    """As for one matrix, but never below the resolution of the two Grams."""
    return max(rank_tolerance(group.units), 1e-7)


def _pairs(units: Units, G: Tensor | None, up_to: int) -> tuple[float | None, Tensor | None]:
    """Smallest distance of two units, and the map of smallest distances per tile."""
    m = units.m
    if m < 2 or m > up_to:
        return None, None
    size = min(MAP, m)
    tile = torch.arange(m) * size // m
    smallest = torch.full((size, size), torch.inf, dtype=torch.float64)
    norms = (gram_diagonal(units) if G is None else G.diagonal()).cpu()
    scale = float(norms.mean().sqrt()) or 1.0
    nearest, pair = torch.inf, (0, 0)
    for start, block in _distance_blocks(units, G, norms):
        if float(block.min()) < nearest:
            nearest, at = float(block.min()), int(block.argmin())
            pair = (start + at // block.shape[1], m - block.shape[1] + at % block.shape[1])
        columns = torch.full((len(block), size), torch.inf, dtype=torch.float64)
        columns.scatter_reduce_(1, tile[m - block.shape[1] :].expand_as(block), block, "amin")
        rows = tile[start : start + len(block), None].expand(-1, size)
        smallest.scatter_reduce_(0, rows, columns, "amin")
    smallest = torch.minimum(smallest, smallest.T)
    if nearest < 1e-6 * scale:  # the Gram has lost it to cancellation: take the difference
        nearest = _distance(units, *pair)
    # a tile of one unit with itself has no pair
    return nearest, (torch.where(smallest.isfinite(), smallest, 0.0) / scale).float()


def _distance(units: Units, a: int, b: int) -> float:
    """Distance of two units by the difference."""
    square = 0.0
    for tensor, dim in units:
        rows = unit_rows(tensor, dim)
        square += float((rows[a].double() - rows[b].double()).square().sum())
    return math.sqrt(square)


def gram_diagonal(units: Units) -> Tensor:
    """Squared norms of the units, (m,) float64.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.diagnosis import gram_diagonal
        >>> gram_diagonal(sf.Units([(torch.ones(2, 3), 0)])).tolist()
        [3.0, 3.0]
    """
    return unit_squares([Member(tensor, dim, "", "in") for tensor, dim in units])


def _distance_blocks(units: Units, G: Tensor | None, squares: Tensor) -> Any:
    """Rows of the pair distances from the diagonal on, where they are infinite; first number."""
    if G is not None:
        distances = pair_distances(G.cpu())
        yield 0, distances.fill_diagonal_(torch.inf)
        return
    height = max(1, BLOCK // units.m)
    start = 0
    for left in row_blocks(units, height):
        block = torch.cat([left @ x.T for x in row_blocks(units, height, start)], 1).cpu()
        block.mul_(-2).add_(squares[start:]).add_(squares[start : start + len(left), None])
        block.clamp_(min=0).fill_diagonal_(torch.inf)
        yield start, block.sqrt_()
        start += len(left)


def _mirror_distances(
    group: SymmetryGroup, values: Tensor, norms: Tensor, nearest: float | None
) -> dict[str, Any]:
    """Distance of the nearest mirror of each kind, over the root mean square norm of a unit."""
    scale = float(norms.square().mean().sqrt())
    if scale == 0:
        return {"to_sign_flip": 0.0, "to_swap": None, "to_direction": 0.0}
    smallest = float(values[-1]) if group.m <= group.n else 0.0
    return {
        "to_sign_flip": float(norms.min()) / scale,
        "to_swap": None if nearest is None else nearest / 2**0.5 / scale,
        "to_direction": smallest / scale,
    }


def _charge_columns(group: SymmetryGroup) -> dict[str, Any]:
    charge = charge_of(group)
    if charge is None:
        return {}
    row: dict[str, Any] = {"imbalance": charge.imbalance}
    if charge.locked is not None:
        row["sign_locked"] = int(charge.locked.sum())
    return row


def _numbers(mask: Tensor) -> list[int]:
    return [int(number) for number in mask.nonzero()[:, 0]]
