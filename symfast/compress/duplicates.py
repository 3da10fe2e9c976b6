# SPDX-License-Identifier: Apache-2.0
"""Units that compute the same number, also up to a free sign or factor."""

from collections.abc import Iterator

import torch
from torch import Tensor

from symfast.compress.units import HiddenUnits, rows
from symfast.compress.workbench import Workbench

ROWS_AT_ONCE = 512


def merge_duplicates(bench: Workbench, hidden: HiddenUnits, tol: float) -> int:
    """Add the readers of unit j, times s, to those of unit i, where x_j = s x_i.

    Rows count as equal within 32 rounding errors of the stored weights, or within ``tol`` of
    their norm. If too many approximate merges change the outputs too much, the closest half is
    tried, and so on.
    """
    if not hidden.readers:
        return 0
    pairs = _pairs(hidden, max(32 * bench.eps, tol))
    while pairs:
        before = hidden.gone.clone()
        exact = all(distance <= 32 * bench.eps for _, _, _, distance in pairs)
        chosen = pairs

        def rewrite(chosen: list[tuple[int, int, float, float]] = chosen) -> float:
            return _merge(hidden, chosen)

        if bench.attempt("duplicate", [hidden.group], len(pairs), rewrite, 0.0 if exact else tol):
            return len(pairs)
        hidden.gone = before
        pairs = sorted(pairs, key=lambda pair: pair[3])[: len(pairs) // 2]
    return 0


def _merge(hidden: HiddenUnits, pairs: list[tuple[int, int, float, float]]) -> float:
    """Merge; return how far ``B^T A`` moves at most, readers times writers."""
    bound = 0.0
    drop = torch.zeros(hidden.m, dtype=torch.bool)
    reading = rows(hidden.readers, hidden.m).norm(dim=1)
    writing = rows([*hidden.free, *hidden.fixed], hidden.m).norm(dim=1)
    with torch.no_grad():
        for keep, gone, factor, distance in pairs:
            for member in hidden.readers:
                weight = member.tensor.movedim(member.dim, 0)
                weight[keep] += factor * weight[gone]
            drop[gone] = True
            if distance > 1e-6:  # closer rows are equal up to rounding
                bound += distance * float(reading[gone] * writing[gone])
    hidden.erase_(drop)
    return bound


def _pairs(hidden: HiddenUnits, limit: float) -> list[tuple[int, int, float, float]]:
    """Return (kept unit, merged unit, factor, relative distance) of rows that agree."""
    free, fixed = rows(hidden.free, hidden.m), rows(hidden.fixed, hidden.m)
    size = free.norm(dim=1)
    canonical = free / size.clamp_min(1e-300)[:, None] if hidden.scales else free
    found = []
    taken = hidden.gone.clone()
    whole = torch.cat([canonical, fixed], 1)
    norms = whole.norm(dim=1)
    for first, second in _candidates(canonical, fixed, hidden.signs, limit):
        if taken[first] or taken[second]:
            continue
        ratio, distance = _compare(hidden, canonical, fixed, (first, second), norms)
        if distance <= limit:
            scale = float(size[second] / size[first]) if hidden.scales and size[first] > 0 else 1.0
            found.append((first, second, ratio * scale, distance))
            taken[second] = True
    return found


def _compare(
    hidden: HiddenUnits, free: Tensor, fixed: Tensor, pair: tuple[int, int], norms: Tensor
) -> tuple[float, float]:
    """Return the sign that brings the pair together and their distance per norm."""
    first, second = pair
    ratio = 1.0
    if hidden.signs and float(free[first] @ free[second]) < 0:
        ratio = -1.0
    gap = torch.cat([free[second] - ratio * free[first], fixed[second] - fixed[first]])
    return ratio, float(gap.norm() / norms[second].clamp_min(1e-300))


def _candidates(
    free: Tensor, fixed: Tensor, signs: bool, limit: float
) -> Iterator[tuple[int, int]]:
    """Yield pairs i < j whose rows look alike by their inner products."""
    squares = free.square().sum(1) + fixed.square().sum(1)
    slack = 4 * limit**2 + 1e-12  # products lose half the digits of a distance
    for start in range(0, len(free), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        product = free[block] @ free.mT
        closest = (product.abs() if signs else product) + fixed[block] @ fixed.mT
        gap = squares[block, None] + squares - 2 * closest
        near = gap <= slack * squares.clamp_min(1e-300)
        for i, j in near.nonzero().tolist():
            if start + i < j:
                yield start + i, j
