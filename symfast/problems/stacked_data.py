# SPDX-License-Identifier: Apache-2.0
"""Minibatches of stacked replicas, drawn many steps at a time."""

import torch
from torch import Tensor

from symfast.problems.draws import minibatches

#: Numbers of the replicas that a CPU trains at once: parameters and activations, 20 MB of floats.
BLOCK_NUMBERS = 5_000_000

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
        index = self.drawn[:, step - self.first]
        if len(self.seeds) == len(self.at):  # nothing is shared
            return self.X[index[self.at]], self.Y[index[self.at]]
        # Rows are gathered once for a seed, and whole minibatches copied: a quarter of the time.
        return self.X[index][self.at], self.Y[index][self.at]


def block_size(count: int, numbers: int) -> int:
    """Replicas to train at once: equal blocks, since every size is compiled anew.

    Args:
        count: how many replicas there are, at least 1.
        numbers: that one of them puts into memory.

    Example:
        >>> from symfast.problems.stacked_data import block_size
        >>> block_size(4096, 4355), block_size(1000, 4355), block_size(1009, 10_000)
        (1024, 1000, 337)
    """
    least = -(-count * numbers // BLOCK_NUMBERS)
    for blocks in range(least, min(2 * least, count + 1)):
        if count % blocks == 0:
            return count // blocks
    return -(-count // min(least, count))


def moved(x: Tensor, like: Tensor) -> Tensor:
    """Return data on the device, and floats in the dtype, of ``like``.

    Example:
        >>> import torch
        >>> from symfast.problems.stacked_data import moved
        >>> moved(torch.ones(2), torch.zeros(1, dtype=torch.float64)).dtype
        torch.float64
    """
    return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype)
