# SPDX-License-Identifier: Apache-2.0
"""The operators behind the functions of mirror.py: schema, fake, gradient and vmap of each.

They see theta as (groups, rows, d) and O as (groups, d, k), one frame per group of rows.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from symfast import ops
from symfast.codes import ACCUMULATE, PROX, SHRINK
from symfast.reference import mirror as formula
from symfast.reference.mirror import MODES, own_dtype

# ---- operators -----------------------------------------------------------------------------------

ops.define("mirror_coefficients", "(Tensor theta, Tensor O) -> Tensor", formula.mirror_coefficients)
ops.define(
    "mirror_apply",
    "(Tensor theta, Tensor O, Tensor amounts, int verb, int mode) -> Tensor",
    formula.mirror_apply,
)
ops.define("mirror_norms", "(Tensor theta, Tensor O) -> Tensor", formula.mirror_norms)
_COEFFICIENTS = torch.ops.symfast.mirror_coefficients.default
_APPLY = torch.ops.symfast.mirror_apply.default
_NORMS = torch.ops.symfast.mirror_norms.default


def _fake_coefficients(theta: Tensor, O: Tensor) -> Tensor:
    formula.check_operands(theta, O)
    return theta.new_empty((theta.shape[0], theta.shape[1], O.shape[2]))


def _fake_norms(theta: Tensor, O: Tensor) -> Tensor:
    formula.check_operands(theta, O)
    return theta.new_empty(theta.shape[:2], dtype=ACCUMULATE[theta.dtype])


def _fake_apply(theta: Tensor, O: Tensor, amounts: Tensor, verb: int, mode: int) -> Tensor:
    formula.check_operands(theta, O)
    formula.check_amounts(theta, amounts, verb, mode)
    return theta.new_empty(theta.shape)


# ---- gradients, written in differentiable operations so that they have gradients themselves ------


def _save_coefficients(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    theta, O = inputs
    ctx.save_for_backward(theta if ctx.needs_input_grad[1] else None, O)
    ctx.theta_dtype = theta.dtype


def _backward_coefficients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    theta, O = ctx.saved_tensors
    wide = ACCUMULATE[ctx.theta_dtype]
    grad = grad.to(wide)
    to_theta = to_frame = None
    with own_dtype(grad.device):
        if ctx.needs_input_grad[0]:
            to_theta = (grad @ O.mT.to(wide)).to(ctx.theta_dtype)
        if theta is not None:
            to_frame = (theta.mT.to(wide) @ grad).to(O.dtype)
    return to_theta, to_frame


def _save_norms(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_norms(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """d||c|| = <c, dc> / ||c||, and zero at distance zero."""
    theta, O = ctx.saved_tensors
    wide = ACCUMULATE[theta.dtype]
    rows, frame = theta.to(wide), O.to(wide)
    c = call_coefficients(rows, frame)
    squares = c.square().sum(-1, keepdim=True)
    nothing = squares == 0
    slope = torch.where(nothing, 0, c / torch.where(nothing, 1, squares).sqrt())
    slope = grad.to(wide).unsqueeze(-1) * slope
    to_theta = to_frame = None
    with own_dtype(grad.device):
        if ctx.needs_input_grad[0]:
            to_theta = (slope @ frame.mT).to(theta.dtype)
        if ctx.needs_input_grad[1]:
            to_frame = (rows.mT @ slope).to(O.dtype)
    return to_theta, to_frame


def _save_apply(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, int], output: Tensor) -> None:
    theta, O, amounts, ctx.verb, ctx.mode = inputs
    needed = ctx.verb == PROX or ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ctx.save_for_backward(theta if needed else None, O, amounts)


def _backward_apply(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    theta, O, amounts = ctx.saved_tensors
    to_theta = to_frame = to_amounts = None
    if ctx.needs_input_grad[0] and ctx.verb != PROX:  # linear and symmetric: its own adjoint
        to_theta = call_apply(grad, O, amounts, ctx.verb, ctx.mode)
    if theta is not None:
        wide = amounts.dtype
        rows, frame, grad_rows = theta.to(wide), O.to(wide), grad.to(wide)
        c, h = call_coefficients(rows, frame), call_coefficients(grad_rows, frame)
        step, slope, to_amounts = _pull_back(c, h, amounts.unsqueeze(-1), ctx.verb, ctx.mode)
        with own_dtype(grad.device):
            if ctx.needs_input_grad[0] and to_theta is None:
                to_theta = (grad_rows + slope @ frame.mT).to(theta.dtype)
            if ctx.needs_input_grad[1]:
                to_frame = (rows.mT @ slope + grad_rows.mT @ step).to(O.dtype)
        to_amounts = to_amounts.sum_to_size(amounts.shape) if ctx.needs_input_grad[2] else None
    return to_theta, to_frame, to_amounts, None, None


def _pull_back(
    c: Tensor, h: Tensor, amount: Tensor, verb: int, mode: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For c -> f(c) - c: its value, its Jacobian on h (symmetric), and <df/damount, h> per row."""
    if verb != PROX:
        factor = amount if verb == SHRINK else amount.new_full((1, 1, 1), 2.0 - verb)
        return -factor * c, -factor * h, -(c * h).sum(-1)
    if mode == MODES["l1"]:
        outside = c.abs() > amount
        sign = torch.where(outside, c.sign(), 0)
        step = torch.where(outside, -amount * sign, -c)
        return step, torch.where(outside, 0, -h), -(sign * h).sum(-1)
    squares = c.square().sum(-1, keepdim=True)
    inside = squares.detach().sqrt() <= amount.detach()
    norm = torch.where(inside, 1, squares).sqrt()
    ratio = torch.where(inside, 1, amount / norm)
    along = torch.where(inside, 0, (c * h).sum(-1, keepdim=True) / norm)
    return -ratio * c, -ratio * h + ratio * along / norm * c, -along.squeeze(-1)


