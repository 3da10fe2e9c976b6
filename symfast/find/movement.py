# SPDX-License-Identifier: Apache-2.0
"""Propagation through operators that only move entries, and through reductions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from symfast.find.classes import ALGEBRAS, EVERY_KIND, PINNED, RESCALE, SIGN, Labels
from symfast.find.elementwise import unary
from symfast.find.tracer import Tracer, operator_name, output_shapes, rule, split_varying
from symfast.find.value import Flows, Value, compress, no_flows, unit_dims

VIEWS = ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_copy", "squeeze")
VIEWS_MORE = ("unsqueeze", "transpose", "permute", "t", "numpy_T", "movedim", "swapaxes", "select")
VIEWS_REST = ("slice", "narrow", "expand", "expand_as", "repeat", "repeat_interleave", "flip")
MOVES = ("roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "chunk")
MOVES_MORE = ("split", "split_with_sizes", "unbind", "tensor_split", "unfold", "view_as", "tile")
MOVES_REST = ("diagonal", "unsafe_chunk", "unsafe_split", "reshape_as", "swapdims", "moveaxis")
MOVES_LAST = ("mT", "mH", "adjoint", "matrix_H")


@rule(*VIEWS, *VIEWS_MORE, *VIEWS_REST, *MOVES, *MOVES_MORE, *MOVES_REST, *MOVES_LAST)
def _move(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Any:
    """Run the operator itself on labels: the label of an entry moves with the entry."""
    found: list[Value] = []
    _collect(args, found)
    for value in found:
        tracer.settle(value)
    target = node.target
    assert callable(target)

    def run(replacements: list[Tensor]) -> list[Tensor]:
        out = target(**_swap(args, iter(replacements)))
        return [out] if isinstance(out, Tensor) else list(out)

    flows = {algebra: _moved(algebra, found, run) for algebra in ALGEBRAS}
    outs = []
    for number, moved in enumerate(run([_variation(value) for value in found])):
        own = {a: tuple(f[number] for f in flows[a]) for a in ALGEBRAS}
        kept: Flows = {a: tuple(f for f in own[a] if _matters(f)) for a in ALGEBRAS}
        shape = tuple(moved.shape)
        spread = tuple(_differs(moved, dim) for dim in range(len(shape)))
        outs.append(Value(shape, spread, kept, zero=all(v.zero for v in found)))
    return outs if isinstance(node.meta["val"], (list, tuple)) else outs[0]


def _matters(f: Labels) -> bool:
    return f.size > 1 or int(f.flat[0]) > 1


def _collect(item: Any, found: list[Value]) -> None:
    if isinstance(item, Value):
        found.append(item)
    elif isinstance(item, dict):
        for part in item.values():
            _collect(part, found)
    elif isinstance(item, (list, tuple)):
        for part in item:
            _collect(part, found)


def _swap(item: Any, supply: Any) -> Any:
    if isinstance(item, Value):
        return next(supply)
    if isinstance(item, dict):
        return {key: _swap(part, supply) for key, part in item.items()}
    if isinstance(item, (list, tuple)):
        return [_swap(part, supply) for part in item]
    return item


def _variation(value: Value) -> Tensor:
    """Return an index that differs exactly along the dims on which the value varies."""
    shape = [size if v else 1 for size, v in zip(value.shape, value.varies, strict=True)]
    count = int(np.prod(shape))
    return torch.arange(1, count + 1).reshape(shape).expand(value.shape).contiguous()


def _differs(moved: Tensor, dim: int) -> bool:
    if moved.shape[dim] < 2:
        return False
    return bool((moved != moved.narrow(dim, 0, 1)).any())


Run = Callable[[list[Tensor]], list[Tensor]]


def _moved(algebra: str, found: list[Value], run: Run) -> tuple[list[Labels], ...]:
    """Move the flows of one algebra; flow i of each operand goes with flow i of the others."""
    count = max((len(value.flows[algebra]) for value in found), default=0)
    results = []
    for number in range(count):
        tensors = []
        for value in found:
            flows = value.flows[algebra]
            blank = np.full((1,) * len(value.shape), PINNED, dtype=np.int64)
            labels = flows[number] if number < len(flows) else blank
            full = np.broadcast_to(labels, value.shape)
            tensors.append(torch.from_numpy(np.array(full, order="C")))
        results.append([compress(out.numpy()) for out in run(tensors)])
    return tuple(results)


@rule("cat", "concat", "stack")
def _cat(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """Join along a dim: units along it are listed one after the other, others are united."""
    values = [tracer.settle(v) for v in args["tensors"] if v.shape != (0,)]
    shape = output_shapes(node)
    dim = args.get("dim", 0) % len(shape)
    if operator_name(node) == "stack":
        values = [_unsqueezed(v, dim) for v in values]
    flows = {a: (*_listed(a, values, dim), *_united(tracer, a, values, dim)) for a in ALGEBRAS}
    varies = [any(v.varies[d] for v in values) for d in range(len(shape))]
    # parts without units differ from each other along the dim
    varies[dim] = varies[dim] or (len(values) > 1 and not flows["permutation"])
    return Value(shape, tuple(varies), flows, zero=all(v.zero for v in values))


def _unsqueezed(value: Value, dim: int) -> Value:
    def grow(shape: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
        return (*shape[:dim], item, *shape[dim:])

    flows = {a: tuple(f.reshape(grow(f.shape, 1)) for f in v) for a, v in value.flows.items()}
    return Value(grow(value.shape, 1), grow(value.varies, False), flows, zero=value.zero)


def _listed(algebra: str, values: list[Value], dim: int) -> list[Labels]:
    along = [[f for f in v.flows[algebra] if f.shape[dim] > 1] for v in values]
    out = []
    for number in range(max(len(flows) for flows in along)):
        parts = []
        for value, flows in zip(values, along, strict=True):
            blank = np.full((1,) * len(value.shape), PINNED, dtype=np.int64)
            f = flows[number] if number < len(flows) else blank
            full = list(f.shape)
            full[dim] = value.shape[dim]
            parts.append(np.broadcast_to(f, full))
        wide = np.max([part.shape for part in parts], axis=0)
        sizes = [[*wide[:dim], part.shape[dim], *wide[dim + 1 :]] for part in parts]
        spread = [np.broadcast_to(p, s) for p, s in zip(parts, sizes, strict=True)]
        out.append(np.concatenate(spread, axis=dim))
    return out


def _united(tracer: Tracer, algebra: str, values: list[Value], dim: int) -> list[Labels]:
    """Unite the units that run along other dims; parts without such units must be uniform."""
    across = [[f for f in v.flows[algebra] if f.shape[dim] == 1] for v in values]
    out: list[Labels] = []
    for flows in across:
        for f in flows:
            same = [g for g in out if unit_dims(g) == unit_dims(f)]
            if same:
                tracer.classes[algebra].unite(f, same[0])
            else:
                out.append(f)
    for f in out:
        for value, flows in zip(values, across, strict=True):
            if any(unit_dims(g) == unit_dims(f) for g in flows) or value.zero:
                continue
            if algebra == "permutation":
                tracer.classes[algebra].refine(f, split_varying(f, value))
            else:
                tracer.drop(algebra, f)
    return out


REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "any", "all")
REDUCTIONS_MORE = ("linalg_vector_norm", "logsumexp", "norm", "argmax", "argmin")


@rule(*REDUCTIONS, *REDUCTIONS_MORE)
def _reduce(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Any:
    x, name = args["self"], operator_name(node)
    other = args.get("other")
    if isinstance(other, Value):
        tracer.pin([x, other])
        return Value.plain(output_shapes(node))
    dims = args.get("dim")
    ndim = len(x.shape)
    listed = range(ndim) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    gone = tuple(sorted(dim % ndim for dim in listed)) if ndim else ()
    value = reduce(tracer, x, gone, name, bool(args.get("keepdim", False)))
    several = isinstance(node.meta["val"], (list, tuple))
    return [value, Value.plain(value.shape)] if several else value


KEEPS = dict.fromkeys(("mean", "sum"), EVERY_KIND)
KEEPS |= dict.fromkeys(("amax", "amin", "max", "min"), RESCALE)


def reduce(tracer: Tracer, x: Value, gone: tuple[int, ...], name: str, keepdim: bool) -> Value:
    """Reduce over dims: units along them are read, units along others pass."""
    flows = no_flows()
    norm = name in ("linalg_vector_norm", "norm")
    linear = name in ("mean", "sum")
    for algebra, classes in tracer.classes.items():
        for f in x.flows[algebra]:
            inside = [dim for dim in unit_dims(f) if dim in gone]
            outside = tuple(dim for dim in unit_dims(f) if dim not in gone)
            if not inside:
                flows[algebra] += (f,)
            elif algebra == "permutation":
                classes.refine(f, outside)
            elif norm and set(unit_dims(f)) <= set(gone):
                classes.forbid(f, RESCALE)
            else:
                tracer.drop(algebra, f)
        for f in x.even[algebra]:
            if not (linear and set(unit_dims(f)) <= set(gone)):
                tracer.drop(algebra, f)
    if not linear:
        unary(tracer, x.with_flows(flows), KEEPS.get(name, 0), name)
    keep = [dim for dim in range(len(x.shape)) if keepdim or dim not in gone]
    cut = {a: tuple(_without(f, gone, keepdim) for f in v) for a, v in flows.items()}
    shape = tuple(1 if dim in gone else x.shape[dim] for dim in keep)
    # where units are read block by block, the blocks differ
    apart = {
        d for f in x.flows["permutation"] for d in unit_dims(f) if set(unit_dims(f)) & set(gone)
    }
    varies = tuple(dim not in gone and (x.varies[dim] or dim in apart) for dim in keep)
    return Value(shape, varies, cut)


def _without(f: Labels, gone: tuple[int, ...], keepdim: bool) -> Labels:
    return f if keepdim else f.reshape([s for dim, s in enumerate(f.shape) if dim not in gone])


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "flip_")
def _along(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    x, dim, name = args["self"], args["dim"] % max(len(args["self"].shape), 1), operator_name(node)
    if name in ("cumsum", "cumprod"):
        for algebra, flows in x.flows.items():
            for f in flows:
                if dim in unit_dims(f) or (algebra == "rotation" and name == "cumprod"):
                    tracer.drop(algebra, f)
        tracer.settle(x)
        keeps = SIGN | RESCALE if name == "cumsum" else 0
        return x.with_flows(x.flows) if keeps else unary(tracer, x, 0, name)
    return unary(tracer, x, 0, name)


@rule("embedding")
def _embedding(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    weight = args["weight"]
    tracer.settle(weight)
    tracer.set_role(weight, 1, "in")
    shape = output_shapes(node)
    flows = no_flows()
    for algebra in ALGEBRAS:
        for f in weight.flows[algebra]:
            if f.shape[0] > 1:  # rows are chosen by the input
                tracer.drop(algebra, f)
            else:
                flows[algebra] += (f.reshape((1,) * (len(shape) - 1) + (-1,)),)
    varies = tuple(size > 1 for size in shape[:-1]) + (weight.varies[1],)
    return Value(shape, varies, flows)


@rule("index", "index_select")
def _index(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    x, indices = args["self"], args.get("indices")
    if indices is None:
        indices = [None] * (args["dim"] % len(x.shape)) + [args["index"]]
    used = [dim for dim, index in enumerate(indices) if index is not None]
    shape = output_shapes(node)
    tracer.settle(x)
    if len(used) != 1:
        tracer.pin([x])
        return Value.plain(shape)
    dim, flows = used[0], no_flows()
    extra = len(shape) - len(x.shape)
    for algebra in ALGEBRAS:
        for f in x.flows[algebra]:
            if f.shape[dim] > 1:
                tracer.drop(algebra, f)
            else:
                grown = f.shape[:dim] + (1,) * (extra + 1) + f.shape[dim + 1 :]
                flows[algebra] += (f.reshape(grown),)
    varies = x.varies[:dim] + (True,) * (extra + 1) + x.varies[dim + 1 :]
    return Value(shape, varies, flows)


@rule("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones")
def _filled(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    del tracer
    zero = "zeros" in operator_name(node) or args.get("fill_value") == 0
    return Value.plain(output_shapes(node), uniform=True, zero=zero)


@rule("scalar_tensor", "new_full", "arange", "triu", "tril", "eye", "linspace")
def _made(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    tracer.pin(list(args.values()))
    return Value.plain(output_shapes(node))
