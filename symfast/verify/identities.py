# SPDX-License-Identifier: Apache-2.0
"""Truth case 3: what one step of SGD does to a product of two factors, exactly."""

import torch
from torch import Tensor

from symfast.factor_op import factor_step_
from symfast.verify.case import Case, CaseResult, at_most

SOURCE = "derived (discrete spred step)"
ETA, LAM = 0.1, 0.3


def defects(dtype: torch.dtype, steps: int, size: int) -> tuple[float, float, float]:
    """Largest relative defects of mirror coordinates, imbalance and product after all steps.

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
    keep = 1 - ETA * LAM
    for _ in range(steps):
        g = (0.5 * torch.randn(size, generator=g0, dtype=torch.float64)).to(dtype)
        factor_step_([weight], [g], [factors], [], ETA, 0.0, LAM)
        g = g.double()
        p = (keep**2 + (ETA * g) ** 2) * p - ETA * keep * g * squares
        a, b, C = (keep - ETA * g) * a, (keep + ETA * g) * b, (keep**2 - (ETA * g) ** 2) * C
        squares = a * a + b * b
    u, w = factors.double().unbind()

    def worst(got: Tensor, wanted: Tensor, scale: Tensor) -> float:
        return float(((got - wanted).abs() / scale).max())

    half = 0.5**0.5
    mirror = max(worst((u + w) * half, a, squares.sqrt()), worst((u - w) * half, b, squares.sqrt()))
    return mirror, worst(u * u - w * w, C, squares), worst(weight.double(), p, squares)


def run(quick: bool) -> CaseResult:
    """50 fused steps in both dtypes; relative to the size of the pair."""
    checks = []
    for dtype, tol in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        found = defects(dtype, 50, 1003)
        names = ("mirror coordinates", "imbalance u^2 - w^2", "product u w")
        for name, defect in zip(names, found, strict=True):
            checks.append(at_most(f"{name}, 50 fused steps, {dtype}", SOURCE, defect, tol))
    return CaseResult(tuple(checks))


CASES = (Case(3, "discrete mirror identities", SOURCE, run),)
