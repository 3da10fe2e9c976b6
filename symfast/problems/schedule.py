# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules, one per replica."""

import torch
from torch import Tensor

from symfast.problems.problem import Stretch

SCHEDULES = ("constant", "cosine", "step")


def schedule(stretch: Stretch) -> Tensor:
    """Return the factor (steps, kinds) of the learning rate in every step, kinds as in SCHEDULES.

    constant: 1. cosine: ``(1 + cos(pi t / T)) / 2`` at step t of T. step: 1, then 1/10 from half
    of the run on, 1/100 from three quarters on.

    Args:
        stretch: which steps, of how many.

    Example:
        >>> import torch
        >>> from symfast.problems.problem import Stretch
        >>> from symfast.problems.schedule import schedule
        >>> stretch = Stretch(first=2, steps=2, total=4, progress=torch.zeros(2))
        >>> schedule(stretch)[:, [0, 2]].tolist()
        [[1.0, 0.1], [1.0, 0.01]]
    """
    t = torch.arange(stretch.first, stretch.first + stretch.steps, dtype=torch.float64)
    t = t / stretch.total
    cosine = (1 + (torch.pi * t).cos()) / 2
    stairs = torch.tensor([1, 0.1, 0.01], dtype=torch.float64)[
        (t >= 0.5).long() + (t >= 0.75).long()
    ]
    return torch.stack([torch.ones_like(t), cosine, stairs], 1)
