# SPDX-License-Identifier: Apache-2.0
"""Minibatches of stacked replicas, one copy for all replicas that share one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symfast.problems.draws import minibatches

#: Steps whose minibatches are drawn at once.
WINDOW = 100


@dataclass(frozen=True, eq=False)
class Sharing:
    """Which replicas see the same minibatch: ``groups`` of equal size, in the order of ``order``.

    Example:
        >>> import torch
        >>> from symfast.problems.stacked_data import Sharing
        >>> Sharing.of(torch.tensor([0, 1, 0, 1]), batch=8).order.tolist()
        [0, 2, 1, 3]
        >>> Sharing.of(torch.tensor([0, 1, 0]), batch=8).groups
        3
    """

    order: Tensor | None  # (R,), rows one group after the other; None: as they stand
    seeds: Tensor  # (groups,)

    @property
    def groups(self) -> int:
        """Number of minibatches of a step."""
        return len(self.seeds)

    @classmethod
    def of(cls, seeds: Tensor, batch: int) -> "Sharing":
        """Return the sharing of replicas with these seeds; a batch of 0 is all samples in order."""
        if batch == 0:
            return cls(None, seeds[:1])
        found, counts = seeds.unique(return_counts=True)
        if len(found) < len(seeds) and bool((counts == counts[0]).all()):
            return cls(seeds.argsort(stable=True), found)
        return cls(None, seeds)


class Minibatches:
    """Minibatches (groups, B, ...) of inputs and targets, step by step.

    Args:
        X: (n, ...) inputs.
        Y: (n, ...) targets.
        sharing: which replicas share them.
        batch: samples of a minibatch, 0 for all.
        last: number of the step after the last.
    """

    def __init__(self, X: Tensor, Y: Tensor, sharing: Sharing, batch: int, last: int) -> None:
        self.X, self.Y, self.batch, self.last = X, Y, batch, last
        self.seeds, self.at = sharing.seeds.unique(return_inverse=True)
        self.first, self.drawn = -1, torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The minibatches of a step; steps are asked for in order."""
        if not self.batch:
            return self.X[None], self.Y[None]
        if self.first < 0 or step >= self.first + WINDOW:
            count = min(WINDOW, self.last - step)
            self.first = step
            self.drawn = minibatches(self.seeds, step, count, self.batch, len(self.X))
        index = self.drawn[:, step - self.first][self.at]
        return self.X[index], self.Y[index]
