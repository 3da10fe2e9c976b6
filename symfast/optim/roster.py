# SPDX-License-Identifier: Apache-2.0
"""Who steps together: parameters of one device and dtype as the lists of one kernel call."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symfast.optim.check import check_grad
from symfast.optim.constraint import Fused
from symfast.reference.update import KEYS

State = dict[str, Any]


@dataclass(eq=False)
class Bundle:
    """Parameters of one device and dtype; with ``fused``, those of its plan come first.

    ``states`` are the optimizer's own dicts. ``rows`` is every parameter's row of settings.
    """

    params: list[Tensor] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    fused: Fused | None = None
    made_of: tuple[Any, ...] = ()
    settings: Tensor = field(default_factory=lambda: torch.zeros(0))
    keys: Tensor = field(default_factory=lambda: torch.zeros(0))

    def grads(self) -> list[Tensor | None]:
        """The gradients as they are now."""
        return [p.grad for p in self.params]

    def select(self, kept: list[int]) -> "Bundle":
        """Only some of the parameters, without the plan."""
        return Bundle(
            [self.params[i] for i in kept],
            [self.groups[i] for i in kept],
            [self.numbers[i] for i in kept],
            [self.states[i] for i in kept],
        )

    def tables(
        self, rows: list[tuple[float, ...]], row_of: list[int], seeds: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Settings and keys on the device, made again only when a number has changed."""
        made_of = (rows, row_of, seeds)
        if made_of != self.made_of:
            keys = [
                (row, *seeds[group], number)
                for row, group, number in zip(row_of, self.groups, self.numbers, strict=True)
            ]
            device = self.params[0].device
            self.settings = torch.tensor(rows, dtype=torch.float64).to(device)
            self.keys = torch.tensor(keys, dtype=torch.int64).reshape(-1, KEYS).to(device)
            self.made_of = made_of
        return self.settings, self.keys


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a DTensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def matching(grad: Tensor, param: Tensor, name: str) -> Tensor:
    """The gradient in the parameter's dtype and layout; a copy if it is not."""
    check_grad(grad, name)
    if grad.stride() == param.stride() and grad.dtype == param.dtype:
        return grad
    copy = torch.empty_like(param, memory_format=torch.preserve_format)
    return copy.copy_(grad)


def is_flat(tensor: Tensor) -> bool:
    """Whether the elements fill their memory, in whatever order of dims."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != reach:
            return tensor.numel() == 0
        reach *= size
    return True
