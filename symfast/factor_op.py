# SPDX-License-Identifier: Apache-2.0
"""The operators of product factors: schema, fake, gradient and vmap of each."""

from typing import Any

import torch
from torch import Tensor

from symfast import ops
from symfast.reference import factor as formula

ops.define("factor_product", "(Tensor[] factors) -> Tensor", formula.factor_product)
ops.define(
    "factor_gradients", "(Tensor gradient, Tensor[] factors) -> Tensor[]", formula.factor_gradients
)
ops.define(
    "factor_step_",
    "(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] factors, Tensor(c!)[] velocities, "
    "Tensor settings, int[] rows) -> ()",
    formula.factor_step_,
)
_PRODUCT = torch.ops.symfast.factor_product.default
_GRADIENTS = torch.ops.symfast.factor_gradients.default
factor_step_ = torch.ops.symfast.factor_step_.default


# ---- shapes ------------------------------------------------------------------------------------


def _fake_product(factors: list[Tensor]) -> Tensor:
    formula.check_factors(factors)
    return factors[0].new_empty(factors[0].shape)


def _fake_gradients(gradient: Tensor, factors: list[Tensor]) -> list[Tensor]:
    formula.check_factors(factors)
    return [x.new_empty(x.shape) for x in factors]


torch.library.register_fake("symfast::factor_step_", formula.check_step, lib=ops.LIBRARY)


# ---- gradients ---------------------------------------------------------------------------------


def _save_product(ctx: Any, inputs: tuple[list[Tensor]], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[0])


def _backward_product(ctx: Any, gradient: Tensor) -> list[Tensor]:
    return list(_GRADIENTS(gradient, list(ctx.saved_tensors)))


def _save_gradients(ctx: Any, inputs: tuple[Tensor, list[Tensor]], output: list[Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *inputs[1])


def _backward_gradients(ctx: Any, pushes: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """For out_j = g prod_{e != j} f_e: second derivatives, in differentiable operations."""
    gradient, *factors = ctx.saved_tensors
    to_gradient = torch.zeros_like(gradient)
    to_factors = [torch.zeros_like(gradient) for _ in factors]
    for j, push in enumerate(pushes):
        others = [e for e in range(len(factors)) if e != j]
        to_gradient = to_gradient + push * _multiply([factors[e] for e in others], gradient)
        for e in others:
            rest = [factors[i] for i in others if i != e]
            to_factors[e] = to_factors[e] + push * gradient * _multiply(rest, gradient)
    return to_gradient, to_factors


def _multiply(factors: list[Tensor], like: Tensor) -> Tensor:
    out = torch.ones_like(like)
    for x in factors:
        out = out * x
    return out


# ---- vmap: elementwise, so a batch is one more dim ---------------------------------------------


def _vmap_product(
    info: Any, in_dims: tuple[list[int | None]], factors: list[Tensor]
) -> tuple[Tensor, int]:
    return _PRODUCT(_front(info, in_dims[0], factors)), 0


def _vmap_gradients(
    info: Any, in_dims: tuple[int | None, list[int | None]], gradient: Tensor, factors: list[Tensor]
) -> tuple[list[Tensor], list[int]]:
    together = _front(info, [in_dims[0], *in_dims[1]], [gradient, *factors])
    return _GRADIENTS(together[0], together[1:]), [0] * len(factors)


def _front(info: Any, dims: list[int | None], tensors: list[Tensor]) -> list[Tensor]:
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, dims, strict=True)
    ]


for _name, _fake, _backward, _save, _vmap in (
    ("factor_product", _fake_product, _backward_product, _save_product, _vmap_product),
    ("factor_gradients", _fake_gradients, _backward_gradients, _save_gradients, _vmap_gradients),
):
    torch.library.register_fake("symfast::" + _name, _fake, lib=ops.LIBRARY)
    torch.library.register_autograd(
        "symfast::" + _name, _backward, setup_context=_save, lib=ops.LIBRARY
    )
    torch.library.register_vmap("symfast::" + _name, _vmap, lib=ops.LIBRARY)


class _Product(torch.autograd.Function):
    """The same gradient for torch.func, which does not take it from torch.library."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*factors: Tensor) -> Tensor:
        out: Tensor = _PRODUCT(list(factors))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        call: Any = _GradientsFunction.apply
        return tuple(call(grads[0], *ctx.saved_tensors))


def _product_function(factors: list[Tensor]) -> Any:
    call: Any = _Product.apply
    return call(*factors)


class _GradientsFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_GRADIENTS(gradient, list(factors)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        to_gradient, to_factors = _backward_gradients(ctx, list(grads))
        return to_gradient, *to_factors


_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def multiply(factors: list[Tensor]) -> Tensor:
    """The elementwise product of 2 to 6 factors of one shape, with gradients of every order.

    One kernel forward and one backward, by prefix and suffix products; half types multiply in
    float32 and round once. Works under torch.func and ``torch.compile(fullgraph=True)``.

    Raises:
        RuntimeError: if shapes, dtypes or devices differ, or there are not 2 to 6 factors.

    Example:
        >>> import torch
        >>> from symfast.factor_op import multiply
        >>> multiply([torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([4.0])])
        tensor([24.])
    """
    call: Any = _PRODUCT
    if not torch.compiler.is_compiling() and _transformed():
        call = _product_function
    out: Tensor = call(factors)
    return out
