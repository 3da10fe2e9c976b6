# SPDX-License-Identifier: Apache-2.0
"""One step of SGD, Adam or AdamW in plain torch, parameter by parameter: csrc/update.h."""

from typing import TypeAlias

import torch
from torch import Tensor

from symfast.codes import ACCUMULATE
from symfast.reference import anchor

SGD, ADAM = range(2)
#: Columns of the settings (rows, 11) and keys (parameters, 4), as in csrc/update.h.
(LR, DECAY, DECOUPLED, FIRST, SECOND, EPS, NESTEROV, SIGN, NOISE, SIGMA, SPREAD) = range(11)
ROW, NOISE_SEED, ANCHOR_SEED, PARAMETER = range(4)
SETTINGS, KEYS = 11, 4

Tensors: TypeAlias = list[Tensor]


def update_(
    rule: int,
    params: Tensors,
    grads: Tensors,
    first: Tensors,
    second: Tensors,
    steps: Tensors,
    settings: Tensor,
    keys: Tensor,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Step on every parameter in place; see `symfast.update` for the arguments.

    Example:
        >>> import torch
        >>> from symfast.reference.update import update_
        >>> p, g = torch.ones(2), torch.ones(2)
        >>> settings = torch.tensor([[0.5, 0, 0, 0, 1, 0, 0, 1, 0, -1, 0]], dtype=torch.float64)
        >>> update_(0, [p], [g], [], [], [], settings, torch.zeros(1, 4, dtype=torch.int64))
        >>> p.tolist()
        [0.5, 0.5]
    """
    check(rule, params, grads, first, second, steps, settings, keys)
    if found_inf is not None and found_inf.item():
        return
    scale = 1.0 if grad_scale is None else float(grad_scale)
    rows = settings.tolist()
    for t, key in enumerate(keys.tolist()):
        if steps:
            steps[t].add_(1)
        step = float(steps[t]) if steps else 1.0
        state = [states[t] for states in (first, second) if states]
        _step(rule, params[t], grads[t], state, rows[key[ROW]], key, step, scale)


def check(
    rule: int,
    params: Tensors,
    grads: Tensors,
    first: Tensors,
    second: Tensors,
    steps: Tensors,
    settings: Tensor,
    keys: Tensor,
) -> None:
    """Refuse lists that do not belong together, before anything is changed.

    Raises:
        RuntimeError: in words.

    Example:
        >>> import torch
        >>> from symfast.reference.update import check
        >>> s, k = torch.zeros(1, 11, dtype=torch.float64), torch.zeros(0, 4, dtype=torch.int64)
        >>> check(0, [], [], [], [], [], s, k)
    """
    if rule not in (SGD, ADAM):
        raise RuntimeError(f"symfast: rule {rule} is not 0 (SGD) or 1 (Adam)")
    _check_counts(rule, len(params), (grads, first, second, steps), settings, keys)
    for p in params:
        if p.dtype != params[0].dtype or p.dtype not in ACCUMULATE:
            raise RuntimeError("symfast: the parameters of one step must have one floating dtype")
    for tensors in (grads, first, second):
        for i, (tensor, p) in enumerate(zip(tensors, params, strict=False)):
            alike = tensor.dtype == p.dtype and tensor.device == p.device
            if not alike or tensor.shape != p.shape or tensor.stride() != p.stride():
                raise RuntimeError(
                    f"symfast: what belongs to parameter {i} must have its dtype, device, sizes "
                    f"and strides; got {tuple(tensor.shape)} for {tuple(p.shape)}"
                )


def _check_counts(
    rule: int, n: int, lists: tuple[Tensors, ...], settings: Tensor, keys: Tensor
) -> None:
    """Refuse tables and lists of other lengths than n parameters have."""
    if settings.shape[1:] != (SETTINGS,) or keys.shape != (n, KEYS):
        raise RuntimeError(
            f"symfast: settings must have shape (rows, {SETTINGS}) and keys ({n}, {KEYS}), got "
            f"{tuple(settings.shape)} and {tuple(keys.shape)}"
        )
    allowed: dict[str, tuple[int, ...]] = {
        "gradients": (n,),
        "first states": (n,),
        "second states": (n,),
        "steps": (n,),
    }
    if rule == SGD:
        allowed |= {"first states": (n, 0), "second states": (0,), "steps": (n, 0)}
    for (what, counts), tensors in zip(allowed.items(), lists, strict=True):
        if len(tensors) not in counts:
            raise RuntimeError(f"symfast: there are {len(tensors)} {what} for {n} parameters")


def _step(
    rule: int,
    param: Tensor,
    grad: Tensor,
    state: list[Tensor],
    row: list[float],
    key: list[int],
    step: float,
    scale: float,
) -> None:
    wide = ACCUMULATE[param.dtype]
    p, g = param.to(wide), grad.to(wide) * (row[SIGN] / scale)
    if row[NOISE]:
        z = anchor.noise_normals(key[NOISE_SEED], key[PARAMETER], int(step), _order(param))
        g = g + row[NOISE] * z.to(wide)
    if row[DECAY]:
        pull = row[DECAY] * (p if row[SIGMA] < 0 else _away(p, param, row, key))
        if row[DECOUPLED]:
            p = p - row[LR] * pull
        else:
            g = g + pull
    wide_state = [s.to(wide) for s in state]
    p = _sgd(p, g, wide_state, row) if rule == SGD else _adam(p, g, wide_state, row, step)
    param.copy_(p)
    for s, new in zip(state, wide_state, strict=True):
        s.copy_(new)


def _sgd(p: Tensor, g: Tensor, state: list[Tensor], row: list[float]) -> Tensor:
    if row[FIRST]:
        state[0] = (state[0] * row[FIRST]).add(g, alpha=row[SECOND])
        g = g.add(state[0], alpha=row[FIRST]) if row[NESTEROV] else state[0]
    return p.add(g, alpha=-row[LR])


def _adam(p: Tensor, g: Tensor, state: list[Tensor], row: list[float], step: float) -> Tensor:
    beta1, beta2 = row[FIRST], row[SECOND]
    m = state[0] = state[0] + (1 - beta1) * (g - state[0])
    v = state[1] = beta2 * state[1] + (1 - beta2) * g * g
    size = v.sqrt() / float((1 - beta2**step) ** 0.5) + row[EPS]
    rate = float(row[LR] / (1 - beta1**step))
    return p - rate * (m / size)


def _order(param: Tensor) -> Tensor:
    """The number of every element in the order of memory."""
    numbers = torch.empty_like(param, dtype=torch.int64, memory_format=torch.preserve_format)
    flat = torch.arange(param.numel(), device=param.device)
    numbers.as_strided((param.numel(),), (1,), numbers.storage_offset()).copy_(flat)
    return numbers


def _away(p: Tensor, param: Tensor, row: list[float], key: list[int]) -> Tensor:
    """``D (p - a)``."""
    seed, number, order = key[ANCHOR_SEED], key[PARAMETER], _order(param)
    away = p - row[SIGMA] * anchor.anchor_normals(seed, number, order).to(p.dtype)
    if row[SPREAD]:
        away = away * (1 + row[SPREAD] * anchor.anchor_spreads(seed, number, order).to(p.dtype))
    return away
