# SPDX-License-Identifier: Apache-2.0
"""Truth case 9: one weight as a product of D factors finds a minimum of the L_{2/D} problem."""

import math

import torch
from torch import Tensor

from symfast.factor_sweep import factor_sweep
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most, near

SOURCE = "Kolb et al., ICLR 2025 (DWF); thresholds derived"
LAM = 0.2
TINY = 1e-3


def onset(q: float, lam: float) -> float:
    """z_min: above it ``1/2 (w - z)^2 + lam |w|^q`` has a minimum that is not zero."""
    if q == 1:
        return lam
    w0 = (lam * q * (1 - q)) ** (1 / (2 - q))
    return float(w0 + lam * q * w0 ** (q - 1))


def global_threshold(q: float, lam: float) -> float:
    """Tau > z_min: above it that minimum is the lower one."""
    if q == 1:
        return lam
    return float((2 - q) / (2 * (1 - q)) * (2 * lam * (1 - q)) ** (1 / (2 - q)))


def larger_root(z: Tensor, q: float, lam: float) -> Tensor:
    """Larger root of ``w + lam q w^(q-1) = z`` for z > z_min: Newton from z, convex above w0."""
    if q == 1:
        return z - lam
    w = z.clone()
    for _ in range(200):
        slope = 1 + lam * q * (q - 1) * w ** (q - 2)
        over = w + lam * q * w ** (q - 1) - z
        w = torch.where((over > 0) & (slope > 0), w - over / slope, w)
    return w


def trained(z: Tensor, depth: int, lam: float, steps: int, first: float | None = None) -> Tensor:
    """Gradient descent on D equal factors from w = z > 0, or w = ``first``; one kernel call.

    With w = z v each z is the problem ``1/2 (v - 1)^2 + lam z^(q-2) |v|^q``, so one Gram matrix
    serves all.
    """
    one = torch.ones(1, dtype=z.dtype)
    share = torch.ones_like(z) if first is None else (first / z) ** (1 / depth)
    start = share[:, None, None].expand(-1, depth, 1).clone()
    rate = lam * z ** (2 / depth - 2)
    lr = 0.05 / rate.clamp_min(1.0)  # the penalty is steep for small z
    found = factor_sweep(
        one[:, None], one, start, steps=steps, lr=lr, lam=rate, tol=1e-15, check_every=200
    )
    return z * found.weight[:, 0]


def check_depth(depth: int) -> tuple[list[Check], Series]:
    """The law at one depth on 401 z in [-2, 2]; it is odd in z, so half of them are trained."""
    q = 2 / depth
    z = torch.linspace(-2, 2, 401, dtype=torch.float64)[201:]
    w = trained(z, depth, LAM, 60_000)
    start = onset(q, LAM)
    clear, above = (z - start).abs() > 0.02, z > start
    wanted = torch.where(above, larger_root(torch.where(above, z, 2.0), q, LAM), 0.0)
    found = w > 1e-6
    first, least = float(z[found].min()), float(w[found].min())
    checks = [
        at_most(f"D={depth}: larger root above z_min, 0 below", SOURCE,
                float((w - wanted).abs()[clear].max()), 1e-8),
        near(f"D={depth}: smallest |z| that survives", SOURCE, start, first, 0.01 + 1e-12),
    ]  # fmt: skip
    if depth > 2:
        w0 = (LAM * q * (1 - q)) ** (1 / (2 - q))
        checks += [
            at_least(f"D={depth}: no weight between 0 and the gap w0 = {w0:.4f}", SOURCE, least,
                     w0, f">= {w0:.4f}"),
            at_least(f"D={depth}: global threshold lies above the onset, by", SOURCE,
                     global_threshold(q, LAM) - first, 0.0, "> 0: the threshold found is local"),
            _from_tiny(z, depth),
        ]  # fmt: skip
    return checks, Series(f"D = {depth}", z.tolist(), w.tolist())


def _from_tiny(z: Tensor, depth: int) -> Check:
    """From w = 1e-3 the barrier of the law must lie below w: another, far larger threshold."""
    q = 2 / depth
    wanted = TINY + LAM * q * TINY ** (q - 1)
    w = trained(z, depth, LAM, 60_000, first=TINY)
    first = float(z[w > 1e-6].min()) if bool((w > 1e-6).any()) else math.inf
    claim = f"D={depth}: smallest |z| that survives a start at w = {TINY:g}"
    if wanted < float(z[-1]):
        return near(claim, SOURCE, wanted, first, 0.01 + 1e-12)
    return at_least(claim, SOURCE, first, float(z[-1]), f"{wanted:.3g}: none up to 2")


def run(quick: bool) -> CaseResult:
    """D = 2, 3, 4, 6: fast enough at full size."""
    checks: list[Check] = []
    series: list[Series] = []
    for depth in (2, 3, 4, 6):
        found, curve = check_depth(depth)
        checks += found
        series.append(curve)
    return CaseResult(tuple(checks), Curves("z", "w", tuple(series), f"lam = {LAM}, start w = z."))


CASES = (Case(9, "L_{2/D} scalar law", SOURCE, run),)
