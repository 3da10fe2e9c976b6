# SPDX-License-Identifier: Apache-2.0
"""A plan as part of a step: which of its parts run inside the kernel, which after it."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from symfast import plan_ops
from symfast.chunks import Grain, cut
from symfast.codes import PER_GROUP, PROJECT, PROX, SHRINK, UNIFORM
from symfast.plan import Plan
from symfast.plan_state import Target, signature, with_tensors
from symfast.tables import Part
from symfast.units import Units

VERBS = {"project": PROJECT, "shrink": SHRINK, "prox": PROX}
#: Chunks of a step: parameter, gradient and two states of one stay in the second-level cache.
FUSED_GRAIN = Grain(8192, 16, 1024, long=1)


class Fused:
    """The tables of one part, cut into chunks for a step; ``key`` names them to the kernels."""

    def __init__(self, part: Part) -> None:
        self.part = part
        tables = part.tables
        if part.device.type == "cpu" and part.extent.numel():
            mirrors, members = part.extent.numpy().T
            chunks = cut(tables.tasks.numpy(), mirrors, members, tables.index.numpy(), FUSED_GRAIN)
            tables = replace(tables, chunks=torch.from_numpy(chunks))
        self.key = plan_ops.store(tables)
        weakref.finalize(self, plan_ops.drop, self.key).atexit = False


@dataclass(frozen=True)
class Amount:
    """What a verb is called with: one number, or a tensor by group."""

    number: float = 0.0
    tensor: Tensor | None = None
    per: int = UNIFORM
    #: Copies of a tensor on the CPU; one on a device may have changed at every call.
    copies: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def on(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The tensor there, in this type."""
        if self.tensor is None or self.tensor.device.type != "cpu":
            return None if self.tensor is None else self.tensor.to(device, dtype)
        if (device, dtype) not in self.copies:
            self.copies[device, dtype] = self.tensor.to(device, dtype)
        return self.copies[device, dtype]


