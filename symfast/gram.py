# SPDX-License-Identifier: Apache-2.0
"""The Gram matrix U U^T of a unit matrix, and everything it tells.

``U U^T`` (m, m) holds the norm of every unit (distance to its sign-flip mirror), the distance of
every pair (swap mirrors) and the singular values (direction mirrors). It is summed in float64,
block by block, so that U itself is never gathered.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from symfast.units import Units

#: Numbers converted to float64 at a time.
BLOCK = 1 << 20
#: A singular value below this share of the largest is lost in the rounding of a float64 Gram:
#: the squares are known to about m * 2e-16 of the largest square.
RESOLUTION = 1e-6
#: Directions below this share of the largest are measured again by themselves.
SPLIT = 1e-2

UnitMatrix = Units | Iterable[tuple[Tensor, int]]


def unit_rows(tensor: Tensor, dim: int) -> Tensor:
    """Units of one member as rows (m, numel / m): a view where strides allow it.

    Example:
        >>> import torch
        >>> from symfast.gram import unit_rows
        >>> unit_rows(torch.zeros(4, 3, 2), 1).shape
        torch.Size([3, 8])
    """
    rows = tensor.detach().movedim(dim, 0)
    return rows.reshape(rows.shape[0], -1)


def gram(units: UnitMatrix, block: int = BLOCK) -> Tensor:
    """Gram matrix of the units, ``G = U U^T``.

    Args:
        units: ``sf.Units``, or pairs (tensor, dim) of equal size m along their dim.
        block: numbers converted at a time; memory beyond the result is 8 bytes for each.

    Returns:
        (m, m) float64 on the device of the first member. Every product is exact for float32 and
        half inputs; the sum is float64.

    Raises:
        UnitsError: (a ValueError) if the members do not belong together.

    Example:
        >>> import torch
        >>> from symfast.gram import gram
        >>> gram([(torch.eye(2), 0), (torch.ones(2), 0)]).tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """
    units = _units(units)
    device = units.members[0][0].device
    result = torch.zeros(units.m, units.m, dtype=torch.float64, device=device)
    width = max(1, block // max(units.m, 1))
    for tensor, dim in units:
        for part in unit_rows(tensor, dim).split(width, 1):
            part = part.to(device, torch.float64)
            result.addmm_(part, part.T)
    return result


def dual_gram(units: UnitMatrix, block: int = BLOCK) -> Tensor:
    """Gram matrix of the columns, ``U^T U`` (n, n): the same spectrum, smaller where n < m.

    Example:
        >>> import torch
        >>> from symfast.gram import dual_gram
        >>> dual_gram([(torch.ones(3, 1), 0), (torch.ones(3), 0)]).tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """
    units = _units(units)
    device = units.members[0][0].device
    result = torch.zeros(units.n, units.n, dtype=torch.float64, device=device)
    for rows in row_blocks(units, max(1, block // max(units.n, 1))):
        rows = rows.to(device)
        result.addmm_(rows.T, rows)
    return result


def row_blocks(
    units: Units, height: int, first: int = 0, dtype: torch.dtype = torch.float64
) -> Iterator[Tensor]:
    """Rows of U gathered in ``dtype``, ``height`` units at a time, from unit ``first`` on.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.gram import row_blocks
        >>> [b.shape[0] for b in row_blocks(sf.Units([(torch.ones(5, 2), 0)]), 2)]
        [2, 2, 1]
    """
    device = units.members[0][0].device
    members = [unit_rows(tensor, dim) for tensor, dim in units]
    for start in range(first, units.m, height):
        parts = [rows[start : start + height].to(device, dtype) for rows in members]
        yield torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def pair_distances(G: Tensor) -> Tensor:
    """Distance of every pair of units, ``|u_a - u_b| = sqrt(G_aa + G_bb - 2 G_ab)``.

    The distance to the mirror ``Swap([a], [b])`` is this over sqrt 2. Cancellation leaves an
    error of about ``sqrt(2e-16 * n)`` times the norms: smaller distances are noise.

    Args:
        G: (m, m) Gram matrix.

    Returns:
        (m, m) distances, zero on the diagonal.

    Example:
        >>> import torch
        >>> from symfast.gram import gram, pair_distances
        >>> pair_distances(gram([(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 0)])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    square = G.diagonal()
    distances = torch.add(square[:, None], square[None]).sub_(G, alpha=2).clamp_(min=0).sqrt_()
    distances.fill_diagonal_(0)
    return distances


def spectrum(G: Tensor) -> Tensor:
    """Singular values of U from its Gram matrix, largest first: square roots of eigenvalues.

    Error: the squares are right to about ``m * eps * s_max^2``, eps = 2.2e-16, so a value s to
    ``m * eps * s_max^2 / (2 s)``. Values below ``RESOLUTION * s_max`` are noise;
    `remeasured` measures those again.

    Args:
        G: (m, m) Gram matrix.

    Returns:
        (m,) float64, not negative, descending.

    Example:
        >>> import torch
        >>> from symfast.gram import spectrum
        >>> spectrum(torch.diag(torch.tensor([4.0, 9.0]))).tolist()
        [3.0, 2.0]
    """
    squares: Tensor = torch.linalg.eigvalsh(G.double())
    return squares.clamp(min=0).sqrt().flip(-1)


def remeasured(units: Units, G: Tensor) -> Tensor:
    """Singular values of U, the small ones by themselves.

    The directions ``V`` of values below ``SPLIT`` of the largest are measured as the singular
    values of ``V^T U``: then the error is about ``1e-13 * s_max`` instead of ``1e-8 * s_max``.

    Args:
        units: U.
        G: its Gram matrix, or dual Gram matrix if that is smaller.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.gram import gram, remeasured
        >>> units = sf.Units([(torch.diag(torch.tensor([2.0, 1e-12]).double()), 0)])
        >>> [f"{s:.6g}" for s in remeasured(units, gram(units))]
        ['2', '1e-12']
    """
    squares, V = torch.linalg.eigh(G)
    small = squares < (SPLIT**2) * squares[-1]
    large = squares[~small].sqrt().flip(0)
    if G.shape[0] == units.m:  # V^T U, member by member; the R of its transpose has its spectrum
        parts = [V[:, small].T @ unit_rows(tensor, dim).to(V.device) for tensor, dim in units]
        block = torch.cat(parts, 1).T
    else:
        height = max(1, BLOCK // units.n)
        block = torch.cat([rows @ V[:, small] for rows in row_blocks(units, height)])
    below = torch.linalg.svdvals(torch.linalg.qr(block, mode="r").R)
    return torch.cat([large, below])


def _units(units: UnitMatrix) -> Units:
    return units if isinstance(units, Units) else Units(units)
