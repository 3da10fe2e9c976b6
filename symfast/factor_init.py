# SPDX-License-Identifier: Apache-2.0
"""Starts of product factors: from a trained weight without changing it, or drawn at random."""

import math

import torch
from torch import Tensor

#: Newton steps for the size of a factor; 60 reach rounding from the start given, see `_root`.
_NEWTON = 60


def split(size: Tensor, depth: int, beta: float) -> Tensor:
    """Size t of D - 1 equal factors of a product whose last factor is the rest, size / t^(D-1).

    ``t >= 0`` solves ``t^2 - (size / t^(D-1))^2 = beta``: all factors but one are equal, and the
    imbalance of the last is beta. For D = 2 that is
    ``t^2 = (beta + sqrt(beta^2 + 4 size^2)) / 2`` (Jacobs & Burkholz, ICLR 2025). With beta = 0 the
    factors are balanced, which freezes the sign of the product for ever; use beta > 0.

    Args:
        size: >= 0, any shape, floating.
        depth: D >= 2.
        beta: >= 0, in units of squared factors.

    Returns:
        t in float64, the shape of size.

    Example:
        >>> import torch
        >>> from symfast.factor_init import split
        >>> t = split(torch.tensor(2.0), depth=2, beta=3.0)
        >>> t.item(), 2.0 / t.item()
        (2.0, 1.0)
    """
    size = size.double()
    if depth == 2:
        return ((beta + torch.hypot(torch.full_like(size, beta), 2 * size)) / 2).sqrt()
    return _root(size, depth, beta).sqrt()


def _root(size: Tensor, depth: int, beta: float) -> Tensor:
    """Largest root of x^(D-1) (x - beta) = size^2, by Newton from above: it is convex there."""
    x = beta + size.pow(2 / depth)
    if beta == 0:
        return x
    for _ in range(_NEWTON):
        # f / f' with f = x^(D-1) (x - beta) - size^2, divided by x^(D-2) to stay in range
        over = x * (x - beta) - size * (size / x.pow(depth - 2))
        x = x - over / (x + (depth - 1) * (x - beta))
    return x.clamp_min(beta)


def keep_factors(weight: Tensor, depth: int, beta: float) -> list[Tensor]:
    """D factors whose product is the weight: D - 1 equal positive ones, the last has the sign.

    Args:
        weight: any shape, floating.
        depth: D >= 2.
        beta: imbalance, >= 0; see `split`.

    Returns:
        D tensors in the weight's dtype; their product is the weight up to rounding.

    Example:
        >>> import torch
        >>> from symfast.factor_init import keep_factors
        >>> [x.item() for x in keep_factors(torch.tensor(-2.0), 2, beta=3.0)]
        [2.0, -1.0]
    """
    t = split(weight.abs(), depth, beta)
    # balanced to the last bit: rounding would be an imbalance that grows
    exact = t.to(weight.dtype) * weight.sign()
    rest = exact if beta == 0 else weight.double() / t.pow(depth - 1)
    return [*(t.to(weight.dtype).clone() for _ in range(depth - 1)), rest.to(weight.dtype)]


def draw_factors(
    shape: tuple[int, ...],
    depth: int,
    scale: float,
    *,
    eps: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    """D random factors by the initialiser of Deep Weight Factorization.

    Each is N(0, s^2) with ``s = scale^(1/D)``, drawn again unless
    ``(eps scale)^(1/D) < |f| < min(1, (2 scale)^(1/D))``.
    So ``eps scale < |w| < 2 scale`` for
    every product w: no heavy tail and no start at zero, but less variance than scale^2. Kolb et
    al., ICLR 2025, algorithm D.1, as re-implemented by others; eps there is not certain.

    Args:
        shape: of the weight.
        depth: D >= 2.
        scale: > 0, the standard deviation that an ordinary initialiser would give the weight.
        eps: least |w| in units of scale.
        generator: source of the numbers, on the CPU.

    Returns:
        float64, (D, *shape).

    Raises:
        ValueError: if scale or eps is out of range.

    Example:
        >>> import torch
        >>> from symfast.factor_init import draw_factors
        >>> w = draw_factors((1000,), 3, scale=0.1).prod(0).abs()
        >>> bool(w.min() > 0.001) and bool(w.max() < 0.2)
        True
    """
    if not (0 < scale < math.inf and 0 <= eps < min(2.0, 1 / scale)):
        raise ValueError(
            f"scale {scale} must be positive and finite, and 0 <= eps {eps} below 2 and 1 / scale"
        )
    sigma = scale ** (1 / depth)
    low, high = (eps * scale) ** (1 / depth), min(1.0, (2 * scale) ** (1 / depth))
    factors = torch.zeros(depth, *shape, dtype=torch.float64)
    bad = torch.ones_like(factors, dtype=torch.bool)
    while bool(bad.any()):
        fresh = torch.randn(int(bad.sum()), generator=generator, dtype=torch.float64) * sigma
        factors[bad] = fresh
        bad = (factors.abs() <= low) | (factors.abs() >= high)
    return factors
