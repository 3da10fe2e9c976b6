# SPDX-License-Identifier: Apache-2.0
"""Classes of equal units: equal, equal up to sign, equal up to a positive scale."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from symfast.gram import UnitMatrix, unit_rows
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
    units: UnitMatrix, ways: Sequence[UpTo], tol: float | None = None, G: Tensor | None = None
) -> dict[UpTo, Tensor]:
    """Labels of `equal_units` in several ways, reading the units once.

    Args:
        units: as in `equal_units`.
        ways: each "nothing", "sign" or "scale".
        tol: as in `equal_units`.
        G: their Gram matrix (m, m), if it has been summed: it tells which pairs to compare.

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
    tol = equality_tolerance(units) if tol is None else tol
    if not 0 <= tol < 1:
        raise ValueError(f"tol is {tol}; a relative distance lies in [0, 1)")
    members = [unit_rows(tensor, dim) for tensor, dim in units]
    if G is not None:
        near = _Angles(G, units.n, tol)
        return {way: _label(members, near, near.norms, way, tol) for way in ways}
    lines, norms = _on_lines(members)
    return {way: _label(members, _windows(lines, norms, way, tol), norms, way, tol) for way in ways}


def _windows(lines: Tensor, norms: Tensor, up_to: UpTo, tol: float) -> "_Windows":
    if up_to == "scale":
        lines = lines / norms.clamp(min=1e-300)[:, None]
    if up_to == "sign":
        lines = lines.abs()  # |x.u_a| and |x.u_b| differ by at most the distance up to sign
    return _Windows(lines, norms, tol, scaled=up_to == "scale")


def _label(
    members: list[Tensor], near: "_Windows | _Angles", norms: Tensor, up_to: UpTo, tol: float
) -> Tensor:
    labels = torch.arange(len(norms))
    for a in near.crowded():
        if labels[a] == a:
            b = near.near(a)
            b = b[(b > a) & (labels[b] == b)]
            labels[b[_equal(members, norms, a, b, up_to, tol)]] = a
    return labels


def _on_lines(members: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Every unit on two random lines (m, 2), and its norm (m,), in float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    m = members[0].shape[0]
    lines, squares = torch.zeros(m, 2).double(), torch.zeros(m).double()
    total = torch.zeros(2).double()
    for rows in members:
        line = torch.randn(rows.shape[1], 2, generator=generator, dtype=torch.float64)
        total += line.square().sum(0)
        height = max(1, (1 << 20) // max(rows.shape[1], 1))
        for start in range(0, m, height):
            part = rows[start : start + height].to("cpu", torch.float64)
            lines[start : start + height] += part @ line
            squares[start : start + height] += part.square().sum(1)
    return lines / total.sqrt().clamp(min=1e-300), squares.sqrt()


class _Angles:
    """Which units point the same way, or opposite ways, by their Gram matrix.

    Equal units have ``|cos| >= sqrt(1 - tol^2)``, also up to a sign or factor. A Gram of n products
    is right to n eps, which is allowed for: no pair is missed.
    """

    def __init__(self, G: Tensor, n: int, tol: float) -> None:
        self.G = G.cpu()
        self.norms = self.G.diagonal().sqrt()
        # zero units point nowhere
        self.least = torch.where(self.norms > 0, self.norms, torch.inf)
        self.cosine = (1 - tol**2) ** 0.5 - (n + 8) * torch.finfo(torch.float64).eps
        self._crowded: list[int] | None = None

    def near(self, a: int) -> Tensor:
        """Other units that point along unit a."""
        same = self.G[a].abs() >= self.cosine * self.least[a] * self.least
        same[a] = False
        return torch.nonzero(same)[:, 0]

    def crowded(self) -> list[int]:
        """Units with company, ascending."""
        if self._crowded is None:
            found = []
            height = max(1, (1 << 17) // len(self.G))
            for start in range(0, len(self.G), height):
                rows = slice(start, start + height)
                limit = torch.outer(self.cosine * self.least[rows], self.least)
                found.append((self.G[rows].abs() >= limit).sum(1) > 1)
            self._crowded = [int(a) for a in torch.cat(found).nonzero()[:, 0]]
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
