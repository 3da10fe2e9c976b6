# SPDX-License-Identifier: Apache-2.0
"""What SGD, Adam and AdamW share: parameter groups become one kernel call per device and dtype."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from symfast import update as _declared  # noqa: F401  (declares the operator)
from symfast.codes import PROJECT
from symfast.optim.check import EXTRAS, check_group, check_param
from symfast.optim.constraint import VERBS, Amount, Constraint, Fused, unless
from symfast.optim.roster import Bundle, is_flat, local, matching
from symfast.plan import Plan
from symfast.reference import update as formula

_update = torch.ops.symfast.update_.default
_eager_update = getattr(_update, "_op", _update)


class SymmetryOptimizer(torch.optim.Optimizer):
    """A torch.optim.Optimizer whose step is ``symfast::update_``.

    Subclasses say which rule they are, how a group becomes a row of settings and which states a
    parameter has. A call that raises has changed no parameter.
    """

    rule: ClassVar[int]
    #: Names of the states, in the order of the operator's lists.
    moments: ClassVar[tuple[str, ...]]
    _step_supports_amp_scaling = True

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], plan: Plan | None = None
    ) -> None:
        self._bundles: list[Bundle] | None = None
        self._wanted: list[tuple[bool, bool]] = []  # states by group that the bundles are made for
        self._late: list[Any] = []
        self._constraint: Constraint | None = None
        super().__init__(params, {**EXTRAS, **defaults})
        self._constraint = None if plan is None else Constraint(plan)

    @property
    def plan(self) -> Plan | None:
        """The plan that every step applies."""
        return None if self._constraint is None else self._constraint.given

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options that are not given are the defaults, as in torch.

        Raises:
            ValueError, RuntimeError, TypeError: in words, if an option is impossible or a
                parameter is sparse, complex or not floating. Nothing is added then.
        """
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            check_group(added)
            for param in added["params"]:
                check_param(param)
        except (ValueError, RuntimeError, TypeError):
            self.param_groups.pop()
            raise
        self._bundles = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bundles = None
        for group in self.param_groups:
            for name, value in {**EXTRAS, **self.defaults}.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # torch's __getstate__ keeps three entries and pickles nothing else
        base: dict[str, Any] = super().__getstate__()
        return {**base, "_bundles": None, "_late": [], "_constraint": self._constraint}

    # ---- what a subclass says -----------------------------------------------------------------

    def _row(self, group: dict[str, Any], lr: float, fresh: bool) -> tuple[float, ...]:
        """A group's row of settings; ``fresh``: for parameters without a first state so far."""
        raise NotImplementedError

    def _wants_first(self, group: dict[str, Any]) -> bool:
        return True

    def _wants_step(self, group: dict[str, Any]) -> bool:
        return True

    def _wants(self, group: dict[str, Any]) -> tuple[bool, bool]:
        return self._wants_first(group), self._wants_step(group)

    # ---- the step ------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step on every parameter that has a gradient, then hold the plan's constraint.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            what the closure returns, or None.

        Raises:
            RuntimeError: if a gradient is sparse, or a parameter of the plan changed its shape.
            ValueError: if an entry of the plan spans groups of different lr times strength.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        wanted = [self._wants(group) for group in self.param_groups]
        if self._bundles is None or wanted != self._wanted:
            self._bundles, self._wanted = self._make_bundles(), wanted
        verb, amount = self._verb()
        waiting = list(self._late)
        for bundle in self._bundles:
            if not self._run(bundle, verb, amount):
                waiting.append(bundle.fused.part if bundle.fused else None)
        self._apply_late([part for part in waiting if part is not None], verb, amount)
        return loss

    def _run(self, bundle: Bundle, verb: int, amount: Amount) -> bool:
        """One kernel call; False if the bundle's plan has yet to be applied."""
        grads = bundle.grads()
        if any(g is None for g in grads):
            kept = [i for i, g in enumerate(grads) if g is not None]
            if kept:
                self._run(bundle.select(kept), verb, amount)
            return False
        self._call(bundle, [g for g in grads if g is not None], verb, amount)
        return True

    def _call(self, bundle: Bundle, grads: list[Tensor], verb: int, amount: Amount) -> None:
        fresh = self._init_states(bundle)
        params = bundle.params
        first, step = self._wants(self.param_groups[bundle.groups[0]])
        states = [[s[name] for s in bundle.states] for name in self.moments if first]
        steps = [s["step"] for s in bundle.states if step]
        if hasattr(params[0], "to_local"):
            params, grads = [local(p) for p in params], [local(g) for g in grads]
            states = [[local(s) for s in column] for column in states]
        # one with gaps, alone in its bundle, steps as a copy; its states have none
        packed = params if is_flat(params[0]) else [p.contiguous() for p in params]
        if any(g.layout != p.layout or g.stride() != p.stride() or g.dtype != p.dtype
               for g, p in zip(grads, packed, strict=True)):  # fmt: skip
            name = type(self).__name__
            grads = [matching(g, p, name) for g, p in zip(grads, packed, strict=True)]
        settings, keys = self._tables(bundle, fresh)
        lists = [*states, *([] for _ in range(2 - len(states)))]
        scale, inf = self._scaler(params[0].device)
        arguments: list[Any] = [self.rule, packed, grads, *lists, steps, settings, keys, scale, inf]
        if bundle.fused is not None:
            tensor = amount.tensor
            part = bundle.fused.part
            amounts = None if tensor is None else tensor.to(part.device, part.accumulate)
            arguments += [bundle.fused.key, verb, amount.number, amounts, amount.per]
        _eager_update(*arguments)
        if packed is not params:
            params[0].copy_(packed[0])
        for tensors in (params, *states, steps):
            increment_version(tensors)

    def _scaler(self, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """What GradScaler left on this optimizer for this step."""
        scale, inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        return (
            None if scale is None else scale.to(device),
            None if inf is None else inf.to(device),
        )

    def _init_states(self, bundle: Bundle) -> list[bool]:
        """Make the states that are missing; whose first state is new."""
        fresh = []
        for param, group_number, state in zip(
            bundle.params, bundle.groups, bundle.states, strict=True
        ):
            group = self.param_groups[group_number]
            new = self._wants_first(group) and state.get(self.moments[0]) is None
            fresh.append(new)
            if new:
                for name in self.moments:
                    state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
            if "step" not in state and self._wants_step(group):
                device = param.device if param.device.type == "cuda" else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        return fresh

    def _tables(self, bundle: Bundle, fresh: list[bool]) -> tuple[Tensor, Tensor]:
        seeds = [(_signed(g["seed"]), _signed((g["anchor"] or {"seed": 0})["seed"]))
                 for g in self.param_groups]  # fmt: skip
        rows = [
            self._row(group, _number(group["lr"]), new)
            for group in self.param_groups
            for new in (False, True)
        ]
        row_of = [2 * g + int(new) for g, new in zip(bundle.groups, fresh, strict=True)]
        settings, keys = bundle.tables(rows, row_of, seeds)
        for number, group in enumerate(self.param_groups):
            lr = group["lr"]
            if isinstance(lr, Tensor) and lr.device.type != "cpu":
                settings[2 * number : 2 * number + 2, formula.LR] = lr  # stays on the device
        return settings, keys

    # ---- the plan --------------------------------------------------------------------------------

    def _verb(self) -> tuple[int, Amount]:
        if self._constraint is None:
            return 0, Amount()
        kinds = {g["constraint"] for g in self.param_groups}
        if len(kinds) > 1:
            raise ValueError(f"all groups must have one constraint, got {sorted(kinds)}")
        verb = VERBS[kinds.pop()]
        if verb == PROJECT:
            return verb, Amount()
        owners = {id(local(p)): g for g in self.param_groups for p in g["params"]}
        owners |= {id(p): g for g in self.param_groups for p in g["params"]}

        def rate(tensor: Tensor) -> Any:
            base = tensor if tensor._base is None else tensor._base
            group = owners.get(id(tensor)) or owners.get(id(base)) or self.param_groups[0]
            lr = group["lr"]
            on_device = isinstance(lr, Tensor) and lr.device.type != "cpu"
            return (lr if on_device else _number(lr)) * group["strength"]

        return verb, self._constraint.amount(verb, rate)

    def _apply_late(self, parts: list[Any], verb: int, amount: Amount) -> None:
        if not parts or self._constraint is None:
            return
        inf = getattr(self, "found_inf", None)
        if inf is not None and inf.device.type == "cpu" and bool(inf):
            return
        for part in sorted(parts, key=lambda p: p.stage):
            chosen, by = verb, amount
            if inf is not None and inf.device.type != "cpu":
                chosen, by = unless(inf, verb, amount, self._constraint.plan.groups)
            self._constraint.apply(part, chosen, by)
            increment_version(part.tensors)

    def _make_bundles(self) -> list[Bundle]:
        """Sort the parameters by what one kernel call may hold."""
        fused = self._place_parts()
        bundles: dict[Any, Bundle] = {}
        number = 0
        members = []
        for g, group in enumerate(self.param_groups):
            for param in group["params"]:
                members.append((param, g, number))
                number += 1
        order = {id(t): i for f in fused.values() for i, t in enumerate(f.part.tensors)}
        members.sort(key=lambda m: order.get(id(m[0]), len(order)))
        for param, g, number in members:
            key = self._key(param, self.param_groups[g])
            bundle = bundles.setdefault(key, Bundle(fused=fused.get(key)))
            bundle.params.append(param)
            bundle.groups.append(g)
            bundle.numbers.append(number)
            bundle.states.append(self.state[param])
        return list(bundles.values())

    def _key(self, param: Tensor, group: dict[str, Any]) -> Any:
        flat = is_flat(local(param))
        kind = (*self._wants(group), hasattr(param, "to_local"))
        return (param.device, param.dtype, *kind, None if flat else id(param))

    def _place_parts(self) -> dict[Any, Fused]:
        """The part that runs inside each kernel call; the others run after them."""
        found: dict[Any, Fused] = {}
        self._late = []
        if self._constraint is None:
            return found
        keys = {id(p): self._key(p, g) for g in self.param_groups for p in g["params"]}
        for part in self._constraint.parts:
            wanted = {keys.get(id(t)) for t in part.tensors}
            key = next(iter(wanted)) if len(wanted) == 1 else None
            inside = key is not None and part.stage == 0 and part.device.type == "cpu"
            # one with gaps steps as a copy, whose layout the part's tables do not know
            inside = inside and all(is_flat(t) for t in part.tensors)
            if inside and key not in found and part.tensors:
                found[key] = Fused(part)
            else:
                self._late.append(part)
        return found


def _number(value: Any) -> float:
    """A host number; a tensor on another device is read there instead."""
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else 0.0
    return float(value)


def _signed(seed: int) -> int:
    return seed - (1 << 64) if seed >= 1 << 63 else seed
