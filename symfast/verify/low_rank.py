# SPDX-License-Identifier: Apache-2.0
"""Truth case 8: weight decay on U V^T soft-thresholds singular values."""

import torch
from torch import Tensor

from symfast.artificial import attached
from symfast.factorize import factor_groups
from symfast.fold import fold
from symfast.low_rank import low_rank
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most, near
from symfast.verify.quadratic import Weight

SOURCE = "Ziyin, ICML 2024 (double rotation); closed form derived"


def trained(Y: Tensor, lam: float, steps: int) -> tuple[Tensor, float, int]:
    """Singular values of W, ``|U^T U - V^T V|`` and the rank after folding."""
    g = torch.Generator().manual_seed(8)
    start = torch.randn(Y.shape, dtype=Y.dtype, generator=g)
    model = low_rank(Weight(start), "weight")
    optimizer = torch.optim.SGD(factor_groups(model, lam), lr=0.02, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (Y - model.weight).square().sum()).backward()  # type: ignore[operator]
        optimizer.step()
    U, V = next(attached(model)).factors
    with torch.no_grad():
        balance = float((U.T @ U - V.T @ V).abs().max())
        values = torch.linalg.svdvals(U @ V.T)
    folded = fold(model, 1e-6).weight
    assert isinstance(folded, Tensor)
    return values, balance, int((torch.linalg.svdvals(folded.detach()) > 1e-9).sum())


def run(quick: bool) -> CaseResult:
    """A 20 x 15 matrix at three penalties."""
    g = torch.Generator().manual_seed(88)
    Y = torch.randn(20, 15, dtype=torch.float64, generator=g)
    s = torch.linalg.svdvals(Y)
    checks: list[Check] = []
    series = []
    for lam in (0.5, 2.0, 5.0):
        values, balance, rank = trained(Y, lam, 2_500 if quick else 6_000)
        wanted = (s - lam).clamp_min(0)
        clear = (s - lam).abs() > 0.02 * lam
        error = float((values - wanted)[clear].abs().max())
        checks += [
            at_most(f"lam={lam}: singular values are max(s - lam, 0)", SOURCE, error, 1e-8),
            at_most(f"lam={lam}: U^T U = V^T V", SOURCE, balance, 1e-8),
            near(f"lam={lam}: rank after folding", SOURCE, float((s > lam).sum()), rank, 0),
        ]
        series.append(Series(f"lam = {lam}", s.tolist(), values.tolist(), "points"))
    curves = Curves("singular value of Y", "singular value of W", tuple(series))
    return CaseResult(tuple(checks), curves)


CASES = (Case(8, "singular-value soft threshold", SOURCE, run),)
