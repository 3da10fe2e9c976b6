# SPDX-License-Identifier: Apache-2.0
"""Who steps together: parameters of one device and dtype as the lists of one kernel call."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symfast.optim.check import check_drawn, check_grad
from symfast.optim.constraint import Constraint, Fused, local, memory_of
from symfast.tables import Part

State = dict[str, Any]
Group = dict[str, Any]


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
    selected: "tuple[list[int], Bundle] | None" = None
    settings: Tensor = field(default_factory=lambda: torch.zeros(0))
    keys: Tensor = field(default_factory=lambda: torch.zeros(0))

    def grads(self) -> list[Tensor | None]:
        """The gradients as they are now."""
        return [p.grad for p in self.params]

    def select(self, kept: list[int]) -> "Bundle":
        """Only some of the parameters, without the plan; the same ones are kept for next time."""
        if self.selected is None or self.selected[0] != kept:
            some = Bundle(
                [self.params[i] for i in kept],
                [self.groups[i] for i in kept],
                [self.numbers[i] for i in kept],
                [self.states[i] for i in kept],
            )
            self.selected = kept, some
        return self.selected[1]

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
            self.settings = rewritten(self.settings, rows, torch.float64, device)
            self.keys = rewritten(self.keys, keys, torch.int64, device)
            self.made_of = made_of
        return self.settings, self.keys


@dataclass(eq=False)
class Roster:
    """Who steps together, what of the plan runs after the step, and whose group a tensor is in."""

    bundles: list[Bundle]
    late: list[Part]
    owners: dict[int, Group]


def make_roster(
    groups: list[Group],
    states: defaultdict[Tensor, State],
    wants: Callable[[Group], tuple[bool, bool]],
    constraint: Constraint | None,
) -> Roster:
    """Sort the parameters of all groups by what one kernel call may hold.

    Args:
        groups: the optimizer's parameter groups.
        states: the optimizer's state.
        wants: which states a group's parameters have.
        constraint: what may run inside the calls.
    """
    members = [(param, g) for g, group in enumerate(groups) for param in group["params"]]
    for param, g in members:
        check_drawn(param, groups[g])
    keys = {id(param): _key(param, wants(groups[g])) for param, g in members}
    fused, late = _place_parts(constraint, keys)
    order = {id(t): i for f in fused.values() for i, t in enumerate(f.part.tensors)}
    numbers = sorted(range(len(members)), key=lambda n: order.get(id(members[n][0]), len(order)))
    bundles: dict[Any, Bundle] = {}
    for number in numbers:
        param, g = members[number]
        key = keys[id(param)]
        bundle = bundles.setdefault(key, Bundle(fused=fused.get(key)))
        bundle.params.append(param)
        bundle.groups.append(g)
        bundle.numbers.append(number)
        bundle.states.append(states[param])
    # detached views know no parameter, but its memory; addresses of what lives never meet
    owners = {memory_of(param): groups[g] for param, g in members} if constraint else {}
    owners |= {id(local(param)): groups[g] for param, g in members}
    owners |= {id(param): groups[g] for param, g in members}
    return Roster(list(bundles.values()), late, owners)


def _key(param: Tensor, wanted: tuple[bool, bool]) -> Any:
    flat = is_flat(local(param))
    kind = (*wanted, hasattr(param, "to_local"))
    return (param.device, param.dtype, *kind, None if flat else id(param))


def _place_parts(
    constraint: Constraint | None, keys: dict[int, Any]
) -> tuple[dict[Any, Fused], list[Part]]:
    """The part that runs inside each kernel call, and those that run after them."""
    found: dict[Any, Fused] = {}
    late: list[Part] = []
    for part in constraint.parts if constraint else ():
        wanted = {keys.get(id(t)) for t in part.tensors}
        key = next(iter(wanted)) if len(wanted) == 1 else None
        inside = key is not None and part.stage == 0 and part.device.type == "cpu"
        # one with gaps steps as a copy, whose layout the part's tables do not know
        inside = inside and all(is_flat(t) for t in part.tensors)
        if inside and key not in found and part.tensors:
            found[key] = Fused(part)
        else:
            late.append(part)
    return found, late


def matching(grad: Tensor, param: Tensor, name: str) -> Tensor:
    """The gradient in the parameter's dtype and layout; a copy if it is not."""
    check_grad(grad, name)
    if grad.stride() == param.stride() and grad.dtype == param.dtype:
        return grad
    copy = torch.empty_like(param, memory_format=torch.preserve_format)
    return copy.copy_(grad)


def rewritten(
    old: Tensor, rows: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The rows as a tensor, in the old one's memory if it has room: captured graphs read it there.

    Example:
        >>> import torch
        >>> from symfast.optim.roster import rewritten
        >>> old = torch.zeros(1, 2)
        >>> rewritten(old, [(1.0, 2.0)], torch.float32, old.device) is old
        True
    """
    new = torch.tensor(rows, dtype=dtype).to(device)
    fits = (old.shape, old.dtype, old.device) == (new.shape, dtype, new.device)
    return old.copy_(new) if fits else new


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
