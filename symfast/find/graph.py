# SPDX-License-Identifier: Apache-2.0
"""Trace a model to a graph of ATen operators and propagate its units through it."""

import copy
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

# importing a rule module registers its rules
from symfast.find import (  # noqa: F401
    attention,
    contraction,
    convolution,
    elementwise,
    movement,
    normalization,
    product,
    recurrence,
)
from symfast.find.tracer import RULES, Tracer, operator_name
from symfast.find.value import Value
from symfast.symmetry_group import named_tensors

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
#: torch.export and the default dtype are the whole process's: one thread at a time.
ONE_AT_A_TIME = threading.RLock()


class TraceError(RuntimeError):
    """The model cannot be traced to a graph."""


@dataclass(frozen=True)
class Exact:
    """A float64 copy of the model in evaluation mode, with the example inputs to match."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def outputs(self) -> list[Tensor]:
        """Run the copy and return its floating-point outputs, flat."""
        with exact_arithmetic(), torch.no_grad():
            found = floating_outputs(self.model(*self.args, **self.kwargs))
        if not found:
            raise TraceError(
                f"{type(self.model).__name__} returns no floating-point tensor, so nothing can be "
                "compared: let it return its logits or features"
            )
        return found


def floating_outputs(out: Any) -> list[Tensor]:
    """Return the floating-point tensors of a model's output, detached copies, in order."""
    leaves = torch.utils._pytree.tree_leaves(out)
    return [leaf.detach().clone() for leaf in leaves if _is_floating(leaf)]


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Create new tensors in float64, and keep attention on its plain path."""
    with ONE_AT_A_TIME:
        before, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
        torch.set_default_dtype(torch.float64)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
            torch.backends.mha.set_fastpath_enabled(fast)


def as_arguments(example_input: Any) -> Arguments:
    """Return (args, kwargs): a tensor is one argument, a tuple several, a mapping keywords."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, (tuple, list)):
        return tuple(example_input), {}
    return (example_input,), {}


def make_exact(model: nn.Module, example_input: Any) -> Exact:
    """Copy the model to float64 in evaluation mode; the model itself is left alone."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            "model is a TorchScript module, which torch.export cannot trace: give the eager "
            "nn.Module, with the weights loaded from model.state_dict()"
        )
    exact = copy.deepcopy(model).double().eval().requires_grad_(False)
    args, kwargs = torch.utils._pytree.tree_map(_widen, as_arguments(example_input))
    return Exact(exact, args, kwargs)


def _widen(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    wide = leaf.detach().clone()
    return wide.double() if wide.is_floating_point() else wide


def export(exact: Exact) -> torch.export.ExportedProgram:
    """Trace with torch.export (non-strict): one graph of ATen operators, parameters by name.

    Raises:
        TraceError: (a RuntimeError) with torch's reason if the model cannot be traced.
    """
    with exact_arithmetic(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # export warns of its own insides
        try:
            return torch.export.export(exact.model, exact.args, exact.kwargs, strict=False)
        except Exception as error:
            raise TraceError(
                f"torch.export cannot trace this {type(exact.model).__name__} on the example "
                f"input: {error}"
            ) from error


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every qualified name to the first name of the same tensor (tied parameters)."""
    first: dict[int, str] = {}
    names = {}
    for name, tensor in named_tensors(model).items():
        names[name] = first.setdefault(id(tensor), name)
    return names


def propagate(exact: Exact) -> Tracer:
    """Follow the units of every parameter through the graph of the model."""
    program = export(exact)
    tracer = Tracer(named_tensors(exact.model))
    values: dict[fx.Node, Any] = {}
    _place_inputs(program, tracer, values, canonical_names(exact.model))
    for node in program.graph.nodes:
        tracer.node = node
        if node.op == "call_function":
            values[node] = _visit(tracer, node, values)
        elif node.op == "output":
            for leaf in node.all_input_nodes:
                tracer.pin(values[leaf])
        elif node.op == "get_attr":
            values[node] = Value.plain(())
    return tracer


def _place_inputs(
    program: torch.export.ExportedProgram,
    tracer: Tracer,
    values: dict[fx.Node, Any],
    names: dict[str, str],
) -> None:
    """Give every placeholder its value: parameters have units, inputs and constants have none."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    state = program.state_dict
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        known = isinstance(spec.target, str) and spec.target in names
        stored = spec.kind == InputKind.PARAMETER or (known and str(spec.target) in state)
        if known and stored and node.users:
            values[node] = tracer.parameter(names[str(spec.target)])
        else:
            example = node.meta.get("val")
            values[node] = Value.plain(tuple(getattr(example, "shape", ())))


def _visit(tracer: Tracer, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Apply the rule of one operator; without a rule, its units are fixed, and a note says so."""
    if str(node.target).startswith("<built-in function getitem"):
        source, index = node.args
        assert isinstance(source, fx.Node)
        whole = values[source]
        return whole[int(str(index))] if isinstance(whole, list) else whole
    bound = _bind(node, values)
    name = operator_name(node)
    function = RULES.get(name)
    if bound is not None and function is not None:
        return function(tracer, node, bound)
    inputs = [values[source] for source in node.all_input_nodes]
    moving = any(isinstance(v, Value) and any(v.flows.values()) for v in inputs)
    if moving:
        tracer.note(f"operator {name} in {tracer.here} is not known: its units stay fixed")
    tracer.pin(inputs)
    return _plain_like(node.meta.get("val"))


def _plain_like(example: Any) -> Any:
    if isinstance(example, (tuple, list)):
        return [_plain_like(item) for item in example]
    return Value.plain(tuple(getattr(example, "shape", ())))


def _bind(node: fx.Node, values: dict[fx.Node, Any]) -> dict[str, Any] | None:
    """Return the arguments by the names of the operator's schema."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    arguments = node.target._schema.arguments
    given = dict(zip((a.name for a in arguments), node.args, strict=False))
    given |= dict(node.kwargs)
    return {key: _fill(item, values) for key, item in given.items()}


def _fill(item: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(item, fx.Node):
        return values[item]
    if isinstance(item, (list, tuple)):
        return [_fill(part, values) for part in item]
    return item
