# SPDX-License-Identifier: Apache-2.0
"""The parts of a plan that run after the kernel calls of a step: all of them on CUDA."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from symfast.codes import SHRINK
from symfast.optim.constraint import Amount, Constraint
from symfast.tables import Part


def apply_after(
    constraint: Constraint,
    parts: list[Part] | None,
    verb: int,
    amount: Amount,
    inf: Tensor | None,
) -> None:
    """Run the verb on these parts, or by the norms of all (``None``), unless the step was skipped.

    ``inf`` is GradScaler's, 1 where it found an infinity; on a device it is read there.
    """
    if inf is not None and inf.device.type == "cpu" and bool(inf):
        return
    if parts is None:
        constraint.prox_by_norm(amount, inf)
        return
    for part in sorted(parts, key=lambda p: p.stage):
        chosen, by = verb, amount
        if inf is not None and inf.device.type != "cpu":
            chosen, by = _unless(inf, verb, amount, constraint.plan.groups)
        constraint.apply(part, chosen, by)
        increment_version(part.tensors)


def _unless(inf: Tensor, verb: int, amount: Amount, groups: int) -> tuple[int, Amount]:
    """The verb, or nothing where ``inf`` is 1, decided on the device; project is shrink by 1."""
    one = torch.ones(groups, dtype=torch.float64, device=inf.device)
    given = amount.on(inf.device, torch.float64)
    by = one if given is None else given
    if amount.tensor is None and verb >= SHRINK:
        by = one * amount.number
    return max(verb, SHRINK), Amount(tensor=by * (1 - inf.reshape(())), per=1)
