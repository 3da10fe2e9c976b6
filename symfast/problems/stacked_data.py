# SPDX-License-Identifier: Apache-2.0
"""Minibatches of stacked replicas, drawn many steps at a time."""

import torch
from torch import Tensor

from symfast.problems.draws import minibatches

#: Steps whose minibatches are drawn at once.
WINDOW = 100


class Minibatches:
    """Minibatches (R, B, ...) of inputs and targets, step by step.

    Args:
        X: (n, ...) inputs.
        Y: (n, ...) targets.
        seeds: (R,) int64.
        batch: samples of a minibatch, 0 for all.
        last: number of the step after the last.

    Example:
        >>> import torch
        >>> from symfast.problems.stacked_data import Minibatches
        >>> X, seeds = torch.arange(5.0)[:, None], torch.tensor([3, 4, 3])
        >>> x, y = Minibatches(X, X, seeds, batch=2, last=10)(7)
        >>> x.shape, bool((x[0] == x[2]).all())
        (torch.Size([3, 2, 1]), True)
    """

    def __init__(self, X: Tensor, Y: Tensor, seeds: Tensor, batch: int, last: int) -> None:
        self.X, self.Y, self.batch, self.last = X, Y, batch, last
        self.seeds, self.at = seeds.unique(return_inverse=True)
        self.first, self.drawn = -1, torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The minibatches of a step; steps are asked for in order."""
        if not self.batch:
            count = len(self.at)
            return self.X.expand(count, *self.X.shape), self.Y.expand(count, *self.Y.shape)
        if self.first < 0 or step >= self.first + WINDOW:
            count = min(WINDOW, self.last - step)
            self.first = step
            self.drawn = minibatches(self.seeds, step, count, self.batch, len(self.X))
        index = self.drawn[:, step - self.first][self.at]
        return self.X[index], self.Y[index]
