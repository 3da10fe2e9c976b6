# SPDX-License-Identifier: Apache-2.0
"""Options of the optimizers, checked at construction in torch's words where torch has words."""

from typing import Any

import torch

from symfast.anchor import Anchor
from symfast.codes import ACCUMULATE

#: What every optimizer here understands beyond torch's, and the values without it.
EXTRAS: dict[str, Any] = {
    "noise": 0.0, "seed": 0, "anchor": None, "constraint": "project", "strength": 0.0,
    "mode": "l1", "symmetry": None,
}  # fmt: skip
CONSTRAINTS = ("project", "shrink", "prox")


def check_group(group: dict[str, Any]) -> None:
    """Refuse impossible options of one parameter group; an Anchor becomes plain data.

    Raises:
        ValueError, RuntimeError, TypeError: in words.

    Example:
        >>> from symfast.optim.check import EXTRAS, check_group
        >>> check_group({"lr": 0.1, "weight_decay": 0.0, **EXTRAS})
    """
    lr = group["lr"]
    if isinstance(lr, torch.Tensor):
        if lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
    elif not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")
    for name, word in (("weight_decay", "weight_decay"), ("noise", "noise"), ("eps", "epsilon"),
                       ("momentum", "momentum"), ("strength", "strength")):  # fmt: skip
        value = group.get(name, 0.0)
        if not isinstance(value, torch.Tensor) and not value >= 0.0:
            raise ValueError(f"Invalid {word} value: {value}")
    for i, beta in enumerate(group.get("betas", ())):
        if isinstance(beta, torch.Tensor):
            raise ValueError(f"betas[{i}] is a Tensor; give a number")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    if group.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`: the step is one kernel")
    if group.get("fused") and group.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if group.get("amsgrad"):
        raise RuntimeError("amsgrad is not supported; use torch.optim.Adam and plan.project_()")
    if group.get("nesterov") and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
    if group["constraint"] not in CONSTRAINTS:
        raise ValueError(
            f'constraint must be "project", "shrink" or "prox", got {group["constraint"]!r}'
        )
    if group["mode"] not in ("l1", "group"):
        raise ValueError(f'mode must be "l1" or "group", got {group["mode"]!r}')
    if group["mode"] == "group" and group["constraint"] != "prox":
        raise ValueError('mode="group" is a form of constraint="prox"; give both')
    _check_random(group)


def shared(groups: list[dict[str, Any]], name: str) -> Any:
    """The value of an option that all groups must share.

    Raises:
        ValueError: if they do not.

    Example:
        >>> from symfast.optim.check import shared
        >>> shared([{"mode": "l1"}, {"mode": "l1"}], "mode")
        'l1'
    """
    values = {group[name] for group in groups}
    if len(values) > 1:
        raise ValueError(f"all groups must have one {name}, got {sorted(values)}")
    return values.pop()


def _check_random(group: dict[str, Any]) -> None:
    if not isinstance(group["seed"], int) or not 0 <= group["seed"] < 1 << 64:
        raise ValueError(f"Invalid seed: {group['seed']!r}, it must be a whole number of 64 bits")
    anchor = group["anchor"]
    if isinstance(anchor, dict):
        anchor = Anchor(**anchor)
    if anchor is None:
        return
    if not isinstance(anchor, Anchor):
        raise TypeError(f"anchor must be a symfast.Anchor, got {type(anchor).__name__}")
    if not group["weight_decay"]:
        raise ValueError("an anchor is what weight decay pulls to: give weight_decay > 0 as well")
    group["anchor"] = anchor.to_dict()  # plain data, so that checkpoints load with weights_only


def check_param(param: torch.Tensor) -> None:
    """Refuse a parameter that no step works on.

    Raises:
        RuntimeError: if it is sparse, complex or of another dtype than those of the kernels.

    Example:
        >>> import torch
        >>> from symfast.optim.check import check_param
        >>> check_param(torch.zeros(2))
    """
    if param.layout != torch.strided:
        raise RuntimeError(f"sparse parameters ({param.layout}) are not supported")
    if param.is_complex():
        raise RuntimeError("complex parameters are not supported; train torch.view_as_real of them")
    if param.dtype not in ACCUMULATE:
        raise RuntimeError(
            f"parameters of {param.dtype} are not supported; give float64, float32, bfloat16 or "
            "float16"
        )


def check_drawn(param: torch.Tensor, group: dict[str, Any]) -> None:
    """Refuse random numbers for a parameter of which a process holds only a part.

    Noise and anchor are drawn by the number of an element, counted here from the first that this
    process has: shards would draw the same numbers.

    Raises:
        RuntimeError: in words.

    Example:
        >>> import torch
        >>> from symfast.optim.check import check_drawn
        >>> check_drawn(torch.zeros(2), {"noise": 0.1, "anchor": None})
    """
    if not group["noise"] and group["anchor"] is None:
        return
    placements = getattr(param, "placements", ())
    if any(placement.is_shard() for placement in placements):
        raise RuntimeError(
            f"noise= and anchor= are not supported for a parameter that is sharded over processes "
            f"(shape {tuple(param.shape)}, {placements}): every shard would draw the same numbers. "
            "sf.remove_symmetry keeps anchors of shards; noise wants whole parameters (DDP)"
        )


def check_grad(grad: torch.Tensor, name: str) -> None:
    """Refuse a gradient that no step works on.

    Raises:
        RuntimeError: if it is sparse.

    Example:
        >>> import torch
        >>> from symfast.optim.check import check_grad
        >>> check_grad(torch.zeros(2), "SGD")
    """
    if grad.layout != torch.strided:
        raise RuntimeError(f"{name} does not support sparse gradients; use sparse=False")
