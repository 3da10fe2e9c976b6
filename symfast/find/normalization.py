# SPDX-License-Identifier: Apache-2.0
"""Propagation through batch, layer, group and root-mean-square norms (evaluation mode)."""

from typing import Any

import numpy as np
from torch import fx

from symfast.find.classes import RESCALE, ROTATION, SIGN
from symfast.find.elementwise import add, pair
from symfast.find.product import multiply
from symfast.find.tracer import Tracer, operator_name, rule
from symfast.find.value import Value, unit_dims


def _vector(tracer: Tracer, value: Value | None, dim: int, ndim: int) -> Value | None:
    """Lay a norm's weight along the channels; None if there is none."""
    if value is None:
        return None
    if value.parameter is not None and len(value.shape) == 1:
        return tracer.vector(value.parameter, dim, ndim)
    shape = [value.shape[0] if d == dim else 1 for d in range(ndim)]
    flows = {a: tuple(f.reshape(shape) for f in v) for a, v in value.flows.items()}
    varies = tuple(d == dim and value.varies[0] for d in range(ndim))
    return Value(tuple(shape), varies, flows)


def _affine(tracer: Tracer, x: Value, weight: Value | None, bias: Value | None) -> Value:
    out = x if weight is None else multiply(tracer, x, weight)
    if bias is None:
        return out
    for dim in range(len(bias.shape)):
        tracer.set_role(bias, dim, "norm" if weight is not None else "bias")
    return add(tracer, out, bias)


@rule("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """Y = gain (x - mean) / sqrt(var + eps) + bias, with stored mean and var."""
    x, ndim = args["input"], len(args["input"].shape)
    mean = _vector(tracer, args.get("running_mean"), 1, ndim)
    var = _vector(tracer, args.get("running_var"), 1, ndim)
    weight = _vector(tracer, args.get("weight"), 1, ndim)
    bias = _vector(tracer, args.get("bias"), 1, ndim)
    if mean is None or var is None or args.get("training"):
        tracer.note(f"batch norm in {tracer.here} uses statistics of the batch: no rescaling")
        x = _normalize(tracer, x, (0, *range(2, ndim)))
    else:
        for statistic in (mean, var):
            tracer.set_role(statistic, 1, "norm")
        flows = pair(tracer, "permutation", x, var)
        tracer.forbid(var, SIGN | RESCALE | ROTATION, ("diagonal", "rotation"))
        tracer.forbid(x, ROTATION, ("rotation",))
        x = x.with_flows(x.flows | {"permutation": flows})
        x = add(tracer, x, mean)
    return _affine(tracer, x, weight, bias)


def _normalize(tracer: Tracer, x: Value, dims: tuple[int, ...], center: bool = True) -> Value:
    """Subtract the mean (if ``center``) and divide by the spread, over ``dims``.

    Units along ``dims`` keep permutations; without centering also signs and rotations. Units
    along other dims keep permutations and signs. The spread has an eps, so no scale is free.
    """
    tracer.settle(x)
    for f in x.flows["diagonal"]:
        inside = set(unit_dims(f)) & set(dims)
        tracer.classes["diagonal"].forbid(f, RESCALE | (SIGN if inside and center else 0))
    for f in x.flows["rotation"]:
        if center or not set(unit_dims(f)) <= set(dims):
            tracer.drop("rotation", f)
    for f in x.flows["permutation"]:
        outside = tuple(dim for dim in unit_dims(f) if dim not in dims)
        if set(unit_dims(f)) & set(dims):
            tracer.classes["permutation"].refine(f, outside)
    return x.with_flows(x.flows)


@rule("layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    x = args["input"]
    count = len(args["normalized_shape"])
    dims = tuple(range(len(x.shape) - count, len(x.shape)))
    center = operator_name(node) == "layer_norm"
    weight = args.get("weight")
    if weight is not None and weight.parameter is not None and not center:
        gain = tracer.tensors[weight.parameter]
        if bool((gain != gain.flatten()[0]).any()):
            tracer.note(f"RMS norm in {tracer.here}: unequal gains leave no rotation before it")
    return _affine(tracer, _normalize(tracer, x, dims, center), weight, args.get("bias"))


@rule("group_norm", "instance_norm")
def _group_norm(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    del node
    x = args["input"]
    channels, ndim = x.shape[1], len(x.shape)
    groups = args.get("num_groups", channels)
    weight = _vector(tracer, args.get("weight"), 1, ndim)
    bias = _vector(tracer, args.get("bias"), 1, ndim)
    if groups == channels:
        return _affine(tracer, _normalize(tracer, x, tuple(range(2, ndim))), weight, bias)
    if groups > 1:
        place = np.arange(channels) // (channels // groups)
        for algebra in ("permutation", "diagonal"):
            for f in x.flows[algebra]:
                if f.shape[1] > 1:
                    _split(tracer, algebra, f, place)
    out = _normalize(tracer, x, tuple(range(1, ndim)))
    return _affine(tracer, out, weight, bias)


def _split(tracer: Tracer, algebra: str, f: np.ndarray, place: np.ndarray) -> None:
    """Keep the channels of different norm groups apart."""
    classes = tracer.classes[algebra]
    moved = np.moveaxis(f, 1, 0)
    groups = int(place.max()) + 1
    grouped = moved.reshape(groups, -1)
    classes.refine(grouped, (0,))
