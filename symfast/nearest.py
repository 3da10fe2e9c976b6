# SPDX-License-Identifier: Apache-2.0
"""The nearest pair of units, and a map of the smallest distances."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symfast.gram import BLOCK, row_blocks, unit_rows
from symfast.triangle import TILES, Triangle
from symfast.units import Units

#: Squared distances computed at a time: they stay in the second-level cache.
AT_ONCE = 1 << 17
#: Tiles of the map that are measured again by the difference, in the order of what they promise.
TRIES = 64


def nearest_pairs(
    units: list[Units], blocks: Iterable[tuple[int, Tensor]], error: Tensor
) -> tuple[Tensor, Tensor, bool]:
    """Smallest distance of two units per group, and the smallest in every tile.

    Where the squared distances are too rough for the nearest pair, those tiles are measured again
    by the difference that may hold it.

    Args:
        units: b groups of m >= 2 units each.
        blocks: squared distances, as `distances_from_gram` or `distances_from_rows` give them.
        error: (b,) of the squared distances, at most.

    Returns:
        (b,) distances, right to 1e-9; the map (b, s, s) with ``s = min(m, 64)``, to ``error``, 0
        where a tile has no pair; and whether no more than ``TRIES`` tiles had to be measured again
        (otherwise a distance may be too large by ``sqrt(error)``).

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.nearest import distances_from_rows, nearest_pairs
        >>> units = sf.Units([(torch.tensor([[0.0], [3.0], [4.0]]), 0)])
        >>> blocks = distances_from_rows(units, torch.tensor([0.0, 9.0, 16.0]))
        >>> distance, tiles, sure = nearest_pairs([units], blocks, torch.full((1,), 1e-5))
        >>> distance.tolist(), tiles.tolist(), sure
        ([1.0], [[[0.0, 3.0, 4.0], [3.0, 0.0, 1.0], [4.0, 1.0, 0.0]]], True)
    """
    m = units[0].m
    size = min(TILES, m)
    edges = [-(-tile * m // size) for tile in range(size + 1)]
    smallest = np.full((len(units), size, size), np.inf)
    for start, block in blocks:
        first, low = _rows_of_tiles(block, start, edges)
        starts = [max(edge - start, 0) for edge in edges[first:-1]]
        tiled = np.minimum.reduceat(low.cpu().numpy(), starts, axis=2)
        part = smallest[:, first : first + low.shape[1], first:]
        np.minimum(part, tiled, out=part)
    nearest, sure = np.sqrt(np.maximum(smallest.min((1, 2)), 0)), True
    for number in np.flatnonzero(error.numpy() > 1e-9 * nearest**2):
        tiles = smallest[number]
        nearest[number], enough = _again(units[number], tiles, edges, float(error[number]))
        sure = sure and enough
    smallest = np.minimum(smallest, smallest.transpose(0, 2, 1))
    shown = np.where(np.isfinite(smallest), np.sqrt(np.maximum(smallest, 0)), 0)
    return torch.from_numpy(nearest), torch.from_numpy(shown), sure


def _rows_of_tiles(block: Tensor, start: int, edges: list[int]) -> tuple[int, Tensor]:
    """Smallest of the rows of each tile that a block has a part of, and the first such tile."""
    b, height, width = block.shape
    tile = edges[1]
    even = all(high - low == tile for low, high in itertools.pairwise(edges))
    first = next(number for number, edge in enumerate(edges[1:]) if edge > start)
    if even and start % tile == 0 and height % tile == 0:
        return first, block.view(b, height // tile, tile, width).amin(2)
    stop = start + height
    inside = [max(edge - start, 0) for edge in edges[first:] if edge < stop] + [height]
    return first, torch.stack([block[:, x:y].amin(1) for x, y in itertools.pairwise(inside)], 1)


def distances_from_gram(G: Triangle) -> Iterator[tuple[int, Tensor]]:
    """First row of each block, and squared distances of its pairs; the lower triangle infinite."""
    squares = G.diagonal()
    for start, rows in G:
        height = _height(G.m, AT_ONCE // (rows.shape[2] * len(rows)))
        for offset, part in zip(
            range(0, rows.shape[1], height), rows.split(height, 1), strict=True
        ):
            first = start + offset
            block = squares[:, first : first + part.shape[1], None] + squares[:, None, first:]
            block.sub_(part[:, :, offset:], alpha=2)
            yield first, _upper(block)


def distances_from_rows(units: Units, squares: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The same from the rows of one group, in the type of ``squares``.

    For groups whose Gram matrix (m, m) is larger than they are.
    """
    m, dtype = units.m, squares.dtype
    whole = list(row_blocks(units, m, 0, dtype)) if m * units.n <= BLOCK else None
    height = _height(m, (AT_ONCE if whole else BLOCK) // m)
    for first in range(0, m, height):
        stop = min(first + height, m)
        left = whole[0][first:stop] if whole else next(row_blocks(units, height, first, dtype))
        parts = [whole[0][first:]] if whole else row_blocks(units, height, first, dtype)
        dots = torch.cat([left @ right.T for right in parts], 1)
        block = (squares[first:stop, None] + squares[first:]).sub_(dots, alpha=2)
        yield first, _upper(block[None])


def _height(m: int, rows: int) -> int:
    """About so many rows: whole tiles of the map, where tiles are even."""
    tile = max(1, m // TILES)
    return max(tile, rows // tile * tile)


def _upper(block: Tensor) -> Tensor:
    height = block.shape[1]
    lower = torch.ones(height, height, dtype=torch.bool, device=block.device).tril_()
    block[:, :, :height].masked_fill_(lower, math.inf)
    return block


def _again(
    units: Units, tiles: "np.ndarray[Any, Any]", edges: list[int], error: float
) -> tuple[float, bool]:
    """The smallest distance, by the difference; and whether no tile is left that may hold it."""
    best = math.inf
    for count, place in enumerate(tiles.argsort(axis=None)):
        first, second = divmod(int(place), len(tiles))
        if best == 0 or tiles[first, second] - error > best:
            return math.sqrt(best), True
        if count == TRIES:
            return math.sqrt(best), False
        pair = (range(edges[first], edges[first + 1]), range(edges[second], edges[second + 1]))
        best = min(best, _by_difference(units, *pair))
    return math.sqrt(best), True


def _by_difference(units: Units, first: range, second: range) -> float:
    """Smallest squared distance of a unit of one range and a later unit of another."""
    squares = torch.zeros(len(first), len(second), dtype=torch.float64)
    for tensor, dim in units:
        rows = unit_rows(tensor, dim)
        others = rows[second.start : second.stop].double()
        height = max(1, BLOCK // max(others.numel(), 1))
        for a in range(first.start, first.stop, height):
            ours = rows[a : min(a + height, first.stop), None].double()
            squares[a - first.start : a - first.start + len(ours)] += (
                (ours - others).square_().sum(2).cpu()
            )
    later = torch.tensor(second)[None] > torch.tensor(first)[:, None]
    return float(squares[later].min()) if bool(later.any()) else math.inf
