# SPDX-License-Identifier: Apache-2.0
"""Symmetric matrices by blocks of rows, each from the diagonal on: half the memory of a square."""

from collections.abc import Iterator

import torch
from torch import Tensor

#: Up to this size a matrix is kept whole, above it only the blocks are.
WHOLE = 1024
#: Rows of a block. Smaller ones of a whole matrix: a product needs only the blocks' entries.
HEIGHT, STRIP = 256, 128
#: Strips hold whole tiles of the map of distances (`symfast.nearest`), which has so many a side.
TILES = 64


class Triangle:
    """Symmetric matrices (b, m, m) in float64, of which only the upper triangle is kept.

    Entries below the diagonal, inside a block, are not to be read. A 4096 x 4096 matrix takes
    71 MB (a square: 134 MB).

    Args:
        b: how many matrices.
        m: their size.
        device: where they lie.

    Example:
        >>> import torch
        >>> from symfast.triangle import Triangle
        >>> T = Triangle(1, 2)
        >>> T.add_(torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]).double())
        >>> T.full().tolist()
        [[[1.0, 3.0], [3.0, 25.0]]]
    """

    def __init__(self, b: int, m: int, device: torch.device | str = "cpu") -> None:
        self.m, self.whole = m, None
        options = {"dtype": torch.float64, "device": device}
        if m <= WHOLE:
            tile = max(1, m // TILES)
            height = STRIP // tile * tile if m >= 2 * STRIP else max(m, 1)
            self.whole = torch.zeros(b, m, m, **options)  # type: ignore[call-overload]
            self.blocks = [self.whole[:, s : s + height, s:] for s in range(0, m, height)]
        else:
            height = HEIGHT
            sizes = [(min(height, m - s), m - s) for s in range(0, m, height)]
            self.blocks = [torch.zeros(b, *size, **options) for size in sizes]  # type: ignore[call-overload]
        self.starts = list(range(0, m, height))

    @classmethod
    def of(cls, G: Tensor) -> "Triangle":
        """The upper triangle of matrices (b, m, m)."""
        found = cls(G.shape[0], G.shape[1], G.device)
        for start, block in found:
            block.copy_(G[:, start : start + block.shape[1], start:])
        return found

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """The first row of each block, and the block (b, h, m - first)."""
        return zip(self.starts, self.blocks, strict=True)

    def add_(self, X: Tensor) -> None:
        """Add ``X X^T``, X (b, m, w) float64."""
        for start, block in self:
            left, right = X[:, start : start + block.shape[1]], X[:, start:].mT
            if len(X) == 1:  # a batch of one takes a slower way through torch
                block[0].addmm_(left[0], right[0])
            else:
                block.baddbmm_(left, right)

    def diagonal(self) -> Tensor:
        """The diagonals (b, m)."""
        return torch.cat([block.diagonal(dim1=1, dim2=2) for block in self.blocks], 1)

    def row(self, which: int, a: int) -> Tensor:
        """Row ``a`` of one matrix, from the diagonal on (m - a,)."""
        number = a // self.blocks[0].shape[1]
        offset = a - self.starts[number]
        found: Tensor = self.blocks[number][which, offset, offset:]
        return found

    def full(self) -> Tensor:
        """The matrices whole (b, m, m)."""
        b = self.blocks[0].shape[0]
        G = torch.zeros(b, self.m, self.m, dtype=torch.float64, device=self.blocks[0].device)
        for start, block in self:
            G[:, start : start + block.shape[1], start:] = block
        return G.triu_().add_(G.triu(1).mT)
