# SPDX-License-Identifier: Apache-2.0
"""Classes of equal units: equal, equal up to sign, equal up to a positive scale."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from symfast.gram import UnitMatrix, row_blocks, unit_rows
from symfast.triangle import Triangle
from symfast.units import Units

UpTo: TypeAlias = Literal["nothing", "sign", "scale"]
#: Pairs listed at once, about 50 bytes each; more than that are looked at unit by unit.
PAIRS = 1 << 19


def equality_tolerance(units: Units) -> float:
    """Relative distance below which units count as equal: 4 eps of the coarsest dtype.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.duplicates import equality_tolerance
        >>> f"{equality_tolerance(sf.Units([(torch.ones(2, 2), 0)])):.1e}"
        '4.8e-07'
    """
    return 4 * max(float(torch.finfo(tensor.dtype).eps) for tensor, _ in units)


def equal_units(units: UnitMatrix, up_to: UpTo = "nothing", tol: float | None = None) -> Tensor:
    """Label every unit with the first unit it equals, itself if there is none before it.

    Units a and b are equal if ``|u_a - u_b| <= tol * max(|u_a|, |u_b|)``; up to a sign if the same
    holds for ``u_a`` and ``-u_b`` (or ``u_b``); up to a positive scale if it holds for
    ``u / |u|``. Zero units are left alone. No pair is missed: units within a distance are within
    it on every line, so those close on two random lines are compared, all others are not.

    Args:
        units: ``sf.Units``, or pairs (tensor, dim).
        up_to: "nothing", "sign" or "scale".
        tol: relative distance; None for 4 eps of the coarsest dtype.

    Returns:
        (m,) int64 labels: ``labels[j] <= j``, and ``labels[labels] == labels``.

    Raises:
        ValueError: if ``up_to`` is unknown or tol is not in [0, 1).

    Example:
        >>> import torch
        >>> from symfast.duplicates import equal_units
        >>> U = torch.tensor([[1.0, 2.0], [3.0, 4.0], [2.0, 4.0], [1.0, 2.0], [-3.0, -4.0]])
        >>> equal_units([(U, 0)]).tolist()
        [0, 1, 2, 0, 4]
        >>> equal_units([(U, 0)], "sign").tolist(), equal_units([(U, 0)], "scale").tolist()
        ([0, 1, 2, 0, 1], [0, 1, 0, 0, 4])
    """
    return equal_classes(units, (up_to,), tol)[up_to]


def equal_classes(
    units: UnitMatrix,
    ways: Sequence[UpTo],
    tol: float | None = None,
    near: "SameLine | None" = None,
    lines: Tensor | None = None,
) -> dict[UpTo, Tensor]:
    """Labels of `equal_units` in several ways, reading the units once.

    Args:
        units: as in `equal_units`.
        ways: each "nothing", "sign" or "scale".
        tol: as in `equal_units`.
        near: which pairs to compare, if their Gram matrix has been summed (`same_lines`).
        lines: units on two random lines, and their squares (m, 3), if those are known.

    Example:
        >>> import torch
        >>> from symfast.duplicates import equal_classes
        >>> U = torch.tensor([[1.0], [-2.0], [-1.0]])
        >>> {k: v.tolist() for k, v in equal_classes([(U, 0)], ("sign", "scale")).items()}
        {'sign': [0, 1, 0], 'scale': [0, 1, 1]}
    """
    units = units if isinstance(units, Units) else Units(units)
    for way in ways:
        if way not in ("nothing", "sign", "scale"):
            raise ValueError(f"up_to is {way!r}; choose 'nothing', 'sign' or 'scale'")
    tol = _tolerance(equality_tolerance(units) if tol is None else tol)
    members = [unit_rows(tensor, dim) for tensor, dim in units]
    if near is not None:
        return {way: _label(members, near, near.norms, way, tol) for way in ways}
    lines = on_lines(units) if lines is None else lines
    lines, norms = lines[:, :2], lines[:, 2].clamp(min=0).sqrt()
    return {way: _label(members, _windows(lines, norms, way, tol), norms, way, tol) for way in ways}


def _tolerance(tol: float) -> float:
    if not 0 <= tol < 1:
        raise ValueError(f"tol is {tol}; a relative distance lies in [0, 1)")
    return tol


def _windows(lines: Tensor, norms: Tensor, up_to: UpTo, tol: float) -> "_Windows":
    if up_to == "scale":
        lines = lines / norms.clamp(min=1e-300)[:, None]
    if up_to == "sign":
        lines = lines.abs()  # |x.u_a| and |x.u_b| differ by at most the distance up to sign
    return _Windows(lines, norms, tol, scaled=up_to == "scale")


def _label(
    members: list[Tensor], near: "_Windows | SameLine", norms: Tensor, up_to: UpTo, tol: float
) -> Tensor:
    labels = torch.arange(len(norms))
    for a in near.crowded():
        if labels[a] == a:
            b = near.near(a)
            b = b[(b > a) & (labels[b] == b)]
            labels[b[_equal(members, norms, a, b, up_to, tol)]] = a
    return labels


def on_lines(units: Units) -> Tensor:
    """Every unit on two random lines, and its squared norm: (m, 3), in float64 on the CPU.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.duplicates import on_lines
        >>> on_lines(sf.Units([(torch.tensor([[3.0, 4.0]]), 0)]))[:, 2].tolist()
        [25.0]
    """
    lines = random_lines(units)
    height = max(1, (1 << 17) // max(units.n, 1))
    found = []
    for rows in row_blocks(units, height):
        rows = rows.cpu()
        found.append(torch.cat([rows @ lines, rows.square().sum(1, keepdim=True)], 1))
    return torch.cat(found)


def random_lines(units: Units) -> Tensor:
    """Two random lines for `equal_classes` (n, 2), of length 1.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.duplicates import random_lines
        >>> random_lines(sf.Units([(torch.ones(2, 5), 0)])).norm(dim=0)
        tensor([1., 1.], dtype=torch.float64)
    """
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(units.n, 2, generator=generator, dtype=torch.float64)
    found: Tensor = lines / lines.norm(dim=0).clamp(min=1e-300)
    return found


def same_lines(G: Triangle, n: int, tol: float) -> "list[SameLine]":
    """For each matrix of ``G``, Grams of n products, which units lie on the same line.

    Equal units have ``|cos| >= sqrt(1 - tol^2)``, also up to a sign or factor. A Gram of n products
    is right to n eps, which is allowed for: no pair is missed.

    Example:
        >>> import torch
        >>> from symfast.duplicates import same_lines
        >>> from symfast.triangle import Triangle
        >>> U = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
        >>> same_lines(Triangle.of((U @ U.T)[None]), 2, 1e-6)[0].crowded()
        [0]
    """
    norms = G.diagonal().sqrt()
    least = torch.where(norms > 0, norms, torch.inf)  # zero units point nowhere
    cosine = (1 - _tolerance(tol) ** 2) ** 0.5 - (n + 8) * torch.finfo(torch.float64).eps
    crowded: list[list[int]] = [[] for _ in norms]
    for start, block in G:
        height = max(1, (1 << 17) // (block.shape[2] * len(block)))
        for offset, part in zip(
            range(0, block.shape[1], height), block.split(height, 1), strict=True
        ):
            first = start + offset
            part = part[:, :, offset:]
            limit = cosine * least[:, first : first + part.shape[1], None] * least[:, None, first:]
            near = (part.abs() >= limit).triu_(1)
            if bool(near.any()):
                for which, row in near.any(2).nonzero().tolist():
                    crowded[which].append(first + row)
    return [SameLine(G, b, crowded[b], norms[b].cpu(), cosine) for b in range(len(norms))]


class SameLine:
    """Which later units point along a unit, or against it, by one Gram matrix."""

    def __init__(
        self, G: Triangle, which: int, crowded: list[int], norms: Tensor, cosine: float
    ) -> None:
        self._G, self._which, self._crowded, self._cosine = G, which, crowded, cosine
        self.norms = norms

    def near(self, a: int) -> Tensor:
        """Later units on the line of unit a."""
        row = self._G.row(self._which, a).cpu()[1:].abs()
        norms = self.norms[a + 1 :]
        same = (row >= self._cosine * self.norms[a] * norms) & (norms > 0)
        return a + 1 + torch.nonzero(same)[:, 0]

    def crowded(self) -> list[int]:
        """Units with company after them, ascending."""
        return self._crowded


class _Windows:
    """Which units lie within the tolerance of each other on both lines."""

    def __init__(self, lines: Tensor, norms: Tensor, tol: float, scaled: bool) -> None:
        alive = norms.nonzero()[:, 0]
        self.lines = lines
        self.order = alive[lines[alive, 0].argsort(stable=True)]
        self.place = torch.zeros(len(norms), dtype=torch.int64)
        self.place[self.order] = torch.arange(len(alive))
        # twice the tolerance covers the rounding of the lines themselves, and the longer unit of
        # a pair: |u_b| <= |u_a| / (1 - tol) if b equals a
        self.reach = (2 * tol / (1 - tol) + 1e-14) * (torch.ones_like(norms) if scaled else norms)
        x, reach = lines[self.order, 0].contiguous(), self.reach[self.order]
        self.start = torch.searchsorted(x, x - reach)
        self.stop = torch.searchsorted(x, x + reach, right=True)

    def near(self, a: int) -> Tensor:
        """Units within reach of unit a on both lines."""
        i = self.place[a]
        b = self.order[self.start[i] : self.stop[i]]
        return b[(self.lines[b, 1] - self.lines[a, 1]).abs() <= self.reach[a]]

    def crowded(self) -> list[int]:
        """Units with company on both lines, ascending; on the first line if that is a crowd."""
        counts = self.stop - self.start
        if counts.sum() - len(counts) > PAIRS:
            return [int(a) for a in self.order[counts > 1].sort().values]
        i = torch.repeat_interleave(counts)
        j = torch.arange(len(i)) - (counts.cumsum(0) - counts)[i] + self.start[i]
        a, b = self.order[i], self.order[j]
        near = (self.lines[a, 1] - self.lines[b, 1]).abs() <= self.reach[a]
        return [int(x) for x in torch.unique(a[near & (a != b)])]


def _equal(
    members: list[Tensor], norms: Tensor, a: int, others: Tensor, up_to: UpTo, tol: float
) -> Tensor:
    """Whether each other unit equals unit a, by the difference: no cancellation as in a Gram."""
    width = max(1, sum(rows.shape[1] for rows in members))
    verdicts = [torch.zeros(0, dtype=torch.bool)]
    for b in others.split(max(1, (1 << 20) // width)):
        same, flipped = torch.zeros(len(b)).double(), torch.zeros(len(b)).double()
        for rows in members:
            ua = rows[a].to("cpu", torch.float64)
            ub = rows[b.to(rows.device)].to("cpu", torch.float64)
            if up_to == "scale":
                ua, ub = ua / norms[a], ub / norms[b, None]
            same += (ub - ua).square().sum(1)
            flipped += (ub + ua).square().sum(1)
        square = torch.minimum(same, flipped) if up_to == "sign" else same
        limit = torch.ones_like(square) if up_to == "scale" else norms[b].clamp(min=norms[a])
        verdicts.append(square.sqrt() <= tol * limit)
    return torch.cat(verdicts)