# ---- vmap: a batch of frames becomes groups, a batch under shared frames becomes rows ------------


def _front(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _merge(x: Tensor, by_group: bool) -> Tensor:
    """(batch, groups, rows, ...) -> (batch groups, rows, ...) or (groups, batch rows, ...)."""
    return x.flatten(0, 1) if by_group else x.movedim(0, 1).flatten(1, 2)


def _vmap_read(
    op: Any, info: Any, in_dims: tuple[int | None, ...], theta: Tensor, O: Tensor
) -> tuple[Tensor, int]:
    """Coefficients or norms."""
    by_group = in_dims[1] is not None
    theta = _front(theta, in_dims[0], info.batch_size)
    frames = _front(O, in_dims[1], info.batch_size).flatten(0, 1) if by_group else O
    out = op(_merge(theta, by_group), frames)
    _, groups, rows, _ = theta.shape
    if by_group:
        return out.unflatten(0, (info.batch_size, groups)), 0
    return out.unflatten(1, (info.batch_size, rows)), 1


def _vmap_apply(
    info: Any,
    in_dims: tuple[int | None, ...],
    theta: Tensor,
    O: Tensor,
    amounts: Tensor,
    verb: int,
    mode: int,
) -> tuple[Tensor, int]:
    by_group = in_dims[1] is not None
    theta = _front(theta, in_dims[0], info.batch_size)
    frames = _front(O, in_dims[1], info.batch_size).flatten(0, 1) if by_group else O
    _, groups, rows, _ = theta.shape
    if in_dims[2] is not None or amounts.shape != (1, 1):
        amounts = _front(amounts, in_dims[2], info.batch_size)
        amounts = _merge(amounts.expand(-1, groups, rows), by_group).contiguous()
    out = _APPLY(_merge(theta, by_group), frames, amounts, verb, mode)
    if by_group:
        return out.unflatten(0, (info.batch_size, groups)), 0
    return out.unflatten(1, (info.batch_size, rows)), 1


for _name, _fake, _backward, _save, _vmap in (
    (
        "mirror_coefficients",
        _fake_coefficients,
        _backward_coefficients,
        _save_coefficients,
        partial(_vmap_read, _COEFFICIENTS),
    ),
    ("mirror_norms", _fake_norms, _backward_norms, _save_norms, partial(_vmap_read, _NORMS)),
    ("mirror_apply", _fake_apply, _backward_apply, _save_apply, _vmap_apply),
):
    torch.library.register_fake("symfast::" + _name, _fake, lib=ops.LIBRARY)
    torch.library.register_autograd(
        "symfast::" + _name, _backward, setup_context=_save, lib=ops.LIBRARY
    )
    torch.library.register_vmap("symfast::" + _name, _vmap, lib=ops.LIBRARY)


# ---- calls ---------------------------------------------------------------------------------------


class _Coefficients(torch.autograd.Function):
    """The same gradient for torch.func, which does not take it from torch.library."""

    generate_vmap_rule = True
    forward, backward = staticmethod(_COEFFICIENTS), staticmethod(_backward_coefficients)
    setup_context = staticmethod(_save_coefficients)


class _Norms(torch.autograd.Function):
    generate_vmap_rule = True
    forward, backward = staticmethod(_NORMS), staticmethod(_backward_norms)
    setup_context = staticmethod(_save_norms)


class _Apply(torch.autograd.Function):
    generate_vmap_rule = True
    forward, backward = staticmethod(_APPLY), staticmethod(_backward_apply)
    setup_context = staticmethod(_save_apply)


# torch.library runs an operator's autograd layer in Python (5 us) even when nothing needs a
# gradient. Going below it is what that layer does then; without these names it is merely slower.
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)
_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def _read(op: Any, function: Any, theta: Tensor, O: Tensor) -> Tensor:
    out: Tensor
    if torch.compiler.is_compiling():
        out = op(theta, O)
    elif torch.is_grad_enabled() and (theta.requires_grad or O.requires_grad):
        call: Any = function.apply if _transformed() else op
        out = call(theta, O)
    elif _transformed():
        out = op(theta, O)
    else:
        with _below_autograd():
            out = op(theta, O)
    return out


def call_coefficients(theta: Tensor, O: Tensor) -> Tensor:
    """Call symfast::mirror_coefficients by the shortest way its gradient allows."""
    return _read(_COEFFICIENTS, _Coefficients, theta, O)


def call_norms(theta: Tensor, O: Tensor) -> Tensor:
    """Call symfast::mirror_norms by the shortest way its gradient allows."""
    return _read(_NORMS, _Norms, theta, O)


def call_apply(theta: Tensor, O: Tensor, amounts: Tensor, verb: int, mode: int) -> Tensor:
    """Call symfast::mirror_apply by the shortest way its gradient allows."""
    out: Tensor
    args = theta, O, amounts, verb, mode
    if torch.compiler.is_compiling():
        out = _APPLY(*args)
    elif torch.is_grad_enabled() and (
        theta.requires_grad or O.requires_grad or amounts.requires_grad
    ):
        call: Any = _Apply.apply if _transformed() else _APPLY
        out = call(*args)
    elif _transformed():
        out = _APPLY(*args)
    else:
        with _below_autograd():
            out = _APPLY(*args)
    return out
