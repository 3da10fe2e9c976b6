# SPDX-License-Identifier: Apache-2.0
"""Batch norms with stored statistics, folded into the linear layer or convolution beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from symfast.compress.attention import put_
from symfast.compress.record import Step
from symfast.compress.units import padded
from symfast.compress.workbench import Workbench
from symfast.find.graph import exact_arithmetic


@dataclass(frozen=True)
class Fold:
    """A batch norm and the layer that takes it over: the one before it, or the one after it."""

    norm: str
    layer: str
    before: bool


def fold_norms(bench: Workbench) -> int:
    r"""Replace batch norms by ``nn.Identity`` and give their factors to a neighbouring layer.

    With ``s = gain / sqrt(var + eps)`` and ``t = bias - mean s``:

    - layer before: ``W'_j = s_j W_j``, ``b'_j = s_j b_j + t_j``
    - layer after, without padding: ``W'_ij = W_ij s_j``, ``b'_i = b_i + sum_j W_ij t_j``

    Neighbours are those that hand each other the same tensor on every input; that nothing else
    reads it is what the check of the outputs shows. Returns the number of norms folded.
    """
    found = _neighbours(bench)
    if not found:
        return 0
    if _attempt(bench, found):
        return len(found)
    return sum(_attempt(bench, [fold]) for fold in found) if len(found) > 1 else 0


def _attempt(bench: Workbench, folds: Sequence[Fold]) -> bool:
    model = bench.copy()
    for fold in folds:
        _fold_(model, fold)
    error, reason = bench.try_change(model)
    kept = error <= bench.limit
    if kept:
        bench.model = model
    names = ", ".join(f"{fold.norm} into {fold.layer}" for fold in folds[:3])
    where = names if len(folds) <= 3 else f"{names} and {len(folds) - 3} more"
    note = "" if kept else reason or "the outputs changed"
    bench.steps.append(Step("batch norm", where, len(folds), error, 0.0, kept, note))
    return kept


def _neighbours(bench: Workbench) -> list[Fold]:
    """Pairs of modules where one's output is the other's input, each called once."""
    made: dict[int, tuple[str, Tensor]] = {}
    links: list[tuple[str, str]] = []
    calls: dict[str, int] = {}
    names = {id(m): name for name, m in bench.model.named_modules() if _may_fold(m)}
    handles = []

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name, x = names[id(module)], args[0] if args else kwargs.get("input")
        calls[name] = calls.get(name, 0) + 1
        if id(x) in made:
            links.append((made[id(x)][0], name))
        made[id(out)] = name, out  # kept alive, so that no other tensor gets its id

    for module in bench.model.modules():
        if id(module) in names:
            handles.append(module.register_forward_hook(watch, with_kwargs=True))
    try:
        with exact_arithmetic(), torch.no_grad():
            args, kwargs = bench.inputs[0]
            bench.model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return _choose(bench.model, [link for link in links if calls[link[0]] == calls[link[1]] == 1])


def _may_fold(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None and module.running_var is not None
    plain = "weight" in module._parameters  # not one that is computed from others
    return isinstance(module, nn.Linear | _ConvNd) and plain


def _choose(model: nn.Module, links: Sequence[tuple[str, str]]) -> list[Fold]:
    """One layer per norm, the one before it if there is one."""
    folds: dict[str, Fold] = {}
    for first, second in links:
        one, two = model.get_submodule(first), model.get_submodule(second)
        if isinstance(two, _BatchNorm) and _writes(one):
            folds[second] = Fold(second, first, before=True)
        elif isinstance(one, _BatchNorm) and _reads(two):
            folds.setdefault(first, Fold(first, second, before=False))
    return list(folds.values())


def _writes(layer: nn.Module) -> bool:
    grouped = isinstance(layer, _ConvNd) and layer.transposed and layer.groups > 1
    return isinstance(layer, nn.Linear | _ConvNd) and not grouped


def _reads(layer: nn.Module) -> bool:
    """Zero padding stands for the value 0 behind the norm, not for its shift."""
    if isinstance(layer, _ConvNd):
        return not layer.transposed and layer.groups == 1 and not padded(layer)
    return isinstance(layer, nn.Linear)


def _fold_(model: nn.Module, fold: Fold) -> None:
    norm, layer = model.get_submodule(fold.norm), model.get_submodule(fold.layer)
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    s = (norm.running_var + norm.eps).rsqrt()
    s = s if norm.weight is None else norm.weight.detach() * s
    t = -norm.running_mean * s
    t = t if norm.bias is None else t + norm.bias.detach()
    weight = layer.get_parameter("weight")
    turned = isinstance(layer, _ConvNd) and layer.transposed
    channel = 0 if fold.before != turned else 1  # a turned weight is (in, out, ...)
    shape = [-1 if dim == channel else 1 for dim in range(weight.ndim)]
    old = layer.bias.detach() if isinstance(layer.bias, nn.Parameter) else None
    if fold.before:
        bias = t if old is None else s * old + t
    else:
        read = weight.detach().flatten(2).sum(2) if weight.ndim > 2 else weight.detach()
        bias = read @ t if old is None else old + read @ t
    with torch.no_grad():
        weight.mul_(s.reshape(shape))
    layer.register_parameter("bias", nn.Parameter(bias, requires_grad=False))
    put_(model, fold.norm, nn.Identity())
