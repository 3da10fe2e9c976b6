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
    found = factor_sweep(gram, linear, start, steps=100_000, lr=0.05, momentum=0.9, lam=lam)
    _, coefs, _ = lasso_path(
        X.numpy(), y.numpy(), alphas=lam.numpy(), tol=1e-14, max_iter=1_000_000
    )
    lasso = torch.tensor(coefs.T.copy())
    offset = float((y @ y) / (2 * n))
    gap = objective(gram, linear, offset, found.weight, lam) - objective(
        gram, linear, offset, lasso, lam
    )
    same = ((found.weight.abs() > SUPPORT) == (lasso.abs() > SUPPORT)).sum()
    checks = (
        at_most("objective above scikit-learn's", SOURCE, float(gap.abs().max()), 1e-7),
        at_most("coefficients", SOURCE, float((found.weight - lasso).abs().max()), 1e-3),
        at_least("entries with the same support", SOURCE, float(same), 24 * d, f"{24 * d}"),
    )
    series: list[Series] = []
    for i, name in enumerate(names):
        path, exact = found.weight[:, i].tolist(), lasso[:, i].tolist()
        series.append(Series("", lam.tolist(), path, "points", i))
        series.append(Series(name, lam.tolist(), exact, "line", i))
    caption = "Points: product factors after 100,000 steps. Lines: scikit-learn's Lasso."
    curves = Curves("lam", "coefficient", tuple(series), caption, xscale="log")
    return CaseResult(checks, curves)


CASES = (Case(2, "Lasso path by product factors", SOURCE, run),)
