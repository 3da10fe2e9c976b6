# SPDX-License-Identifier: Apache-2.0
"""Lowest eigenpairs of many symmetric operators at once, from products alone."""

from collections.abc import Callable

import torch
from torch import Tensor


def lowest_modes(
    apply: Callable[[Tensor], Tensor], sizes: Tensor, iterations: int, lowest: int
) -> tuple[Tensor, list[Tensor]]:
    """Lanczos with full reorthogonalisation, batched over operators of different sizes.

    Args:
        apply: maps (B, K) to (B, K); operator b acts on the first ``sizes[b]`` entries, and must
            return zeros in the others for zeros there.
        sizes: (B,) int64, each at least 1; K is the largest.
        iterations: steps; operators that are exhausted earlier stop there.
        lowest: how many of the lowest modes to return, beside the highest.

    Returns:
        The lowest eigenvalues (B,), float64, and unit vectors (B, K): ``lowest`` of the lowest
        and one of the highest. An operator with fewer modes repeats its lowest.

    Raises:
        ValueError: if a product is not finite.

    Example:
        >>> import torch
        >>> from symfast.lanczos import lowest_modes
        >>> d = torch.tensor([[3.0, -1.0, 2.0], [5.0, 4.0, 0.0]], dtype=torch.float64)
        >>> values, _ = lowest_modes(lambda c: d * c, torch.tensor([3, 2]), 5, 1)
        >>> [round(x, 9) for x in values.tolist()]
        [-1.0, 4.0]
    """
    count, width = len(sizes), int(sizes.max())
    steps = min(iterations, width)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(count, width, generator=generator, dtype=torch.float64)
    inside = torch.arange(width) < sizes.cpu()[:, None]
    q = torch.nn.functional.normalize(torch.where(inside, start, 0).to(sizes.device), dim=1)
    basis = q.new_zeros(steps, count, width)
    T = q.new_zeros(count, steps, steps)
    alive = torch.ones(count, dtype=torch.bool, device=q.device)
    for j in range(steps):
        basis[j] = q
        r = apply(q)
        alpha = (q * r).sum(-1)
        if not bool(alpha.isfinite().all()):
            raise ValueError("the loss or its curvature is not finite at a projected point")
        # what is exhausted gets a value above all of its own, decoupled, and is never the lowest
        T[:, j, j] = torch.where(alive, alpha, torch.inf)
        for _ in range(2):
            r = r - torch.einsum("jb,jbk->bk", torch.einsum("jbk,bk->jb", basis, r), basis)
        beta = r.norm(dim=-1)
        alive = alive & (beta > 1e-10 * T.diagonal(dim1=1, dim2=2)[:, 0].abs().clamp_min(1e-30))
        alive = alive & (j + 1 < sizes)
        if j + 1 < steps:
            T[:, j, j + 1] = T[:, j + 1, j] = torch.where(alive, beta, 0)
            q = torch.where(alive[:, None], r / torch.where(alive, beta, 1)[:, None], 0)
    return _ritz(T, basis, lowest)


def _ritz(T: Tensor, basis: Tensor, lowest: int) -> tuple[Tensor, list[Tensor]]:
    """Eigenpairs of the tridiagonal matrices, exhausted parts left out."""
    kept = T.diagonal(dim1=1, dim2=2).isfinite()
    size = torch.where(kept[:, :, None] & kept[:, None, :], T, 0).abs().sum(-1).amax(-1) + 1
    filler = torch.diag_embed(torch.where(kept, 0, 3 * size[:, None]))
    finite = torch.where(T.isfinite(), T, 0) + filler
    values, vectors = torch.linalg.eigh(finite)
    count = kept.sum(-1)  # the first `count` values are real ones: the filler lies above them
    modes = []
    for number in [*range(lowest), -1]:
        at = count - 1 if number < 0 else torch.where(count > number, number, 0)
        picked = vectors.gather(-1, at[:, None, None].expand(-1, vectors.shape[1], 1))[..., 0]
        modes.append(torch.einsum("bj,jbk->bk", picked, basis))
    return values[:, 0], modes
