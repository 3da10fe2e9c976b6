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
from symfast.optim.after import apply_after
from symfast.optim.check import EXTRAS, check_drawn, check_group, check_param, shared
from symfast.optim.constraint import VERBS, Amount, Constraint, local, memory_of
from symfast.optim.ready import Call, prepare
from symfast.optim.roster import Bundle, Roster, is_flat, make_roster, matching
from symfast.optim.saved import check_saved, counter_device, place_counters, warn_of_plan
from symfast.plan import Plan
from symfast.reference import update as formula

_update = torch.ops.symfast.update_.default
_eager_update = getattr(_update, "_op", _update)


class SymmetryOptimizer(torch.optim.Optimizer):
    """A torch.optim.Optimizer whose step is ``symfast::update_``.

    Subclasses say which rule they are, how a group becomes a row of settings and which states a
    parameter has. A call that raises has changed no parameter. On the CPU a plan's verb runs
    inside the step's pass over memory; on CUDA it is a second launch on the parameters after it.
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
        if plan is not None:
            self._constraint = Constraint(plan)
            # groups may be added before the first step, which asks for all
            self._constraint.check_held(self._held(), enough=1)

    @property
    def plan(self) -> Plan | None:
        """The plan that every step applies."""
        return None if self._constraint is None else self._constraint.given

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options that are not given are the defaults, as in torch.

        Raises:
            ValueError, RuntimeError, TypeError: in words, if an option is impossible or a
                parameter is sparse, complex or not floating, or sharded under noise or an anchor.
                Nothing is added then.
        """
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            check_group(added)
            for param in added["params"]:
                check_param(param)
                check_drawn(param, added)
        except (ValueError, RuntimeError, TypeError):
            self.param_groups.pop()
            raise
        self._roster = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does; "symmetry" of every group tells which plan was held."""
        for group in self.param_groups:
            group["symmetry"] = None if self._constraint is None else self._constraint.description
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does; counters go where the kernels read them, wherever they were saved.

        Raises:
            ValueError, RuntimeError, TypeError: if the groups do not fit, or have options that
                construction refuses. Nothing is loaded then.

        Warns:
            UserWarning: if the checkpoint was made with a plan, and this optimizer has none or
                another one.
        """
        warn_of_plan(state_dict.get("param_groups", ()), self._constraint)
        super().load_state_dict(state_dict)
        place_counters(self.state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        loads = "defaults" not in state  # else the whole of an optimizer: a pickle, a copy
        defaults = {**EXTRAS, **(self.defaults if loads else state["defaults"])}
        for group in state["param_groups"]:
            group["symmetry"] = None  # which is this optimizer's to say, not the checkpoint's
            for name, value in defaults.items():
                group.setdefault(name, value)
        if loads:
            check_saved(state["param_groups"])
        super().__setstate__(state)
        self._roster = None

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
            ValueError: if an entry of the plan spans groups of different lr times strength or a
                tensor of no group, or mode="group" meets parameters sharded over processes.
        """
        if torch.compiler.is_dynamo_compiling():  # in this thread, not in any
            return _between_graphs(self, closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_norm = self._by_norm()
        roster, new = self._sorted(by_norm)
        verb, amount = self._verb(roster.owners)
        name, alone = type(self).__name__, not new and len(roster.bundles) == 1
        calls = [prepare(bundle, name, alone) for bundle in roster.bundles]
        waiting = list(roster.late)
        for bundle, call in zip(roster.bundles, calls, strict=True):
            if bundle.fused is not None and (call is None or call.bundle is not bundle):
                waiting.append(bundle.fused.part)  # not all of it have a gradient
        # one launch looks at its plan itself, before it writes
        several = new or by_norm or len(calls) + len(waiting) > 1
        if self._constraint is not None and several:
            self._constraint.check_parts()
        for call in calls:
            if call is not None:
                self._call(call, verb, amount)
        if self._constraint is not None:
            inf = getattr(self, "found_inf", None)
            apply_after(self._constraint, None if by_norm else waiting, verb, amount, inf)
        return loss

    def _held(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _sorted(self, by_norm: bool) -> tuple[Roster, bool]:
        """Who steps together, and whether that was found out only now."""
        wanted = [self._wants(group) for group in self.param_groups], by_norm
        if self._roster is not None and wanted == self._made_for:
            return self._roster, False
        if self._constraint is not None:
            self._constraint.check_held(self._held())
            if by_norm:
                self._constraint.check_norms()
        inside = None if by_norm else self._constraint
        self._roster = make_roster(self.param_groups, self.state, self._wants, inside)
        self._made_for = wanted
        return self._roster, True

    def _call(self, call: Call, verb: int, amount: Amount) -> None:
        bundle, params, grads, fits = call
        fresh = self._init_states(bundle)
        first, step = self._wants(self.param_groups[bundle.groups[0]])
        states = [[s[name] for s in bundle.states] for name in self.moments if first]
        steps = [s["step"] for s in bundle.states if step]
        if params is not bundle.params:
            states = [[local(s) for s in column] for column in states]
        # one with gaps, alone in its bundle, steps as a copy; its states have none
        packed = params if is_flat(params[0]) else [p.contiguous() for p in params]
        if not fits or packed is not params:
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
                state["step"] = torch.zeros((), dtype=torch.float32, device=counter_device(param))
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
        if self._constraint is None or all(g["mode"] == "l1" for g in self.param_groups):
            return False
        shared(self.param_groups, "mode")
        return all(g["constraint"] == "prox" for g in self.param_groups)

    def _verb(self, owners: dict[int, dict[str, Any]]) -> tuple[int, Amount]:
        if self._constraint is None:
            return 0, Amount()
        verb = VERBS[shared(self.param_groups, "constraint")]
        if verb == PROJECT:
            return verb, Amount()

        def rate(tensor: Tensor) -> tuple[Any, float]:
            group = owners.get(id(tensor)) or owners.get(id(tensor._base))
            group = group or owners.get(memory_of(tensor)) or self.param_groups[0]
            lr = group["lr"]
            on_device = isinstance(lr, Tensor) and lr.device.type != "cpu"
            return lr if on_device else _number(lr), group["strength"]

        return verb, self._constraint.amount(rate)


@_disable_dynamo
def _between_graphs(optimizer: SymmetryOptimizer, closure: Callable[[], Any] | None) -> Any:
    """A step in a compiled function: one kernel already."""
    return optimizer.step(closure)


def _number(value: Any) -> float:
    """A host number; a tensor on another device is read there instead."""
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else 0.0
    return float(value)


def _signed(seed: int) -> int:
    return seed - (1 << 64) if seed >= 1 << 63 else seed
