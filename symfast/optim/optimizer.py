# SPDX-License-Identifier: Apache-2.0
"""What SGD, Adam and AdamW share: parameter groups become one kernel call per device and dtype."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version

from symfast import update as _declared  # noqa: F401  (declares the operator)
from symfast.codes import PROJECT
from symfast.optim.check import EXTRAS, check_group, check_param
from symfast.optim.constraint import VERBS, Amount, Constraint, local, unless
from symfast.optim.roster import Bundle, Roster, is_flat, make_roster, matching
from symfast.plan import Plan
from symfast.reference import update as formula
from symfast.tables import Part

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
        self._roster: Roster | None = None
        self._made_for: Any = None  # states by group and form of the verb of the roster
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
        self._roster = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does; counters go where the kernels read them, wherever they were saved.

        Raises:
            ValueError: if the groups do not fit.
        """
        super().load_state_dict(state_dict)
        for param, state in self.state.items():
            if "step" in state:
                state["step"] = torch.as_tensor(
                    state["step"], dtype=torch.float32, device=_step_device(param)
                ).reshape(())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._roster = None
        for group in self.param_groups:
            for name, value in {**EXTRAS, **self.defaults}.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # torch's __getstate__ keeps three entries and pickles nothing else
        return {**super().__getstate__(), "_roster": None, "_constraint": self._constraint}

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
            ValueError: if an entry of the plan spans groups of different lr times strength, or
                mode="group" meets parameters sharded over processes.
        """
        if torch.compiler.is_dynamo_compiling():  # in this thread, not in any
            return _between_graphs(self, closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_norm = self._by_norm()
        wanted = [self._wants(group) for group in self.param_groups], by_norm
        if self._roster is None or wanted != self._made_for:
            if by_norm and self._constraint is not None:
                self._constraint.check_norms()
            inside = None if by_norm else self._constraint
            self._roster = make_roster(self.param_groups, self.state, self._wants, inside)
            self._made_for = wanted
        verb, amount = self._verb(self._roster.owners)
        waiting = list(self._roster.late)
        for bundle in self._roster.bundles:
            if not self._run(bundle, verb, amount) and bundle.fused is not None:
                waiting.append(bundle.fused.part)
        if by_norm:
            self._apply_by_norm(amount)
        else:
            self._apply_late(waiting, verb, amount)
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
            part = bundle.fused.part
            amounts = amount.on(part.device, part.accumulate)
            arguments += [bundle.fused.key, verb, amount.number, amounts, amount.per]
        _eager_update(*arguments)
        if packed is not params:
            params[0].copy_(packed[0])
        for tensors in (params, *states, steps):
            increment_version(tensors)
        if any(fresh):  # now, not in the next step, which may be captured
            self._tables(bundle, [False] * len(fresh))

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
                state["step"] = torch.zeros((), dtype=torch.float32, device=_step_device(param))
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
                settings.narrow(0, 2 * number, 2).select(1, formula.LR).copy_(lr)  # stays there
        return settings, keys

    # ---- the plan --------------------------------------------------------------------------------

    def _by_norm(self) -> bool:
        """Whether the verb needs norms over whole mirrors, and so every tensor before it acts."""
        modes = {g["mode"] for g in self.param_groups}
        if self._constraint is None or modes == {"l1"}:
            return False
        if len(modes) > 1:
            raise ValueError(f"all groups must have one mode, got {sorted(modes)}")
        return all(g["constraint"] == "prox" for g in self.param_groups)

    def _verb(self, owners: dict[int, dict[str, Any]]) -> tuple[int, Amount]:
        if self._constraint is None:
            return 0, Amount()
        kinds = {g["constraint"] for g in self.param_groups}
        if len(kinds) > 1:
            raise ValueError(f"all groups must have one constraint, got {sorted(kinds)}")
        verb = VERBS[kinds.pop()]
        if verb == PROJECT:
            return verb, Amount()

        def rate(tensor: Tensor) -> tuple[Any, float]:
            base = tensor if tensor._base is None else tensor._base
            group = owners.get(id(tensor)) or owners.get(id(base)) or self.param_groups[0]
            lr = group["lr"]
            on_device = isinstance(lr, Tensor) and lr.device.type != "cpu"
            return lr if on_device else _number(lr), group["strength"]

        return verb, self._constraint.amount(rate)

    def _apply_by_norm(self, amount: Amount) -> None:
        inf = getattr(self, "found_inf", None)
        if self._constraint is None or (inf is not None and inf.device.type == "cpu" and bool(inf)):
            return
        self._constraint.prox_by_norm(amount, inf)

    def _apply_late(self, parts: list[Part], verb: int, amount: Amount) -> None:
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


@_disable_dynamo
def _between_graphs(optimizer: SymmetryOptimizer, closure: Callable[[], Any] | None) -> Any:
    """A step in a compiled function: one kernel already."""
    return optimizer.step(closure)


def _number(value: Any) -> float:
    """A host number; a tensor on another device is read there instead."""
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else 0.0
    return float(value)


def _step_device(param: Tensor) -> torch.device:
    return param.device if param.device.type == "cuda" else torch.device("cpu")


def _signed(seed: int) -> int:
    return seed - (1 << 64) if seed >= 1 << 63 else seed
