# SPDX-License-Identifier: Apache-2.0
"""Six alignments of a layer's representations, gradients and weights.

Source: Ziyin et al., "Formation of Representations in Neural Networks" (canonical representation
hypothesis), ICLR 2025.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Alignments(NamedTuple):
    """Pearson correlations (...) between entries of Gram matrices, a before and b after W."""

    HaGa: Tensor
    HaZa: Tensor
    GaZa: Tensor
    HbGb: Tensor
    HbZb: Tensor
    GbZb: Tensor


def alignments(h: Tensor, g: Tensor, W: Tensor, *, centred: bool = False) -> Alignments:
    """Correlate the six pairs of Gram matrices of a linear layer ``h_b = W h_a``.

    ``H = E[h h^T]``, ``G = E[g g^T]`` with ``g = -dl/dh``, ``Z_a = W^T W``, ``Z_b = W W^T``; the
    hypothesis is H ~ G ~ Z on both sides. Matrices are formed in float32 for half types.

    Args:
        h: (..., n, d_a) inputs of the layer, one row per sample.
        g: (..., n, d_b) gradient with respect to the layer's outputs; its sign and scale cancel.
        W: (..., d_b, d_a).
        centred: subtract the mean over samples and scale every row to norm 1, as the paper's
            experiments do; its theory uses the raw moments (default).

    Returns:
        Six tensors of the batch shape; NaN where a Gram matrix is constant.

    Raises:
        ValueError: if the shapes do not fit, or there is no sample.

    Example:
        >>> import torch
        >>> from symfast.alignment import alignments
        >>> h = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> found = alignments(h, h, torch.diag(torch.tensor([2.0, 1.0])))
        >>> round(float(found.HaZa), 4)
        1.0
    """
    if h.ndim < 2 or g.ndim < 2 or W.ndim < 2 or h.shape[-2] != g.shape[-2] or h.shape[-2] == 0:
        raise ValueError(
            f"h {tuple(h.shape)} and g {tuple(g.shape)} must have shapes (..., n, d_a) and "
            "(..., n, d_b) with the same n >= 1 samples"
        )
    if W.shape[-2:] != (g.shape[-1], h.shape[-1]):
        raise ValueError(
            f"W has shape {tuple(W.shape)}; wanted (..., {g.shape[-1]}, {h.shape[-1]})"
        )
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    h_a, g_b, W = h.to(wide), g.to(wide), W.to(wide)
    H_a, H_b = _gram(h_a, centred), _gram(h_a @ W.mT, centred)
    G_a, G_b = _gram(g_b @ W, centred), _gram(g_b, centred)
    Z_a, Z_b = W.mT @ W, W @ W.mT
    pairs = ((H_a, G_a), (H_a, Z_a), (G_a, Z_a), (H_b, G_b), (H_b, Z_b), (G_b, Z_b))
    return Alignments(*(correlation(a, b) for a, b in pairs))


def _gram(x: Tensor, centred: bool) -> Tensor:
    """Second moments (..., d, d) of the rows."""
    if centred:
        x = torch.nn.functional.normalize(x - x.mean(-2, keepdim=True), dim=-1)
    return x.mT @ x / x.shape[-2]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation (...) over all entries of two matrices (..., d, d).

    Example:
        >>> import torch
        >>> from symfast.alignment import correlation
        >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> round(float(correlation(a, 5 - a)), 4)
        -1.0
    """
    a, b = a.flatten(-2), b.flatten(-2)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    found: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return found
