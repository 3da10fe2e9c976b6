# SPDX-License-Identifier: Apache-2.0
"""Truth case 2: products of two factors under weight decay follow the Lasso path."""

import numpy as np
import torch
from torch import Tensor

from symfast.factor_sweep import factor_sweep
from symfast.sweep.data import load
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least, at_most

SOURCE = "Ziyin & Wang, ICML 2023 (spred)"
#: An entry above this is in the support.
SUPPORT = 1e-4
#: Distance of a correlation from its penalty below which a zero entry needs more than 20,000 steps.
SLACK = 2e-4


def objective(gram: Tensor, linear: Tensor, offset: float, w: Tensor, lam: Tensor) -> Tensor:
    """``1/(2n) ||X w - y||^2 + lam ||w||_1`` of every row of w."""
    return 0.5 * ((w @ gram) * w).sum(1) - w @ linear + offset + lam * w.abs().sum(1)


def run(quick: bool) -> CaseResult:
    """24 penalties in one kernel call against scikit-learn; its size needs no quick version."""
    from sklearn.linear_model import lasso_path

    X, y, names = load("diabetes")
    n, d = X.shape
    gram, linear = X.T @ X / n, X.T @ y / n
    top = float(linear.abs().max())
    lam = torch.tensor(1.12 * top * 10 ** np.linspace(0, -2.5, 24))
    start = torch.zeros(24, 2, d, dtype=torch.float64)
    start[:, 0] = 1.0  # u = 1, w = 0

    def trained(steps: int) -> Tensor:
        found = factor_sweep(gram, linear, start, steps=steps, lr=0.05, momentum=0.9, lam=lam)
        return found.weight

    _, coefs, _ = lasso_path(
        X.numpy(), y.numpy(), alphas=lam.numpy(), tol=1e-14, max_iter=1_000_000
    )
    lasso = torch.tensor(coefs.T.copy())
    offset = float((y @ y) / (2 * n))
    w, late = trained(20_000), trained(100_000)
    least = objective(gram, linear, offset, lasso, lam)
    # a zero that holds by less than this fades no faster than exp(-2 eta steps slack / (1 - beta))
    slack = lam[:, None] - (linear - lasso @ gram).abs()
    slow = (lasso == 0) & (slack < SLACK)
    checks = []
    for steps, weight in ((20_000, w), (100_000, late)):
        gap = float((objective(gram, linear, offset, weight, lam) - least).abs().max())
        far = float((weight - lasso).abs().max())
        checks += [
            at_most(f"{steps:,} steps: objective above scikit-learn's", SOURCE, gap, 1e-7),
            at_most(f"{steps:,} steps: coefficients", SOURCE, far, 1e-3),
        ]
    same, same_late = ((x.abs() > SUPPORT) == (lasso.abs() > SUPPORT) for x in (w, late))
    checks += [
        at_least(f"20,000 steps: entries with the same support, or zero by less than {SLACK:g} "
                 f"({int(slow.sum())} of them)", SOURCE, int((same | slow).sum()), 24 * d,
                 f"{24 * d}"),
        at_least("100,000 steps: entries with the same support", SOURCE, int(same_late.sum()),
                 24 * d, f"{24 * d}"),
    ]  # fmt: skip
    series: list[Series] = []
    for i, name in enumerate(names):
        path, exact = w[:, i].tolist(), lasso[:, i].tolist()
        series.append(Series("", lam.tolist(), path, "points", i))
        series.append(Series(name, lam.tolist(), exact, "line", i))
    caption = "Points: product factors after 20,000 steps. Lines: scikit-learn's Lasso."
    curves = Curves("lam", "coefficient", tuple(series), caption, xscale="log")
    return CaseResult(tuple(checks), curves)


CASES = (Case(2, "Lasso path by product factors", SOURCE, run),)
