# SPDX-License-Identifier: Apache-2.0
"""Propagation through operators that act on each entry alone."""

from dataclasses import replace
from typing import Any

from torch import fx

from symfast.find.classes import EVERY_KIND, RESCALE, SIGN, Labels
from symfast.find.tracer import Tracer, operator_name, output_shapes, rule, split_varying
from symfast.find.value import Flows, Value, align, no_flows, unit_dims

ALL = SIGN | RESCALE
ODD = ("tanh", "sin", "sinh", "asinh", "asin", "atan", "atanh", "erf", "erfinv", "softsign")
ODD_SHRINK = ("tanhshrink", "softshrink", "hardshrink", "sgn", "sign", "round", "trunc")
HOMOGENEOUS = ("relu", "leaky_relu", "abs", "rrelu")
PLAIN = (
    "gelu",
    "silu",
    "sigmoid",
    "exp",
    "expm1",
    "exp2",
    "log",
    "log1p",
    "log2",
    "softplus",
    "elu",
)
PLAIN_MORE = ("selu", "celu", "mish", "hardswish", "hardsigmoid", "relu6", "log_sigmoid", "sqrt")
PLAIN_REST = ("rsqrt", "reciprocal", "clamp", "clamp_min", "clamp_max", "cos", "floor", "ceil")
LOGICAL = ("logical_not", "bitwise_not", "isnan", "isinf", "isfinite", "nan_to_num", "square")
SAME = ("to", "_to_copy", "contiguous", "clone", "alias", "detach", "dropout", "neg", "type_as")
SAME_MORE = ("lift_fresh_copy", "feature_dropout", "alpha_dropout", "detach_", "positive")
SAME_REST = ("lift_fresh", "lift_fresh_copy_", "dropout_", "float", "double", "view_as_real_copy")
MIXED = ("maximum", "minimum", "where", "masked_fill", "eq", "ne", "gt", "ge", "lt", "le", "atan2")
MIXED_MORE = ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "remainder")
MIXED_REST = ("fmod", "floor_divide", "lerp", "hypot", "masked_fill_", "bitwise_xor")


def unary(tracer: Tracer, x: Value, keeps: int, name: str) -> Value:
    """Pass ``x`` through a function of one entry that commutes with the ``keeps`` kinds."""
    tracer.settle(x)
    for labels in x.flows["permutation"]:
        tracer.classes["permutation"].name_activation(labels, name)
    for labels in x.flows["diagonal"]:
        tracer.classes["diagonal"].name_activation(labels, name)
        tracer.classes["diagonal"].forbid(labels, ALL & ~keeps)
    for labels in x.flows["rotation"]:
        tracer.drop("rotation", labels)
    return x.with_flows(x.flows | {"diagonal": x.flows["diagonal"] if keeps else ()})