class Constraint:
    """A plan on the parameters of an optimizer.

    Raises:
        ValueError: if the plan has replicas, or a symmetry acts across the shards of a DTensor.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.optim.constraint import Constraint
        >>> w = torch.ones(4, 2)
        >>> len(Constraint(sf.Plan([(w, sf.SignFlip([0]))])).parts)
        1
    """

    def __init__(self, plan: Plan) -> None:
        if plan.replicas is not None:
            raise ValueError("an optimizer's plan must not have replicas; apply it after the step")
        self.given = plan
        self.plan = on_local_tensors(plan)
        self.parts = self.plan._compiled.parts
        self._rates: list[float] = []
        self._amount = Amount()
        self._compared: dict[tuple[int, int, float, float], tuple[Any, Any]] = {}

    def apply(self, part: Part, verb: int, amount: Amount) -> None:
        """Run a part on its own."""
        torch.ops.symfast.plan_apply_.default(
            part.tensors, part.key, verb, amount.number,
            amount.on(part.device, part.accumulate), amount.per,
        )  # fmt: skip

    @cached_property
    def description(self) -> str:
        """The plan in one line of a checkpoint; frames are hashed, so it is made when needed."""
        return signature(self.given._compiled, self.given.state_dict())

    def check_parts(self) -> None:
        """Refuse parameters that changed since the plan was made.

        Raises:
            RuntimeError: in words.
        """
        for part in self.parts:
            torch.ops.symfast.plan_check.default(part.tensors, part.key)

    def check_held(self, params: Iterable[Tensor], enough: int | None = None) -> None:
        """Refuse tensors that are neither parameters nor in the memory of one.

        Args:
            params: those of the optimizer.
            enough: how many held ones will do for now; all by default.

        Raises:
            ValueError: in words.
        """
        mine = list(params)
        ids = {id(p) for p in mine}
        both = zip(self.given.entries, self.plan.entries, strict=True)
        # (entry, as given, as this process holds it)
        targets = [(n, *pair) for n, (given, own) in enumerate(both)
                   for pair in zip(_tensors(given[0]), _tensors(own[0]), strict=True)]  # fmt: skip
        strange = [(n, own) for n, given, own in targets if not {id(given), id(given._base)} & ids]
        if strange:  # detached views, and local tensors
            memory = {memory_of(p) for p in mine}
            strange = [(n, own) for n, own in strange if memory_of(own) not in memory]
        if strange and (enough is None or len(targets) - len(strange) < enough):
            number, tensor = strange[0]
            raise ValueError(
                f"entry {number} of the plan is on a tensor of shape {tuple(tensor.shape)} that "
                "no group of the optimizer has: it would train unconstrained. Make the plan on "
                "the parameters that the optimizer gets (after fully_shard, and after "
                "load_state_dict(assign=True)); frozen ones may be among them"
            )

    def check_norms(self) -> None:
        """Refuse norms of mirrors whose columns lie on several processes.

        Raises:
            ValueError: in words.
        """
        for target, _ in self.given.entries:
            for tensor in _tensors(target):
                if any(p.is_shard() for p in getattr(tensor, "placements", ())):
                    raise ValueError(
                        'mode="group" needs the norms of whole mirrors, and a parameter of the '
                        'plan is sharded over processes; use mode="l1"'
                    )

    def prox_by_norm(self, amount: Amount, inf: Tensor | None) -> None:
        """Shrink every mirror by its norm, or nothing where ``inf`` is 1."""
        given = amount.number if amount.tensor is None else amount.tensor
        if inf is not None:
            given = torch.as_tensor(given, device=inf.device) * (1 - inf.reshape(()))
        self.plan.prox_(given, mode="group")

    def amount(self, rate_of: Callable[[Tensor], tuple[Any, float]]) -> Amount:
        """The step's amount, lr times strength: one number if all parameters share it.

        Args:
            rate_of: lr and strength of a parameter. Of an lr on a device nothing is read, but
                where an entry has two of them, and that in the first step alone.

        Raises:
            ValueError: if the parameters of one entry have different ones.
        """
        rates: list[Any] = []
        products: dict[tuple[int, float], Tensor] = {}
        for number, (target, _) in enumerate(self.given.entries):
            tensors = [t for t, _ in target] if isinstance(target, Units) else [target]
            found = [rate_of(t) for t in tensors]
            if any(not self._same(rate, found[0]) for rate in found[1:]):
                raise ValueError(
                    f"the parameters of entry {number} of the plan are in groups with different "
                    "lr times strength; give them the same"
                )
            if not found:
                continue
            lr, strength = found[0]
            if isinstance(lr, Tensor):
                made = products.setdefault((id(lr), strength), lr.reshape(()) * strength)
            else:
                made = lr * strength
            rates += [made] * self.plan._compiled.entries[number].batch
        if products:
            device = next(iter(products.values())).device
            numbers = [r if isinstance(r, Tensor) else torch.full((), r, device=device)
                       for r in rates]  # fmt: skip
            return Amount(tensor=torch.stack(numbers), per=PER_GROUP)
        if rates != self._rates:
            self._rates, self._amount = rates, _amount_of(rates)
        return self._amount

    def _same(self, one: tuple[Any, float], other: tuple[Any, float]) -> bool:
        """Whether lr times strength is the same; tensors on a device are compared once."""
        if not isinstance(one[0], Tensor) and not isinstance(other[0], Tensor):
            return bool(one[0] * one[1] == other[0] * other[1])
        if one[0] is other[0]:
            return one[1] == other[1]
        pair = (id(one[0]), id(other[0]), one[1], other[1])
        if pair not in self._compared and bool(one[0] * one[1] == other[0] * other[1]):
            self._compared[pair] = (one[0], other[0])  # kept: their ids stay theirs
        return pair in self._compared


def _amount_of(rates: list[float]) -> Amount:
    """Of numbers by group."""
    if len(set(rates)) <= 1:
        return Amount(float(rates[0]) if rates else 0.0)
    return Amount(tensor=torch.tensor(rates, dtype=torch.float64), per=PER_GROUP)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a DTensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def memory_of(tensor: Tensor) -> int:
    """What a tensor shares with its views and no other; it has one without memory, too."""
    return int(local(tensor).untyped_storage()._cdata)


def on_local_tensors(plan: Plan) -> Plan:
    """The plan on the local tensors of DTensors; the plan itself if there are none.

    Raises:
        ValueError: if an entry acts along a dim that is spread over processes.
    """
    if not any(hasattr(t, "to_local") for target, _ in plan.entries for t in _tensors(target)):
        return plan
    for number, (target, _) in enumerate(plan.entries):
        for tensor, dim in target if isinstance(target, Units) else [(target, 0)]:
            _check_placements(tensor, dim, isinstance(target, Units), number)
    return Plan(with_tensors(plan.entries, local), overlap=plan._overlap)


def _tensors(target: Target) -> list[Tensor]:
    return [t for t, _ in target] if isinstance(target, Units) else [target]


def _check_placements(tensor: Tensor, dim: int, units: bool, number: int) -> None:
    for placement in getattr(tensor, "placements", ()):
        if placement.is_partial() or (placement.is_shard() and (placement.dim == dim or not units)):
            raise ValueError(
                f"entry {number} of the plan acts along dim {dim} of a DTensor that is placed "
                f"as {placement}: its units are on different processes. Shard another dim, "
                "or leave this parameter out of the plan"
            )


__all__ = ["VERBS", "Amount", "Constraint", "Fused", "local", "memory_of", "on_local_tensors"]
