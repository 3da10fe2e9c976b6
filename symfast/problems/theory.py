# SPDX-License-Identifier: Apache-2.0
"""What theory says about a sweep, as curves and marks for its figures."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symfast.problems.factorized import Factorized
from symfast.problems.order_parameters import SUPPORT
from symfast.problems.problem import Problem

#: A Gram matrix this close to diagonal, relative to its diagonal, is a soft-threshold problem.
DIAGONAL = 1e-9
#: Axes of `Factorized` that make a run random unless they are 0.
RANDOM = ("batch_size", "label_noise", "gradient_noise")


@dataclass(frozen=True)
class Prediction:
    """A curve y(x) of one column, or a mark at x where y is empty."""

    metric: str  # column of the table; empty for a mark on every figure
    x_name: str
    x: list[float]
    y: list[float]
    label: str


def predictions(problem: Problem, axes: dict[str, tuple[Any, ...]]) -> list[Prediction]:
    """Return what is known in closed form about a sweep over ``weight_decay``.

    For `Factorized`: the largest useful Lasso penalty ``max|X^T y|/n`` (a mark), and, where the
    Gram matrix is diagonal, the sparsity that the ``L_{2/D}`` law predicts for every depth: soft
    threshold ``|z| <= lam`` for D = 2, the local minimum's disappearance ``|z| <= z_min`` for D > 2
    (Kolb et al. 2025), z the least-squares weights. These are laws of gradient descent: nothing for
    a sweep with minibatches or noise, which act as a further penalty, nor for AdamW, whose decay
    is none, nor for D > 2 under Adam, which leaves other minima, nor for other problems.

    Args:
        problem: what was trained.
        axes: values by name.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.problems.theory import predictions
        >>> problem = Factorized(torch.eye(2) * 2**0.5, torch.tensor([1.0, 0.1]))
        >>> found = predictions(problem, {"weight_decay": (0.01, 0.1, 1.0), "depth": (2,)})
        >>> found[1].y
        [0.0, 0.5, 1.0]
    """
    lam = sorted(float(x) for x in axes.get("weight_decay", ()))
    random = any(x != 0 for name in RANDOM for x in axes.get(name, ()))
    if not isinstance(problem, Factorized) or len(lam) < 2 or random:
        return []
    if problem.optimizer == "adamw":
        return []
    top = problem.threshold()
    found = []
    if 2 in axes.get("depth", ()):  # the threshold of depth 2 is no other depth's
        found.append(Prediction("", "weight_decay", [top], [], f"exact threshold λ* = {top:.3g}"))
    size = problem.gram.diagonal()
    gated = len(problem.at.group) > 0  # the law is that of single coordinates
    if gated or (problem.gram - size.diag()).abs().max() > DIAGONAL * size.max():
        return found
    z, h = problem.linear[problem.factored], size[problem.factored]
    for depth in axes.get("depth", ()):
        if depth < 2 or (depth > 2 and problem.optimizer != "sgd"):
            continue
        share = [_zero_share(z, h, x, int(depth)) for x in lam]
        label = f"L_{{2/{depth}}} law" if depth > 2 else "soft threshold"
        found.append(Prediction("sparsity", "weight_decay", lam, share, label))
    return found


def smallest_kept(lam: Tensor, depth: int) -> Tensor:
    """Return z_min: below it ``(w - z)^2/2 + lam |w|^q``, q = 2/D, has no minimum but w = 0.

    ``z_min = w0 + lam q w0^{q-1}`` with ``w0 = (lam q (1-q))^{1/(2-q)}``; lam itself for D = 2.

    Args:
        lam: penalty weights, any shape.
        depth: number of factors D, at least 2.

    Example:
        >>> import torch
        >>> from symfast.problems.theory import smallest_kept
        >>> round(float(smallest_kept(torch.tensor(0.2), 3)), 3)
        0.387
    """
    if depth == 2:
        return lam
    q = 2 / depth
    w0 = (lam * q * (1 - q)) ** (1 / (2 - q))
    return w0 + lam * q * w0 ** (q - 1)


def _zero_share(z: Tensor, h: Tensor, lam: float, depth: int) -> float:
    """Share of coordinates of ``h (w - z/h)^2/2 + lam |w|^{2/D}`` that end at zero."""
    least = smallest_kept(torch.as_tensor(lam, dtype=z.dtype) / h, depth)
    return float(((z / h).abs() <= least + (SUPPORT if depth == 2 else 0)).double().mean())
