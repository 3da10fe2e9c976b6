# SPDX-License-Identifier: Apache-2.0
"""Propagation through products of entries: gains, gates and quotients."""

from dataclasses import replace
from typing import Any

from torch import fx

from symfast.find.classes import Key, Labels
from symfast.find.elementwise import _joined, operands, pair, square, unary
from symfast.find.tracer import Tracer, rule, split_varying
from symfast.find.value import Flows, Value, align, unit_dims


@rule("mul", "mul_", "multiply")
def _mul(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    a, b = operands(args)
    if len(node.args) == 2 and node.args[0] is node.args[1]:
        return square(tracer, a)
    return multiply(tracer, a, b)


@rule("div", "div_", "true_divide")
def _div(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    del node
    a, b = operands(args)
    tracer.settle(a)
    tracer.settle(b)
    if args.get("rounding_mode") is not None:
        return unary(tracer, multiply(tracer, a, b), 0, "div")
    inverse = replace(b, flows=b.flows | {"diagonal": tuple(f ^ 1 for f in b.flows["diagonal"])})
    return multiply(tracer, a, replace(inverse, parameter=None))


@rule("glu")
def _glu(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """One half of the units is gated by the other: ``a * sigmoid(b)``."""
    del node
    x = args["self"]
    dim = args.get("dim", -1) % len(x.shape)
    half = x.shape[dim] // 2
    low, high = (_part(x, dim, start, half) for start in (0, half))
    return multiply(tracer, low, unary(tracer, high, 0, "sigmoid"))


def _part(x: Value, dim: int, start: int, size: int) -> Value:
    """Return a range of a value's dim."""

    def cut(f: Labels) -> Labels:
        return f.take(range(start, start + size), axis=dim) if f.shape[dim] > 1 else f

    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    return Value(shape, x.varies, {a: tuple(cut(f) for f in v) for a, v in x.flows.items()})


def multiply(tracer: Tracer, a: Value, b: Value) -> Value:
    """Multiply entries; a parameter that meets units on its own dims is their gain."""
    tracer.settle(a)
    tracer.settle(b)
    if a.parameter is not None and b.parameter is None:
        a, b = b, a
    if b.parameter is not None:
        for dim in range(len(b.shape)):
            tracer.set_role(b, dim, "norm")
    flows: Flows = {
        "permutation": pair(tracer, "permutation", a, b),
        "diagonal": _scale(tracer, a, b),
        "rotation": _rotate(tracer, a, b),
    }
    return _joined(a, b, flows)


def _scale(tracer: Tracer, a: Value, b: Value) -> tuple[Labels, ...]:
    """Factors multiply. At a gain the units before it end and those after it begin.

    ``x' = g x`` is unchanged by ``x <- s x, g <- g / s`` (the reading side of g) and scaled by
    ``g <- s g`` (its writing side).
    """
    ndim = max(len(a.shape), len(b.shape))
    left = [align(f, ndim) for f in a.flows["diagonal"]]
    right = [align(f, ndim) for f in b.flows["diagonal"]]
    if b.parameter is None:
        return (*left, *right)
    classes = tracer.classes["diagonal"]
    offset = ndim - len(b.shape)
    for g in right:
        dim = unit_dims(g)[0]
        axis = b.axes[dim - offset]
        met = [f for f in left if dim in unit_dims(f)]
        if met and axis is not None:
            key = Key(b.parameter, axis, "read")
            read = tracer.axis("diagonal", key, g.size).reshape(g.shape)
            classes.unite(met[0], read, inverse=True)
            left = [f for f in left if f is not met[0]]
    return (*left, *right)


def _rotate(tracer: Tracer, a: Value, b: Value) -> tuple[Labels, ...]:
    """Rotations pass through factors that are the same for all units."""
    ndim = max(len(a.shape), len(b.shape))
    left = [align(f, ndim) for f in a.flows["rotation"]]
    right = [align(f, ndim) for f in b.flows["rotation"]]
    even = b.parameter is not None and _uniform(tracer, b.parameter)
    if even and left:
        for g in right:
            tracer.drop("rotation", g)
        return tuple(left)
    for mine, others, value in ((left, right, b), (right, left, a)):
        for f in mine:
            met = any(set(unit_dims(f)) & set(unit_dims(g)) for g in others)
            if met or split_varying(f, value):
                tracer.drop("rotation", f)
    return (*left, *right)


def _uniform(tracer: Tracer, name: str) -> bool:
    tensor = tracer.tensors[name]
    return bool((tensor == tensor.flatten()[0]).all())
