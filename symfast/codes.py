# SPDX-License-Identifier: Apache-2.0
"""The numbers Python and the kernels agree on: those of csrc/plan.h, and the types of sums."""

from enum import IntEnum

import torch

REFLECT, PROJECT, SHRINK, PROX = range(4)
#: What the number of an amount is: one for all, one per group, one per mirror.
UNIFORM, PER_GROUP, PER_MIRROR = range(3)

#: Dtypes symfast computes in, and the dtype their sums are kept in.
ACCUMULATE = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


class Kind(IntEnum):
    """How the frame of a task is stored; csrc/plan.h has the layouts."""

    ROWS = 0
    PAIRS = 1
    CLUSTERS = 2
    DENSE = 3
    ROWS_SCATTERED = 4
    PAIRS_SCATTERED = 5
