# SPDX-License-Identifier: Apache-2.0
"""Rotation and scale that carry one attention head onto another: Procrustes and a quartic.

Source: Zhang et al., "Beyond the Permutation Symmetry of Transformers: The Role of Rotation for
Model Fusion", ICML 2025, theorem 4.1 and algorithm 1.
"""

import torch
from torch import Tensor

from symfast.polar import polar


def match_heads(
    A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, *, rescale: bool = True
) -> tuple[Tensor, Tensor]:
    """Find orthogonal R and a > 0 per head with ``(a R A2, R B2 / a)`` nearest to ``(A1, B1)``.

    For a query-key pair A is [W_Q, b_Q] and B is [W_K, b_K], both (d_h, n); for value-output A is
    [W_V, b_V] and B is the head's columns of W_O, transposed. The product ``A^T B`` is unchanged.
    ``R = polar(A1 A2^T + B1 B2^T)`` over O(d_h), reflections included; a is the positive root of
    ``|A2|^2 a^4 - <A1, R A2> a^3 + <B1, R B2> a - |B2|^2`` with the smallest distance.

    Args:
        A1: (..., d_h, n) of the anchor; B1: (..., d_h, m).
        B1: see A1.
        A2: (..., d_h, n) of the head to be moved; B2: (..., d_h, m).
        B2: see A2.
        rescale: False keeps a = 1.

    Returns:
        R (..., d_h, d_h) and a (...).

    Raises:
        ValueError: if shapes differ.

    Example:
        >>> import torch
        >>> from symfast.head_match import match_heads
        >>> A, B = torch.randn(2, 4, 9, dtype=torch.float64)
        >>> R = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
        >>> found, a = match_heads(A, B, R.T @ A / 2, R.T @ B * 2)
        >>> bool((found - R).abs().max() < 1e-12), round(float(a), 9)
        (True, 2.0)
    """
    if A1.shape != A2.shape or B1.shape != B2.shape or A1.shape[:-1] != B1.shape[:-1]:
        raise ValueError(
            f"heads must agree in shape: anchor {tuple(A1.shape)} and {tuple(B1.shape)}, "
            f"moved {tuple(A2.shape)} and {tuple(B2.shape)}"
        )
    R = polar(A1 @ A2.mT + B1 @ B2.mT)
    if not rescale:
        return R, A1.new_ones(A1.shape[:-2])
    return R, scale_between(A1, B1, R @ A2, R @ B2)


def scale_between(A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
    """Return the a > 0 (...) that minimises ``|A1 - a A2|^2 + |B1 - B2 / a|^2``.

    A positive root of a quartic, found as an eigenvalue of its companion matrix. 1 where A2 or B2
    is zero. Shapes (..., k, n) for A and (..., k, m) for B.

    Example:
        >>> import torch
        >>> from symfast.head_match import scale_between
        >>> A, B = torch.ones(1, 1, 2), torch.ones(1, 1, 3)
        >>> scale_between(A, B, A / 2, B * 2)
        tensor([2.])
    """
    dtype, wide = A1.dtype, torch.float64
    A1, B1, A2, B2 = (x.to(wide).flatten(-2) for x in (A1, B1, A2, B2))
    p, q = A2.square().sum(-1), (A1 * A2).sum(-1)
    r, s = (B1 * B2).sum(-1), B2.square().sum(-1)
    usable = (p > 0) & (s > 0)  # a dead side leaves the scale open: keep it
    p, s = torch.where(usable, p, 1), torch.where(usable, s, 1)
    q, r = torch.where(usable, q, 1), torch.where(usable, r, 1)
    # monic a^4 - q/p a^3 + r/p a - s/p
    companion = torch.zeros(*p.shape, 4, 4, dtype=wide, device=p.device)
    companion[..., 0, 0] = q / p
    companion[..., 0, 2] = -r / p
    companion[..., 0, 3] = s / p
    companion[..., [1, 2, 3], [0, 1, 2]] = 1
    roots = torch.linalg.eigvals(companion)
    a = roots.real
    real = (roots.imag.abs() <= 1e-6 * roots.abs()) & (a > 0)
    a = torch.where(real, a, 1)
    cost = a.square() * p[..., None] - 2 * a * q[..., None] + s[..., None] / a.square()
    cost = torch.where(real, cost - 2 * r[..., None] / a, torch.inf)
    best = a.gather(-1, cost.argmin(-1, keepdim=True))[..., 0]
    return torch.where(usable, best, 1).to(dtype)
