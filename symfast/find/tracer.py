# SPDX-License-Identifier: Apache-2.0
"""The state of one analysis: classes per algebra, parameters by name, and notes in words."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from symfast.find.classes import ALGEBRAS, EVERY_KIND, Key, Labels, UnitClasses
from symfast.find.value import Value, no_flows, unit_dims

Rule = Callable[["Tracer", fx.Node, dict[str, Any]], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a propagation rule for ATen operators, by name without overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class Tracer:
    """Classes of units per algebra, and the verbs that rules use on them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.classes = {algebra: UnitClasses(algebra) for algebra in ALGEBRAS}
        self.roles: dict[tuple[str, int], str] = {}
        self.notes: dict[str, None] = {}
        self.node: fx.Node | None = None

    def note(self, text: str) -> None:
        """Say once, in words, why something stays fixed."""
        self.notes[text] = None

    @property
    def here(self) -> str:
        """The module in which the current operator runs."""
        assert self.node is not None
        stack = list((self.node.meta.get("nn_module_stack") or {}).values())
        return (stack[-1][0] if stack else "") or "the model itself"

    def parameter(self, name: str) -> Value:
        """Return a parameter or buffer as a value: one flow along each of its dims."""
        tensor = self.tensors[name]
        shape = tuple(tensor.shape)
        flows = no_flows()
        if tensor.is_floating_point():
            for algebra in ALGEBRAS:
                flows[algebra] = tuple(
                    self.axis(algebra, Key(name, dim), size).reshape(
                        [-1 if d == dim else 1 for d in range(len(shape))]
                    )
                    for dim, size in enumerate(shape)
                    if size > 1
                )
        varies = tuple(size > 1 and not tensor.is_floating_point() for size in shape)
        return Value(shape, varies, flows, name, tuple(range(len(shape))))

    def vector(self, name: str, dim: int, ndim: int) -> Value:
        """Return a parameter of one dim, laid along ``dim`` of a tensor with ``ndim`` dims."""
        flat = self.parameter(name)
        shape = tuple(flat.shape[0] if d == dim else 1 for d in range(ndim))
        flows = {k: tuple(f.reshape(shape) for f in v) for k, v in flat.flows.items()}
        axes = tuple(0 if d == dim else None for d in range(ndim))
        return Value(shape, (False,) * ndim, flows, name, axes)

    def axis(self, algebra: str, key: Key, size: int) -> Labels:
        """Return the labels of a parameter's axis in one algebra."""
        return self.classes[algebra].axis(key, size)

    def set_role(self, value: Value, dim: int, role: str) -> None:
        """Remember how a parameter's dim is used; the first use is what is told."""
        axis = value.axes[dim] if value.parameter is not None else None
        if value.parameter is not None and axis is not None:
            self.roles.setdefault((value.parameter, axis), role)

    def forbid(self, value: Value, kinds: int, algebras: tuple[str, ...] = tuple(ALGEBRAS)) -> None:
        """Take ``kinds`` away from all units of a value."""
        for algebra in algebras:
            for labels in value.flows[algebra]:
                self.classes[algebra].forbid(labels, kinds)

    def settle(self, value: Value) -> Value:
        """Give up what a square promised: it is read by something other than a sum over units."""
        for algebra, flows in value.even.items():
            for labels in flows:
                self.classes[algebra].forbid(labels, ALGEBRAS[algebra])
        return value

    def pin(self, value: Any) -> None:
        """Fix all units of a value (or of a nest of values)."""
        if isinstance(value, Value):
            self.settle(value)
            self.forbid(value, EVERY_KIND)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.pin(item)

    def drop(self, algebra: str, labels: Labels) -> None:
        """Forbid everything that an algebra decides for these units."""
        self.classes[algebra].forbid(labels, ALGEBRAS[algebra])


def split_varying(labels: Labels, value: Value) -> tuple[int, ...]:
    """Return the unit dims of ``labels`` along which ``value`` differs for reasons of its own."""
    offset = labels.ndim - len(value.shape)
    return tuple(dim for dim in unit_dims(labels) if dim >= offset and value.varies[dim - offset])


def operator_name(node: fx.Node) -> str:
    """Return an ATen operator's name without namespace and overload."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def output_shapes(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's output on the example input."""
    return tuple(int(size) for size in node.meta["val"].shape)