@rule(*SAME, *SAME_MORE, *SAME_REST)
def _same(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    del tracer, node
    value: Value = next(iter(args.values()))
    return replace(value, parameter=None)


@rule(*ODD, *ODD_SHRINK)
def _odd(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    return unary(tracer, next(iter(args.values())), SIGN, operator_name(node))


@rule(*HOMOGENEOUS)
def _homogeneous(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    return unary(tracer, next(iter(args.values())), RESCALE, operator_name(node))


@rule(*PLAIN, *PLAIN_MORE, *PLAIN_REST, *LOGICAL)
def _plain(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    x = next(iter(args.values()))
    if operator_name(node) == "square":
        return square(tracer, x)
    return unary(tracer, x, 0, operator_name(node))


@rule("hardtanh")
def _hardtanh(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    odd = args.get("min_val", -1) == -args.get("max_val", 1)
    return unary(tracer, args["self"], SIGN if odd else 0, "hardtanh")


@rule("pow")
def _pow(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    exponent = args.get("exponent")
    x = args["self"]
    if not isinstance(x, Value) or isinstance(exponent, Value):
        return mixed(tracer, node, [v for v in args.values() if isinstance(v, Value)])
    if exponent == 2:
        return square(tracer, x)
    return unary(tracer, x, SIGN if exponent in (3, 5) else 0, "pow")


def square(tracer: Tracer, x: Value) -> Value:
    """Square: signs and rotations survive if only sums over the units are read."""
    tracer.settle(x)
    for labels in x.flows["diagonal"]:
        tracer.classes["diagonal"].forbid(labels, RESCALE)
    even: Flows = no_flows() | {a: x.flows[a] for a in ("diagonal", "rotation")}
    kept: Flows = no_flows() | {"permutation": x.flows["permutation"]}
    return replace(x, flows=kept, even=even, parameter=None, zero=False)


@rule("prelu")
def _prelu(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    x, slope = args["self"], args["weight"]
    rows = slope.shape[0] if slope.shape else 1
    if rows > 1 and slope.parameter is not None:
        per_unit = tracer.vector(slope.parameter, 1, len(x.shape))
        pair(tracer, "permutation", x, per_unit)
        tracer.forbid(slope, EVERY_KIND, ("diagonal", "rotation"))
        tracer.set_role(slope, 0, "norm")
    return unary(tracer, x, RESCALE, operator_name(node))


@rule(*MIXED, *MIXED_MORE, *MIXED_REST)
def _mixed(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    return mixed(tracer, node, [v for v in args.values() if isinstance(v, Value)])


def mixed(tracer: Tracer, node: fx.Node, values: list[Value]) -> Value:
    """Combine entries by a function of which nothing is known: only permutations survive."""
    out = values[0]
    for number, value in enumerate(values):
        tracer.settle(value)
        tracer.forbid(value, EVERY_KIND, ("diagonal", "rotation"))
        if number:
            flows = pair(tracer, "permutation", out, value)
            out = _joined(out, value, no_flows() | {"permutation": flows})
    rotation = tuple(f for v in values for f in v.flows["rotation"])
    ndim = len(output_shapes(node))
    flows_now = out.flows | {"diagonal": (), "rotation": tuple(align(f, ndim) for f in rotation)}
    return out.with_flows(flows_now)


@rule("add", "sub", "rsub", "add_", "sub_")
def _add(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    a, b = operands(args)
    if constant_zero(a, b):
        return replace(a if b.zero else b, shape=output_shapes(node), parameter=None)
    return add(tracer, a, b)


def operands(args: dict[str, Any]) -> tuple[Value, Value]:
    """Return the two operands of a binary operator; a number becomes a uniform value."""
    pair_ = [args["self"], args["other"]]
    a, b = (v if isinstance(v, Value) else Value.plain((), True, v == 0) for v in pair_)
    return a, b


def constant_zero(a: Value, b: Value) -> bool:
    """Say whether one operand is 0 and does not change the other's shape."""
    return (b.zero and len(b.shape) <= len(a.shape) and _covers(a, b)) or (
        a.zero and len(a.shape) <= len(b.shape) and _covers(b, a)
    )


def _covers(a: Value, b: Value) -> bool:
    tail = a.shape[len(a.shape) - len(b.shape) :]
    return all(small in (1, large) for small, large in zip(b.shape, tail, strict=True))


def add(tracer: Tracer, a: Value, b: Value) -> Value:
    """Add: units of both operands become the same units."""
    for value in (a, b):
        tracer.settle(value)
        for dim in range(len(value.shape)):
            tracer.set_role(value, dim, "bias")
    flows = {algebra: pair(tracer, algebra, a, b) for algebra in a.flows}
    return _joined(a, b, flows)


def pair(tracer: Tracer, algebra: str, a: Value, b: Value) -> tuple[Labels, ...]:
    """Unite the flows of two operands that meet on the same dims; treat the rest as must be."""
    classes = tracer.classes[algebra]
    ndim = max(len(a.shape), len(b.shape))
    left = [align(f, ndim) for f in a.flows[algebra]]
    right = [align(f, ndim) for f in b.flows[algebra]]
    out = []
    for f in left:
        match = [g for g in right if set(unit_dims(f)) & set(unit_dims(g))]
        if match:
            right = [g for g in right if g is not match[0]]
            out.append(_meet(tracer, algebra, f, match[0]))
        elif algebra == "permutation":
            classes.refine(f, split_varying(f, b))
            out.append(f)
        else:
            tracer.drop(algebra, f)
            out += [f] if algebra == "rotation" else []
    for g in right:
        if algebra == "permutation":
            classes.refine(g, split_varying(g, a))
            out.append(g)
        else:
            tracer.drop(algebra, g)
            out += [g] if algebra == "rotation" else []
    return tuple(out)


def _meet(tracer: Tracer, algebra: str, f: Labels, g: Labels) -> Labels:
    """Unite two flows; one may hold whole blocks (heads) of the other's units."""
    classes = tracer.classes[algebra]
    if algebra == "permutation" and f.shape != g.shape:
        small, large = (f, g) if f.size < g.size else (g, f)
        if int(small.flat[0]) in classes.blocks:
            classes.contain(small, large)
            classes.refine(large, unit_dims(small))
            return large
    classes.unite(f, g)
    return f if f.size >= g.size else g


def _joined(a: Value, b: Value, flows: Flows) -> Value:
    """Return the broadcast of two values with the given flows."""
    ndim = max(len(a.shape), len(b.shape))
    shape_a = (1,) * (ndim - len(a.shape)) + a.shape
    shape_b = (1,) * (ndim - len(b.shape)) + b.shape
    varies_a = (False,) * (ndim - len(a.shape)) + a.varies
    varies_b = (False,) * (ndim - len(b.shape)) + b.varies
    shape = tuple(max(s, t) for s, t in zip(shape_a, shape_b, strict=True))
    varies = tuple(v or w for v, w in zip(varies_a, varies_b, strict=True))
    return Value(shape, varies, {k: tuple(align(f, ndim) for f in v) for k, v in flows.items()})
