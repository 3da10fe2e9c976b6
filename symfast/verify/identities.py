# SPDX-License-Identifier: Apache-2.0
"""Truth case 3: what one step of SGD does to a product of two factors, exactly."""

import torch
from torch import Tensor

from symfast.factor_op import factor_step_
from symfast.verify.case import Case, CaseResult, Curves, Series, at_most

SOURCE = "derived (discrete spred step)"
ETA, LAM = 0.1, 0.3


def defects(dtype: torch.dtype, steps: int, size: int) -> Tensor:
    """Largest relative defects (steps, 3) of mirror coordinates, imbalance and product.

    With ``a = (u + w) / sqrt 2``, ``b = (u - w) / sqrt 2`` and any gradient g of the product:
    ``a' = (1 - eta lam - eta g) a``, ``b' = (1 - eta lam + eta g) b``; ``C = u^2 - w^2`` becomes
    ``((1 - eta lam)^2 - eta^2 g^2) C``; ``p = u w`` becomes
    ``((1 - eta lam)^2 + eta^2 g^2) p - eta (1 - eta lam) g (u^2 + w^2)``.
    """
    g0 = torch.Generator().manual_seed(3)
    factors = torch.randn(2, size, generator=g0, dtype=torch.float64).to(dtype)
    u, w = factors.double().unbind()
    a, b, C, p = (u + w) * 0.5**0.5, (u - w) * 0.5**0.5, u * u - w * w, u * w
    squares = u * u + w * w
    weight = torch.empty(size, dtype=dtype)
    keep, path = 1 - ETA * LAM, []
    settings = torch.tensor([[ETA, 0.0, LAM]], dtype=torch.float64)

    def worst(got: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
        return ((got - wanted).abs() / scale).max()

    for _ in range(steps):
        g = (0.5 * torch.randn(size, generator=g0, dtype=torch.float64)).to(dtype)
        factor_step_([weight], [g], [factors], [], settings, [0])
        g = g.double()
        p = (keep**2 + (ETA * g) ** 2) * p - ETA * keep * g * squares
        a, b, C = (keep - ETA * g) * a, (keep + ETA * g) * b, (keep**2 - (ETA * g) ** 2) * C
        squares = a * a + b * b
        u, w = factors.double().unbind()
        plus = worst((u + w) * 0.5**0.5, a, squares.sqrt())
        minus = worst((u - w) * 0.5**0.5, b, squares.sqrt())
        imbalance = worst(u * u - w * w, C, squares)
        product = worst(weight.double(), p, squares)
        path.append(torch.stack([plus.maximum(minus), imbalance, product]))
    return torch.stack(path)


def run(quick: bool) -> CaseResult:
    """50 fused steps in both dtypes; relative to the size of the pair."""
    checks = []
    series = []
    for dtype, tol in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        found = defects(dtype, 50, 1003)
        names = ("mirror coordinates", "imbalance u^2 - w^2", "product u w")
        precision = str(dtype).removeprefix("torch.")
        for name, defect in zip(names, found.T.tolist(), strict=True):
            claim = f"{name}, 50 fused steps, {precision}"
            checks.append(at_most(claim, SOURCE, max(defect), tol))
            series.append(Series(f"{name}, {precision}", range(1, 51), defect))
    caption = "Fused steps with random gradients and decay: relative distance from the identities."
    return CaseResult(
        tuple(checks), Curves("step", "relative defect", tuple(series), caption, yscale="log")
    )


CASES = (Case(3, "discrete mirror identities", SOURCE, run),)
