# SPDX-License-Identifier: Apache-2.0
"""What several cases share: a bare weight to factorise, and a proximal reference."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Weight(nn.Module):
    """A module that is nothing but one parameter, a copy of ``start``."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())


def proximal_descent(
    gram: Tensor,
    linear: Tensor,
    prox: Callable[[Tensor, float], Tensor],
    runs: int,
    steps: int,
) -> Tensor:
    """Accelerated proximal gradient steps on ``1/2 w gram w - w linear`` plus a penalty.

    Args:
        gram: (d, d), positive definite.
        linear: (d,).
        prox: proximal map of the penalty for one step size, (runs, d) to (runs, d).
        runs: independent runs, one per penalty weight.
        steps: steps from zero.

    Returns:
        (runs, d), the minimisers (Beck and Teboulle 2009).
    """
    eta = 1.0 / float(torch.linalg.eigvalsh(gram)[-1])
    w = gram.new_zeros(runs, len(gram))
    old, t = w, 1.0
    for _ in range(steps):
        grown = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = w + (t - 1) / grown * (w - old)
        old, t = w, grown
        w = prox(ahead - eta * (ahead @ gram - linear), eta)
    return w
