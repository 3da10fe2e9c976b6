# SPDX-License-Identifier: Apache-2.0
"""Ranks of a spectrum: stable, effective, numerical; and the spectrum of a product of two."""

import torch
from torch import Tensor

from symfast.units import Units


def stable_rank(values: Tensor) -> float:
    """Stable rank ``sum s^2 / max s^2`` of singular values; 0 for a zero matrix.

    Example:
        >>> import torch
        >>> from symfast.rank import stable_rank
        >>> stable_rank(torch.tensor([2.0, 2.0, 0.0]))
        2.0
    """
    return float(stable_ranks(values)) if values.numel() else 0.0


def stable_ranks(values: Tensor) -> Tensor:
    """Stable ranks (...) of spectra (..., k), see `stable_rank`.

    Example:
        >>> import torch
        >>> from symfast.rank import stable_ranks
        >>> stable_ranks(torch.tensor([[2.0, 2.0], [0.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    top = values.amax(-1, keepdim=True)
    return (values / torch.where(top > 0, top, 1)).square().sum(-1)


def effective_rank(values: Tensor) -> float:
    """Effective rank ``exp(-sum p log p)``, ``p = s / sum s`` (Roy, Vetterli 2007); 0 if all zero.

    Example:
        >>> import torch
        >>> from symfast.rank import effective_rank
        >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
        2.0
    """
    return float(effective_ranks(values))


def effective_ranks(values: Tensor) -> Tensor:
    """Effective ranks (...) of spectra (..., k), see `effective_rank`.

    Example:
        >>> import torch
        >>> from symfast.rank import effective_ranks
        >>> effective_ranks(torch.tensor([[2.0, 0.0], [0.0, 0.0]])).tolist()
        [1.0, 0.0]
    """
    total = values.sum(-1, keepdim=True)
    p = values / torch.where(total > 0, total, 1)
    return torch.where(total[..., 0] > 0, torch.special.entr(p).sum(-1).exp(), 0)


def numerical_rank(values: Tensor, tolerance: float) -> int:
    """Number of singular values above ``tolerance`` times the largest.

    Example:
        >>> import torch
        >>> from symfast.rank import numerical_rank
        >>> numerical_rank(torch.tensor([1.0, 1e-3, 1e-9]), 1e-6)
        2
    """
    return int(numerical_ranks(values, tolerance)) if values.numel() else 0


def numerical_ranks(values: Tensor, tolerance: float) -> Tensor:
    """Numerical ranks (...) of spectra (..., k), see `numerical_rank`.

    Example:
        >>> import torch
        >>> from symfast.rank import numerical_ranks
        >>> numerical_ranks(torch.tensor([[1.0, 1e-9], [0.0, 0.0]]), 1e-6).tolist()
        [1, 0]
    """
    return (values > tolerance * values.amax(-1, keepdim=True)).sum(-1)


def rank_tolerance(units: Units) -> float:
    """Relative size below which a singular value counts as zero: ``max(m, n) * eps``.

    eps belongs to the coarsest dtype among the members, as in ``numpy.linalg.matrix_rank``.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.rank import rank_tolerance
        >>> rank_tolerance(sf.Units([(torch.ones(4, 8), 0)])) == 8 * torch.finfo(torch.float32).eps
        True
    """
    eps = max(float(torch.finfo(tensor.dtype).eps) for tensor, _ in units)
    return max(units.m, units.n) * eps


def product_spectrum(G_left: Tensor, G_right: Tensor) -> Tensor:
    """Singular values of ``L^T R`` from ``L L^T`` and ``R R^T`` alone, largest first.

    ``W_Q^T W_K`` of an attention head is (d, d); its spectrum needs only the two (d_h, d_h)
    Gram matrices: with ``L L^T = V diag(s) V^T`` and ``S = diag(s)^(1/2) V^T`` their squares are
    the eigenvalues of ``S R R^T S^T``. Values below ``1e-7`` of the product of the two largest
    singular values are noise.

    Args:
        G_left: (..., m, m) Gram matrix of the rows of L.
        G_right: (..., m, m) Gram matrix of the rows of R.

    Returns:
        (..., m) float64, descending.

    Example:
        >>> import torch
        >>> from symfast.rank import product_spectrum
        >>> four = torch.diag(torch.tensor([4.0, 0.0]))
        >>> product_spectrum(four, torch.diag(torch.tensor([9.0, 1.0]))).tolist()
        [6.0, 0.0]
    """
    squares, V = torch.linalg.eigh(G_left.double())
    S = squares.clamp(min=0).sqrt()[..., None] * V.mT
    found: Tensor = torch.linalg.eigvalsh(S @ G_right.double() @ S.mT)
    return found.clamp(min=0).sqrt().flip(-1)
