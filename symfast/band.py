# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of large symmetric matrices: to a band by matrix products, then from the band.

LAPACK's one-stage reduction reads the whole matrix once per column. Here ``WIDTH`` columns are
reduced at a time (Bischof, Lang, Sun 2000): everything that grows as m^3 is a matrix product, and
it works in the memory of the matrix, of which one triangle is enough.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from symfast.triangle import Triangle

#: Columns reduced at once, the width of the band; divides the height of a block.
WIDTH = 16


def eigenvalues_(G: Triangle) -> Tensor:
    """Eigenvalues (b, m), ascending, float64; ``G`` is lost.

    The error is about ``m eps`` of the largest. Large matrices on the CPU go by a band where scipy
    is installed; others are diagonalised by torch, whole.

    Example:
        >>> import torch
        >>> from symfast.band import eigenvalues_
        >>> from symfast.triangle import Triangle
        >>> eigenvalues_(Triangle.of(torch.diag(torch.tensor([9.0, 4.0]))[None])).tolist()
        [[4.0, 9.0]]
    """
    found: Tensor
    if G.whole is not None:
        found = torch.linalg.eigvalsh(G.whole, UPLO="U")
    elif G.blocks[0].device.type != "cpu" or find_spec("scipy") is None:
        found = torch.linalg.eigvalsh(G.full())
    else:
        found = torch.stack([_from_band(reduce_(G, b)) for b in range(len(G.blocks[0]))])
    return found


def _from_band(band: Tensor) -> Tensor:
    from scipy.linalg import eigvals_banded

    return torch.from_numpy(eigvals_banded(band.numpy(), lower=True, check_finite=False))


def reduce_(G: Triangle, which: int = 0) -> Tensor:
    r"""Turn one matrix into a band with the same eigenvalues, in place.

    Columns c .. c+w below the band are ``P = Q R``, ``Q = I - Y T Y^T``. With the trailing matrix
    ``A``, ``Z = A Y T`` and ``W = Z - Y T^T Y^T Z / 2`` it becomes
    ``Q^T A Q = A - Y W^T - W Y^T``.

    Returns:
        (WIDTH + 1, m): the diagonal, and those below it.
    """
    blocks = [(start, block[which]) for start, block in G]
    for column in range(0, G.m - WIDTH, WIDTH):
        first = column + WIDTH
        start, block = next((s, x) for s, x in blocks if s <= column < s + len(x))
        Y, inverse_T = _annihilate_(block[column - start : first - start, first - start :])
        trailing = []
        for start, block in blocks:
            skip = max(first - start, 0)
            if skip < len(block):
                trailing.append((start + skip - first, block[skip:, skip:]))
        Z = torch.linalg.solve_triangular(inverse_T, _product(trailing, Y), upper=True, left=False)
        S = torch.linalg.solve_triangular(inverse_T.mT, Y.mT @ Z, upper=False)
        W = Z.sub_(Y @ S, alpha=0.5)
        left, right = torch.cat([Y, W], 1), torch.cat([W, Y], 1)
        for row, A in trailing:
            A.addmm_(left[row : row + len(A)], right[row:].mT, alpha=-1)
    return _band(blocks, G.m)


def _annihilate_(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the R of ``rows^T = Q R`` in place; return Y (p, k) and ``T^-1`` (k, k) of Q."""
    packed, tau = torch.geqrf(rows.mT)
    k = len(tau)
    Y = packed[:, :k].tril(-1)
    Y.diagonal().fill_(1)
    Y *= tau != 0  # no reflection, where there was nothing to reflect
    rows.zero_()[:, :k] = packed[:k].triu().mT
    inverse_T = (Y.mT @ Y).triu_(1)  # T^-1 + T^-T = Y^T Y
    inverse_T.diagonal().copy_(torch.where(tau != 0, 1 / tau, 1))
    return Y, inverse_T


def _product(trailing: list[tuple[int, Tensor]], Y: Tensor) -> Tensor:
    """The symmetric matrix, by its blocks of rows, times Y."""
    total = torch.zeros_like(Y)
    for row, A in trailing:
        stop = row + len(A)
        total[row:stop].addmm_(A, Y[row:])
        if stop < len(Y):
            total[stop:].addmm_(A[:, len(A) :].mT, Y[row:stop])
    return total


def _band(blocks: list[tuple[int, Tensor]], m: int) -> Tensor:
    band = torch.zeros(WIDTH + 1, m, dtype=torch.float64)
    for start, block in blocks:
        for distance in range(min(WIDTH + 1, block.shape[1])):
            entries = block.diagonal(distance)
            band[distance, start : start + len(entries)] = entries
    return band
