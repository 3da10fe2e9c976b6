# SPDX-License-Identifier: Apache-2.0
"""What one group of units tells: zero and equal units, ranks, charges, distance to every mirror."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symfast.charges import charge_row
from symfast.duplicates import UpTo, equal_classes, equality_tolerance
from symfast.gram import BLOCK, dual_gram, resolved_spectrum, row_blocks, unit_rows
from symfast.rank import (
    effective_rank,
    numerical_rank,
    product_spectrum,
    rank_tolerance,
    stable_rank,
)
from symfast.sides import SideGrams
from symfast.symmetry_group import ROLES, SymmetryGroup
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
    grams = SideGrams(group)
    G = grams.gram(*ROLES) if group.m <= group.n else None
    norms = grams.squares(*ROLES).sqrt().cpu()
    if not bool(torch.isfinite(norms).all()):
        row["status"] = "holds NaN or infinity"
        return Diagnosis(group.where, group.kinds, row, members=names)
    row["status"] = "ok"
    if tol is None:
        # equal units differ by rounding; small numbers do not become zeros by rounding
        zero, tol = min(equality_tolerance(units), ZERO), equality_tolerance(units)
    else:
        zero = tol
    found = _zero_units(grams, zero)
    silent = [*found["dead"], *found["constant"]]
    found |= _equal_units(group, grams, G is not None, silent, tol)
    row |= {name: len(numbers) for name, numbers in found.items()}
    gone = set().union(*(found[name] for name in ("dead", "constant", "unread", "duplicates")))
    row["distinct"] = group.m - len(gone)
    product = _product(group, grams)
    if product is not None:
        row["product_rank"] = numerical_rank(product, _product_tolerance(group))
        row["product_stable_rank"] = stable_rank(product)
    nearest, distances = _pairs(units, G, norms, pairs_up_to)
    row |= charge_row(group, grams)
    del grams  # the spectrum may take the place of the Gram
    values = resolved_spectrum(units, dual_gram(units) if G is None else G, overwrite=True).cpu()
    row |= _ranks(units, values)
    row |= _mirror_distances(group, values, norms, nearest)
    return Diagnosis(group.where, group.kinds, row, found, names, values, product, norms, distances)


def _dtype_name(units: Units) -> str:
    return "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor, _ in units}))


def _zero_units(grams: SideGrams, tol: float) -> dict[str, list[int]]:
    """Dead (nothing written), constant (only a bias), unread (nothing reads them)."""

    def is_zero(role: str, without: bool) -> Tensor:
        norms = grams.squares(role).sqrt().cpu()
        if not grams.has(role):
            return torch.full_like(norms, without, dtype=torch.bool)
        return norms <= tol * norms.max()

    silent, unbiased = is_zero("in", False), is_zero("bias", True)
    return {
        "dead": _numbers(silent & unbiased),
        "constant": _numbers(silent & ~unbiased),
        "unread": _numbers(is_zero("out", False)),
    }


def _equal_units(
    group: SymmetryGroup, grams: SideGrams, summed: bool, silent: list[int], tol: float
) -> dict[str, list[int]]:
    """Units that repeat an earlier one in what is written; sign and scale where they are moves."""
    roles = ("in", "bias", "norm") if grams.has("in") else ROLES
    ways: dict[str, UpTo] = {"duplicates": "nothing"}
    if "sign_flip" in group.kinds or not group.kinds:
        ways["up_to_sign"] = "sign"
    if "rescale" in group.kinds or not group.kinds:
        ways["up_to_scale"] = "scale"
    units = Units([(member.tensor, member.dim) for member in group.members if member.role in roles])
    G = grams.gram(*roles) if summed else None
    classes = equal_classes(units, tuple(ways.values()), tol, G)
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


def _product(group: SymmetryGroup, grams: SideGrams) -> Tensor | None:
    """Spectrum of ``in^T out`` where the units can be rotated: the rank of what they carry."""
    movable = "rotation" in (*group.kinds, *group.unproved)
    if not movable or not grams.has("in") or not grams.has("out"):
        return None
    return product_spectrum(grams.gram("in").cpu(), grams.gram("out").cpu())


def _product_tolerance(group: SymmetryGroup) -> float:
    """As for one matrix, but never below the resolution of the two Grams."""
    return max(rank_tolerance(group.units), 1e-7)


def _pairs(
    units: Units, G: Tensor | None, norms: Tensor, up_to: int
) -> tuple[float | None, Tensor | None]:
    """Smallest distance of two units, and the map of smallest distances per tile."""
    m = units.m
    if m < 2 or m > up_to:
        return None, None
    size = min(MAP, m)
    tile = torch.arange(m) * size // m
    smallest = np.full((size, size), np.inf)
    scale = float(norms.square().mean().sqrt()) or 1.0
    nearest, pair = math.inf, (0, 0)
    for start, block in _square_blocks(units, G, norms.square()):
        first = m - block.shape[1]
        lowest = block.argmin()
        if float(block.flatten()[lowest]) < nearest:
            nearest = float(block.flatten()[lowest])
            pair = (start + int(lowest) // block.shape[1], first + int(lowest) % block.shape[1])
        columns, rows = tile[first:], tile[start : start + len(block)]
        tiled = np.minimum.reduceat(block.numpy(), _starts(columns), axis=1)
        tiled = np.minimum.reduceat(tiled, _starts(rows), axis=0)
        part = smallest[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) :]
        np.minimum(part, tiled, out=part)
    smallest = np.sqrt(np.maximum(np.minimum(smallest, smallest.T), 0))
    distance = max(nearest, 0.0) ** 0.5
    if distance < 1e-6 * scale:  # the Gram has lost it to cancellation: take the difference
        distance = _distance(units, *pair)
    # a tile of one unit with itself has no pair
    shown = torch.from_numpy(np.where(np.isfinite(smallest), smallest, 0.0) / scale)
    return distance, shown.float()


def _starts(tile: Tensor) -> "np.ndarray[Any, Any]":
    """Where each tile begins, for ascending numbers of tiles."""
    return np.flatnonzero(np.diff(tile.numpy(), prepend=-1))


def _distance(units: Units, a: int, b: int) -> float:
    """Distance of two units by the difference."""
    square = 0.0
    for tensor, dim in units:
        rows = unit_rows(tensor, dim)
        square += float((rows[a].double() - rows[b].double()).square().sum())
    return math.sqrt(square)


def _square_blocks(units: Units, G: Tensor | None, squares: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of rows of the squared distances, from the diagonal (infinite) on; first number."""
    m = units.m
    height = max(1, (BLOCK if G is None else BLOCK >> 3) // m)  # gathering again costs more
    for start in range(0, m, height):
        stop = min(start + height, m)
        if G is not None:
            block = G[start:stop, start:].cpu() * -2
        else:
            (left,) = islice(row_blocks(units, stop - start, start), 1)
            parts = [left @ right.T for right in row_blocks(units, height, start)]
            block = torch.cat(parts, 1).cpu().mul_(-2)
        block.add_(squares[start:]).add_(squares[start:stop, None]).fill_diagonal_(math.inf)
        yield start, block


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


def _numbers(mask: Tensor) -> list[int]:
    return [int(number) for number in mask.nonzero()[:, 0]]
