# SPDX-License-Identifier: Apache-2.0
"""The opponent: the same sweep as a careful torch training loop, for speed comparisons."""

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from symfast.problems import Factorized


def eager_sweep(
    problem: Factorized,
    depths: Sequence[int],
    seeds: Sequence[int],
    lam: Sequence[float],
    *,
    lr: float,
    momentum: float,
    steps: int,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, float]:
    """Train by autograd and torch.optim.SGD; return weights (B, d) and median seconds of a step.

    The loop a careful torch user would write: every replica of every depth in one parameter
    (B, D, d), so that a step is some twenty torch calls whatever B; the loss uses the Gram matrix
    instead of the data; the optimizer is the foreach one. Only the penalty is part of the loss,
    because torch's weight decay is one number for a whole parameter. (One tensor per depth and
    factor takes about twice as long.)

    Raises:
        ValueError: if the sequences differ in length.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep.eager import eager_sweep
        >>> problem = Factorized(torch.eye(2), torch.ones(2))
        >>> eager_sweep(problem, [2], [0], [0.1], lr=0.1, momentum=0.9, steps=3)[0].shape
        torch.Size([1, 2])
    """
    if not len(depths) == len(seeds) == len(lam):
        raise ValueError("depths, seeds and lam must have one entry for each replica")
    gram, linear = problem.gram.to(dtype), problem.linear.to(dtype)
    factors = problem.draw(depths, seeds).to(dtype).requires_grad_()
    depth = torch.tensor(depths)[:, None, None]
    used = torch.arange(factors.shape[1])[:, None] < torch.where(problem.factored, depth, 1)
    decay = used * problem.factored * torch.tensor(lam, dtype=dtype)[:, None, None] / depth
    optimizer = torch.optim.SGD([factors], lr=lr, momentum=momentum, foreach=True)
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        w = _product(torch.where(used, factors, 1))
        loss = (w * (0.5 * (w @ gram) - linear)).sum() + (decay * factors.square()).sum()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    with torch.no_grad():
        return _product(torch.where(used, factors, 1)), median(seconds)


def _product(factors: Tensor) -> Tensor:
    """Product (B, d) of factors (B, D, d); a chain of multiplications beats ``prod`` here."""
    first, *rest = factors.unbind(1)
    for f in rest:
        first = first * f
    return first
