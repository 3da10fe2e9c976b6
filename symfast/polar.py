# SPDX-License-Identifier: Apache-2.0
"""Orthogonal polar factors of many small matrices: the nearest rotations, batched."""

import torch
from torch import Tensor

from symfast import ops
from symfast.reference.polar import polar_iterate


def _polar(matrices: Tensor) -> Tensor:
    """Iterate; what does not converge goes through a singular value decomposition."""
    Q: Tensor
    Q, converged = torch.ops.symfast.polar_iterate.default(matrices)
    left = torch.nonzero(~converged).flatten()
    if left.numel():
        rest = matrices[left]
        finite = rest.isfinite().all((1, 2))[:, None, None]
        U, _, Vh = torch.linalg.svd(torch.where(finite, rest, 0))
        Q[left] = torch.where(finite, U @ Vh, torch.nan)
    return Q


ops.define("polar_iterate", "(Tensor matrices) -> (Tensor q, Tensor converged)", polar_iterate)
ops.define("polar", "(Tensor matrices) -> Tensor", _polar)


def _fake_iterate(matrices: Tensor) -> tuple[Tensor, Tensor]:
    if matrices.ndim != 3:
        raise RuntimeError(f"polar: matrices must have shape (batch, d, d), got {matrices.shape}")
    torch._check(matrices.shape[1] == matrices.shape[2])
    batch = matrices.shape[0]
    return matrices.new_empty(matrices.shape), matrices.new_empty((batch,), dtype=torch.bool)


torch.library.register_fake("symfast::polar_iterate", _fake_iterate, lib=ops.LIBRARY)
torch.library.register_fake(
    "symfast::polar", lambda matrices: _fake_iterate(matrices)[0], lib=ops.LIBRARY
)


def polar(matrices: Tensor) -> Tensor:
    """Return the orthogonal polar factor of each matrix: the nearest orthogonal matrix.

    ``Q = U V^T`` for ``A = U S V^T``: the orthogonal Q with the largest ``<Q, A>``, so that
    ``polar(X Y^T)`` solves the Procrustes problem ``min_Q ||X - Q Y||_F``. It ranges over O(d),
    reflections included. Scaled Newton-Schulz iterations in the dtype of A; a matrix whose
    smallest singular value is below about 1e-6 of its largest goes through ``torch.linalg.svd``.
    Singular matrices get one of their polar factors (zero: the identity), a matrix with NaN or
    infinite entries gets NaN, and the others of its batch are not touched by it. Matrices go one
    by one to threads: results do not depend on the batch or on the number of threads. No gradient
    flows.

    Args:
        matrices: (..., d, d), float32 or float64; tuned for d up to 256. Half types are computed
            in float32 and rounded once.

    Returns:
        (..., d, d) in the dtype of ``matrices``; ``||Q^T Q - I||_F <= 1e-5`` in float32.

    Raises:
        TypeError: if the input is not a real floating tensor.
        ValueError: if the last two dims are not square.

    Source: Higham, "Functions of Matrices", 2008, ch. 8; scaling of Chen and Chow, 2014.

    Example:
        >>> import torch, symfast as sf
        >>> sf.polar(torch.tensor([[0.0, -3.0], [2.0, 0.0]])).round() + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if not isinstance(matrices, Tensor) or not matrices.is_floating_point():
        what = matrices.dtype if isinstance(matrices, Tensor) else type(matrices).__name__
        raise TypeError(f"polar wants a real floating tensor (..., d, d), got {what}")
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise ValueError(f"polar wants square matrices (..., d, d), got {tuple(matrices.shape)}")
    wide = torch.float64 if matrices.dtype == torch.float64 else torch.float32
    if matrices.numel() == 0:
        return torch.empty_like(matrices, requires_grad=False)
    batch = matrices.detach().to(wide).reshape(-1, *matrices.shape[-2:])
    Q: Tensor = torch.ops.symfast.polar.default(batch)
    return Q.to(matrices.dtype).reshape(matrices.shape)
