# SPDX-License-Identifier: Apache-2.0
"""Propagation through convolutions, plain, grouped, depthwise and transposed, and pooling."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from symfast.find.classes import ALGEBRAS, RESCALE, Key
from symfast.find.contraction import contract
from symfast.find.elementwise import add, unary
from symfast.find.product import multiply
from symfast.find.tracer import Tracer, operator_name, output_shapes, rule
from symfast.find.value import Value, no_flows, unit_dims

TURNED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@rule("conv1d", "conv2d", "conv3d", "convolution", *TURNED)
def _convolution(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """Sum over channels; the dims of the kernel and of space have no units."""
    x, weight, bias = args["input"], args["weight"], args.get("bias")
    turned = "transpose" in operator_name(node) or bool(args.get("transposed", False))
    groups, shape = args.get("groups", 1), output_shapes(node)
    space = len(weight.shape) - 2
    for value, start in ((x, len(x.shape) - space), (weight, 2)):
        _fix_space(tracer, value, start)
    if groups == 1:
        out = _dense(tracer, x, weight, turned, space)
    elif weight.shape[1] == 1 and weight.shape[0] == groups:
        out = _depthwise(tracer, x, weight, space)
    else:
        out = _grouped(tracer, x, weight, turned, groups)
    channel = len(shape) - space - 1
    varies = tuple(size > 1 and dim != channel for dim, size in enumerate(shape))
    kept = tuple(v or (d == channel and out.varies[d]) for d, v in enumerate(varies))
    out = Value(shape, kept, out.flows)
    if bias is None:
        return out
    if bias.parameter is not None:
        return add(tracer, out, tracer.vector(bias.parameter, channel, len(shape)))
    tracer.pin([out, bias])
    return out


def _fix_space(tracer: Tracer, value: Value, start: int) -> None:
    """Pin units that run along space: a kernel mixes neighbours."""
    tracer.settle(value)
    for algebra in ALGEBRAS:
        for f in value.flows[algebra]:
            if any(dim >= start for dim in unit_dims(f)):
                tracer.drop(algebra, f)


def _dense(tracer: Tracer, x: Value, weight: Value, turned: bool, space: int) -> Value:
    ndim = len(x.shape)
    far, near = "uvw"[:space], "xyz"[:space]
    batch = "n" if ndim == space + 2 else ""
    clean = _without_space(x, ndim - space)
    kernel = _without_space(weight, 2)
    order = f"co{near}" if turned else f"oc{near}"
    return contract(tracer, clean, kernel, f"{batch}c{far},{order}->{batch}o{far}")


def _without_space(value: Value, start: int) -> Value:
    flows = {
        a: tuple(f for f in v if all(dim < start for dim in unit_dims(f)))
        for a, v in value.flows.items()
    }
    return replace(value, flows=flows)


def _depthwise(tracer: Tracer, x: Value, weight: Value, space: int) -> Value:
    """One filter per channel: the filter is the channel's gain."""
    channel = len(x.shape) - space - 1
    clean = _without_space(x, channel + 1)
    flows = no_flows()
    shape = [weight.shape[0] if d == channel else 1 for d in range(len(x.shape))]
    for algebra in ALGEBRAS:
        own = [f for f in weight.flows[algebra] if unit_dims(f) == (0,)]
        flows[algebra] = tuple(f.reshape(shape) for f in own)
    axes = tuple(0 if d == channel else None for d in range(len(x.shape)))
    gain = Value(tuple(shape), (False,) * len(shape), flows, weight.parameter, axes)
    for labels in clean.flows["rotation"]:
        tracer.drop("rotation", labels)
    tracer.set_role(weight, 0, "norm")
    return multiply(tracer, clean, gain)


def _grouped(tracer: Tracer, x: Value, weight: Value, turned: bool, groups: int) -> Value:
    """Groups of channels: written units mix within a group, read ones are a part of the weight."""
    space = len(weight.shape) - 2
    channel = len(x.shape) - space - 1
    out_shape = [1] * len(x.shape)
    flows = no_flows()
    if weight.parameter is None:
        tracer.pin([x, weight])
        return Value.plain(tuple(x.shape))
    name, rows, columns = weight.parameter, weight.shape[0], weight.shape[1]
    block = rows // groups
    tracer.roles.setdefault((name, 0), "out" if turned else "in")
    tracer.roles.setdefault((name, 1), "in" if turned else "out")
    for algebra, classes in tracer.classes.items():
        tracer.drop(algebra, classes.axis(Key(name, 1), columns))  # only its parts are free
        whole = classes.axis(Key(name, 0), rows).reshape(groups, block)
        classes.refine(whole, (0,))
        parts = [Key(name, 1, within=(0, g * block, (g + 1) * block)) for g in range(groups)]
        inner = np.stack([classes.axis(part, columns) for part in parts])
        classes.refine(inner, (0,))
        read, written = (whole, inner) if turned else (inner, whole)
        met = [f for f in x.flows[algebra] if unit_dims(f) == (channel,)]
        for f in x.flows[algebra]:
            if not any(f is g for g in met[:1]):
                tracer.drop(algebra, f)
        if met:
            sorted_ = met[0].reshape(groups, -1)
            classes.unite(sorted_, read, inverse=True)
            classes.refine(sorted_, (0,))
        else:
            tracer.drop(algebra, read)
        out_shape[channel] = written.size
        flows[algebra] = (written.reshape(out_shape),)
    return Value(tuple(out_shape), (False,) * len(out_shape), flows)


AVERAGES = ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
AVERAGES_MORE = ("upsample_nearest2d", "upsample_bilinear2d", "adaptive_avg_pool3d", "mean_pool")
MAXIMA = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "adaptive_max_pool1d")


@rule(*AVERAGES, *AVERAGES_MORE, *MAXIMA, "upsample_nearest1d", "max_pool2d_with_indices")
def _pool(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Any:
    """Average or take the largest of neighbours in space."""
    x = args.get("self", args.get("input"))
    assert isinstance(x, Value)
    value = node.meta["val"]
    several = isinstance(value, (list, tuple))
    shape = tuple(value[0].shape if several else value.shape)
    free = 2 if "1d" not in operator_name(node) else len(shape) - 1
    free = min(free, len(shape))
    _fix_space(tracer, x, free)
    clean = _without_space(x, free)
    if "max" in operator_name(node):
        clean = unary(tracer, clean, RESCALE, "max_pool")
    varies = tuple(
        v if d < free else size > 1 for d, (v, size) in enumerate(zip(x.varies, shape, strict=True))
    )
    out = Value(shape, varies, clean.flows)
    return [out, Value.plain(shape)] if several else out


@rule("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "replication_pad1d")
def _pad(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """Pad with zeros or with copies; units that run along a padded dim are fixed."""
    x = args.get("self", args.get("input"))
    assert isinstance(x, Value)
    shape = output_shapes(node)
    padded = {dim for dim, size in enumerate(shape) if size != x.shape[dim]}
    tracer.settle(x)
    flows = no_flows()
    plain = args.get("value") in (None, 0)
    for algebra in ALGEBRAS:
        for f in x.flows[algebra]:
            if padded & set(unit_dims(f)) or not (plain or algebra == "permutation"):
                tracer.drop(algebra, f)
            else:
                flows[algebra] += (f,)
    varies = tuple(v or dim in padded for dim, v in enumerate(x.varies))
    return Value(shape, varies, flows)
