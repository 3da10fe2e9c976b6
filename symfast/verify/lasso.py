# SPDX-License-Identifier: Apache-2.0
"""Truth case 2: products of two factors under weight decay follow the Lasso path."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from symfast.factor_sweep import factor_sweep
from symfast.factorize import factorize
from symfast.sweep.data import load
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most
from symfast.verify.quadratic import Weight

SOURCE = "Ziyin & Wang, ICML 2023 (spred)"
#: Decades from the largest penalty that leaves anything down to the least; the path begins 12%
#: above it, where all is zero.
DECADES, PENALTIES, STEPS = 2.5, 24, 20_000
#: An entry above this is in the support.
SUPPORT = 1e-4


@dataclass(frozen=True)
class Problem:
    """Least squares as its Gram matrix (d, d), its linear term (d,) and ||y||^2 / 2n."""

    gram: Tensor
    linear: Tensor
    offset: float
    lam: Tensor
    lasso: Tensor  # scikit-learn's coefficients (penalties, d)

    def objective(self, w: Tensor) -> Tensor:
        """``1/(2n) ||X w - y||^2 + lam ||w||_1`` of every row of w."""
        fit = 0.5 * ((w @ self.gram) * w).sum(1) - w @ self.linear + self.offset
        return fit + self.lam * w.abs().sum(1)


def problem() -> tuple[Problem, list[str]]:
    """The standardised diabetes data, its penalties and scikit-learn's path; names of columns."""
    from sklearn.linear_model import lasso_path

    X, y, names = load("diabetes")
    n = len(y)
    gram, linear = X.T @ X / n, X.T @ y / n
    top = float(linear.abs().max())
    lam = torch.tensor(np.geomspace(1.12 * top, top * 10**-DECADES, PENALTIES))
    _, coefs, _ = lasso_path(
        X.numpy(), y.numpy(), alphas=lam.numpy(), tol=1e-14, max_iter=1_000_000
    )
    offset = float((y @ y) / (2 * n))
    return Problem(gram, linear, offset, lam, torch.tensor(coefs.T.copy())), names


def starts(d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors (penalties, 2, d) to begin with: u = 1 and w = 0; from N(0, 1); from U(-.1, .1)."""
    one = torch.zeros(PENALTIES, 2, d, dtype=torch.float64)
    one[:, 0] = 1.0
    g = torch.Generator().manual_seed(0)
    drawn = torch.randn(one.shape, dtype=one.dtype, generator=g)
    return one, drawn, 0.1 * (2 * torch.rand(one.shape, dtype=one.dtype, generator=g) - 1)


def trained(to: Problem, start: Tensor, momentum: float = 0.9, steps: int = STEPS) -> Tensor:
    """Weights (penalties, d), in float64, after steps in the dtype of the start."""
    found = factor_sweep(
        to.gram.to(start), to.linear.to(start), start,
        steps=steps, lr=0.05, momentum=momentum, lam=to.lam.to(start),
    )  # fmt: skip
    return found.weight.double()


def compared(name: str, found: Tensor, to: Problem) -> tuple[Check, Check]:
    """The two tolerances of a start: objective and coefficients."""
    gap = float((to.objective(found) - to.objective(to.lasso)).abs().max())
    far = float((found - to.lasso).abs().max())
    return (at_most(f"{name}: objective above scikit-learn's", SOURCE, gap, 1e-7),
            at_most(f"{name}: coefficients", SOURCE, far, 1e-3))  # fmt: skip


def optimizers() -> list[Check]:
    """Decay inside the gradient is the penalty; AdamW's, beside it, is none.

    ``1/2 ||w - z||^2`` with w = u v and decay lam of both factors: w is the soft threshold of z.
    """
    z = torch.tensor([2.0, 1.0, 0.5, 0.3, -0.2, -0.7], dtype=torch.float64)
    lam = 0.4
    soft = z.sign() * (z.abs() - lam).clamp_min(0)
    far = {}
    for name, kind, lr in (("SGD", SGD, 0.1), ("Adam", Adam, 0.01), ("AdamW", AdamW, 0.01)):
        model = factorize(Weight(torch.zeros_like(z)), "weight", beta=1.0)
        optimizer = kind(model.parameters(), lr=lr, weight_decay=lam)
        for _ in range(3_000):
            optimizer.zero_grad()
            (0.5 * (model.weight - z).square().sum()).backward()  # type: ignore[operator]
            optimizer.step()
        weight = model.weight
        assert isinstance(weight, Tensor)
        far[name] = float((weight.detach() - soft).abs().max())
    return [
        at_most("torch.optim.SGD: distance from the soft threshold", SOURCE, far["SGD"], 1e-10),
        at_most("torch.optim.Adam, coupled decay: the same", SOURCE, far["Adam"], 1e-10),
        at_least("AdamW: its decay is no penalty, and misses lam = 0.4 by", "derived",
                 far["AdamW"], 0.3, "> 0"),
    ]  # fmt: skip


def run(quick: bool) -> CaseResult:
    """24 penalties in one kernel call against scikit-learn; its size needs no quick version."""
    to, names = problem()
    support = to.lasso.abs() > SUPPORT
    one, drawn, small = starts(len(names))
    checks: list[Check] = []
    found = trained(to, one)
    for name, w in (("float64", found), ("float32", trained(to, one.float()))):
        same = int(((w.abs() > SUPPORT) == support).sum())
        checks += [
            *compared(name, w, to),
            at_least(f"{name}: entries with the same support", SOURCE, same, support.numel(),
                     str(support.numel())),
        ]  # fmt: skip
    checks += compared("factors drawn at random", trained(to, drawn), to)
    longer = trained(to, small, steps=3 * STEPS)
    checks += compared("factors from U(-.1, .1), three times the steps", longer, to)
    for name, w in (("without momentum", trained(to, one, momentum=0.0)),
                    ("from U(-.1, .1)", trained(to, small))):  # fmt: skip
        far = float((w - to.lasso).abs().max())
        checks += [at_least(f"{name} the steps are not enough: coefficients off by", "derived",
                            far, 1e-3, "> 1e-3")]  # fmt: skip
    checks += optimizers()
    series: list[Series] = []
    for i, name in enumerate(names):
        path, exact = found[:, i].tolist(), to.lasso[:, i].tolist()
        series.append(Series("", to.lam.tolist(), path, "points", i))
        series.append(Series(name, to.lam.tolist(), exact, "line", i))
    caption = "Points: product factors after 20,000 steps. Lines: scikit-learn's Lasso."
    return CaseResult(tuple(checks), Curves("lam", "coefficient", tuple(series), caption, "log"))


CASES = (Case(2, "Lasso path by product factors", SOURCE, run),)
