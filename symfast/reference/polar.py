# SPDX-License-Identifier: Apache-2.0
"""Scaled Newton-Schulz iterations in torch; csrc/polar.h has the same constants and steps."""

import torch
from torch import Tensor

LOW, STEPS = 1e-3, 36
NEAR = {torch.float64: 1e-8, torch.float32: 3e-4}


def polar_iterate(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal polar factors of (batch, d, d), and which of them converged, (batch,) bool.

    Example:
        >>> import torch
        >>> from symfast.reference.polar import polar_iterate
        >>> polar_iterate(2 * torch.eye(2)[None])[1]
        tensor([True])
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise RuntimeError(
            f"polar: matrices must have shape (batch, d, d), got {tuple(matrices.shape)}"
        )
    if matrices.dtype not in NEAR:
        raise RuntimeError(f"polar: matrices must be float64 or float32, got {matrices.dtype}")
    X = matrices.clone(memory_format=torch.contiguous_format)
    if X.numel() == 0:
        return X, X.new_zeros(len(X), dtype=torch.bool)
    identity = torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    most = X.abs().amax((1, 2), keepdim=True)
    usable = (most.isfinite() & (most > 0)).flatten()
    X = torch.where(usable[:, None, None], X / most, identity)
    X = X / torch.linalg.matrix_norm(X.mT @ X).sqrt()[:, None, None]
    low = torch.full_like(most, LOW, dtype=torch.float64)
    done = torch.zeros_like(usable)
    for _ in range(STEPS):
        G = X.mT @ X
        near = ~done & (torch.linalg.matrix_norm(G - identity) < NEAR[X.dtype])
        low = torch.where(near[:, None, None], 1.0, low)
        a = (3 / (1 + low + low * low)).sqrt()
        low = (0.5 * a * low * (3 - a * a * low * low)).clamp_max(1.0)
        step = X @ (1.5 * a * identity - 0.5 * a**3 * G).to(X.dtype)
        X = torch.where(done[:, None, None], X, step)
        done |= near
        if bool(done.all()):
            break
    return X, done & usable
