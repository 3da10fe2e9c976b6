# SPDX-License-Identifier: Apache-2.0
"""Groups of one make: norms, equal units, spectra and nearest pairs from one Gram matrix each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from symfast.band import eigenvalues_
from symfast.duplicates import UpTo, equal_classes, random_lines, same_lines
from symfast.gram import RESOLUTION, dual_gram, gram, remeasured, row_blocks, unit_rows
from symfast.nearest import distances_from_gram, distances_from_rows, nearest_pairs
from symfast.rank import product_spectrum
from symfast.sides import SideGrams
from symfast.symmetry_group import ROLES, SymmetryGroup
from symfast.triangle import Triangle
from symfast.units import Units

#: Numbers converted to float64 at a time: they stay in the caches.
CACHED = 1 << 18
#: Fewer columns than this make no fast product.
COLUMNS = 256


@dataclass(eq=False)
class Measured:
    """What b groups of one make tell; everything on the CPU, in float64.

    Attributes:
        squares: per role, sums of squares of every unit (b, m).
        labels: per group, labels of `equal_classes` in several ways; empty if no units are equal.
        values: singular values of U (b, min(m, n)), descending; 0 where U is not finite.
        product: singular values of ``in^T out`` (b, m), where units can be rotated.
        nearest: smallest distance of two units (b,), None if there are too many units.
        distances: map of the smallest distances per tile (b, s, s).
        grams: per role, the Gram matrices (b, m, m), where units can be rotated.
    """

    squares: dict[str, Tensor] = field(default_factory=dict)
    labels: list[dict[UpTo, Tensor]] = field(default_factory=list)
    values: Tensor = field(default_factory=lambda: torch.zeros(0))
    product: Tensor | None = None
    nearest: Tensor | None = None
    distances: Tensor | None = None
    grams: dict[str, Tensor] = field(default_factory=dict)

    def norms(self, *roles: str) -> Tensor:
        """Norms of the units (b, m) over the members of these roles."""
        found = [self.squares[role] for role in roles if role in self.squares]
        return torch.stack(found).sum(0).sqrt() if found else torch.zeros_like(self._any())

    def finite(self) -> list[bool]:
        """Which groups hold neither NaN nor infinity."""
        return [bool(x) for x in self.norms(*ROLES).isfinite().all(1)]

    def _any(self) -> Tensor:
        return next(iter(self.squares.values()))


def make_of(group: SymmetryGroup) -> tuple[object, ...]:
    """What two groups must have in common to be measured together.

    Example:
        >>> import torch
        >>> from symfast.measure import make_of
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> make = lambda n: make_of(SymmetryGroup((Member(torch.ones(2, n), 0, "", "in"),), ()))
        >>> make(3) == make(3), make(3) == make(4)
        (True, False)
    """
    members = [(x.role, x.tensor.numel(), x.tensor.dtype, x.tensor.device) for x in group.members]
    return (group.m, group.kinds, group.unproved, group.activation, *members)


def measure(
    groups: Sequence[SymmetryGroup], ways: tuple[UpTo, ...], tol: float, pairs_up_to: int
) -> Measured:
    """Measure groups of one make (`make_of`); wide ones (m <= n) all at once.

    Args:
        groups: the groups.
        ways: in which ways units may be equal.
        tol: relative distance at which they are.
        pairs_up_to: largest m for which the nearest pair is searched.

    Example:
        >>> import torch
        >>> from symfast.measure import measure
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> U = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> groups = [SymmetryGroup((Member(x, 0, "w", "in"),), ()) for x in (U, 2 * U)]
        >>> measure(groups, ("nothing",), 0.0, 9).values.tolist()
        [[3.0, 1.0], [6.0, 2.0]]
    """
    found = Measured()
    near = 2 <= groups[0].m <= pairs_up_to
    if groups[0].m <= groups[0].n:
        G = _sum_wide(groups, found, ways, tol)
        finite = found.finite()
        for number, good in enumerate(finite):
            if not good:
                for block in G.blocks:
                    block[number] = 0
        if near and any(finite):
            _nearest(groups, found, distances_from_gram(G), torch.float64)
    else:
        (group,) = groups
        G = _sum_tall(group, found, ways, tol)
        finite = found.finite()
        if near and finite[0]:
            narrow = all(member.tensor.dtype != torch.float64 for member in group.members)
            narrow = narrow and 1e-12 < float(found.norms(*ROLES).max()) < 1e12  # of the squares
            for dtype in (torch.float32, torch.float64) if narrow else (torch.float64,):
                squares = found.norms(*ROLES)[0].square().to(dtype)
                if _nearest(groups, found, distances_from_rows(group.units, squares), dtype):
                    break
    found.values = _values(groups, G, finite)
    return found


def _nearest(
    groups: Sequence[SymmetryGroup],
    found: Measured,
    blocks: Iterable[tuple[int, Tensor]],
    dtype: torch.dtype,
) -> bool:
    """Fill in nearest pairs from squared distances in ``dtype``; say whether they are right."""
    norms = found.norms(*ROLES)
    rounding = (groups[0].n + 16) * torch.finfo(dtype).eps
    error = 2 * rounding * norms.amax(1).square()
    units = [group.units for group in groups]
    found.nearest, distances, sure = nearest_pairs(units, blocks, error)
    scale = norms.square().mean(1).sqrt()
    found.distances = distances / torch.where(scale > 0, scale, 1)[:, None, None]
    return sure


def _values(groups: Sequence[SymmetryGroup], G: Triangle, finite: list[bool]) -> Tensor:
    """Singular values; the small ones of float64 members once more, by themselves."""
    if not any(finite):
        return torch.zeros(len(groups), G.m, dtype=torch.float64)
    values = eigenvalues_(G).clamp(min=0).sqrt().flip(-1).cpu()
    del G
    for number, group in enumerate(groups):
        fine = all(member.tensor.dtype == torch.float64 for member in group.members)
        if fine and finite[number] and values[number, -1] < RESOLUTION * values[number, 0]:
            units = group.units
            whole = gram(units) if group.m <= group.n else dual_gram(units)
            values[number] = remeasured(units, whole).cpu()
    return values


def _written(group: SymmetryGroup) -> tuple[str, ...]:
    """Roles that make two units equal: what writes them, if anything does."""
    has_in = any(member.role == "in" for member in group.members)
    return ("in", "bias", "norm") if has_in else ROLES


def _written_units(group: SymmetryGroup) -> Units:
    roles = _written(group)
    return Units([(member.tensor, member.dim) for member in group.members if member.role in roles])


def _movable(group: SymmetryGroup) -> bool:
    """Whether ``in^T out`` is a matrix of its own: units that can be rotated."""
    roles = {member.role for member in group.members}
    return "rotation" in (*group.kinds, *group.unproved) and {"in", "out"} <= roles


def _sum_wide(
    groups: Sequence[SymmetryGroup], found: Measured, ways: tuple[UpTo, ...], tol: float
) -> Triangle:
    first = groups[0]
    device = first.members[0].tensor.device
    G = Triangle(len(groups), first.m, device)
    written = _written(first)
    if _movable(first):
        _sum_sides(groups, found)
    _add(groups, G, found, written)
    units = [_written_units(group) for group in groups]
    for near, those in zip(same_lines(G, units[0].n, tol), units, strict=True):
        equal = equal_classes(those, ways, tol, near) if near.crowded() else {}
        found.labels.append(equal)
    _add(groups, G, found, [role for role in ROLES if role not in written])
    return G


def _add(
    groups: Sequence[SymmetryGroup], G: Triangle, found: Measured, roles: Sequence[str]
) -> None:
    """Add the members of these roles to the Gram matrices, and their squares."""
    for role, part in _columns(groups, roles):
        G.add_(part)
        squares = torch.linalg.vector_norm(part, dim=2).square_().cpu()
        found.squares[role] = found.squares[role] + squares if role in found.squares else squares


def _columns(groups: Sequence[SymmetryGroup], roles: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Role and columns of the unit matrices, (b, m, w) float64, all in the same memory."""
    m = groups[0].m
    width = max(COLUMNS, CACHED // (m * len(groups)))
    device = groups[0].members[0].tensor.device
    space = torch.empty(len(groups) * m * width, dtype=torch.float64, device=device)
    for number, member in enumerate(groups[0].members):
        if member.role not in roles:
            continue
        rows = [unit_rows(g.members[number].tensor, g.members[number].dim) for g in groups]
        for start in range(0, rows[0].shape[1], width):
            parts = [x[:, start : start + width] for x in rows]
            shape = (len(groups), m, parts[0].shape[1])
            whole = space[: math.prod(shape)].view(shape)
            for place, part in zip(whole, parts, strict=True):
                place.copy_(part)
            yield member.role, whole


def _sum_sides(groups: Sequence[SymmetryGroup], found: Measured) -> None:
    """Gram matrices of each side by itself, and the spectrum of their product."""
    for role in ("in", "bias", "out"):
        side = Triangle(len(groups), groups[0].m, groups[0].members[0].tensor.device)
        _add(groups, side, Measured(), [role])
        found.grams[role] = side.full()
    left, right = found.grams["in"], found.grams["out"]
    finite = (left.isfinite() & right.isfinite()).all(2).all(1)[:, None, None]
    found.product = product_spectrum(left.where(finite, 0), right.where(finite, 0)).cpu()


def _sum_tall(
    group: SymmetryGroup, found: Measured, ways: tuple[UpTo, ...], tol: float
) -> Triangle:
    """The Gram matrix of the columns, norms and equal units, in one pass over the rows."""
    units, written = group.units, _written(group)
    device = group.members[0].tensor.device
    G = Triangle(1, group.n, device)
    sizes = [member.tensor.numel() // group.m for member in group.members]
    roles = [member.role for member in group.members]
    reads = torch.cat([torch.full((k,), r in written) for k, r in zip(sizes, roles, strict=True)])
    lines = torch.zeros(group.n, 2, dtype=torch.float64)
    lines[reads] = random_lines(_written_units(group))
    lines = lines.to(device)
    # made before the loop: what it allocates, it frees
    squares = torch.zeros(len(sizes), group.m, dtype=torch.float64)
    seen = torch.zeros(group.m, 3, dtype=torch.float64)
    first = 0
    for rows in row_blocks(units, max(COLUMNS, CACHED // group.n)):
        stop = first + len(rows)
        G.add_(rows.to(device).mT[None])
        for square, part in zip(squares, rows.split(sizes, 1), strict=True):
            square[first:stop] = torch.linalg.vector_norm(part, dim=1).square_()
        seen[first:stop, :2] = rows @ lines
        first = stop
    for role, square in zip(roles, squares, strict=True):
        found.squares[role] = found.squares.get(role, 0) + square[None]
    seen[:, 2] = found.norms(*written)[0].square()
    finite = found.finite()[0]
    found.labels = [equal_classes(_written_units(group), ways, tol, lines=seen) if finite else {}]
    if _movable(group):
        sides = SideGrams(group)
        found.grams = {role: sides.gram(role)[None] for role in ("in", "bias", "out")}
        if finite:
            found.product = product_spectrum(found.grams["in"], found.grams["out"]).cpu()
    return G
