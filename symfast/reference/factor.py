# SPDX-License-Identifier: Apache-2.0
"""Product factors in plain torch: products, their gradients, and steps on the factors."""

import torch
from torch import Tensor

from symfast.codes import ACCUMULATE
from symfast.reference.factor_sweep import leave_one_out

#: Fewest and most factors of one weight; csrc/factor.h has the same numbers.
MIN_DEPTH, MAX_DEPTH = 2, 6
#: Columns of the settings (rows, 3) of a step, as in csrc/factor.h.
LR, MOMENTUM, DECAY = range(3)
SETTINGS = 3


def factor_product(factors: list[Tensor]) -> Tensor:
    """Return the elementwise product of 2 to 6 factors of one shape, dtype and device.

    Half types multiply in float32 and round once.

    Raises:
        RuntimeError: if the factors do not fit together.

    Example:
        >>> import torch
        >>> from symfast.reference.factor import factor_product
        >>> factor_product([torch.tensor([2.0]), torch.tensor([3.0])])
        tensor([6.])
    """
    return leave_one_out(_stack(factors))[1].reshape(factors[0].shape).to(factors[0].dtype)


def factor_gradients(gradient: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Return ``gradient * prod_{e != j} f_e`` for every factor j, by prefix and suffix products.

    Raises:
        RuntimeError: if the tensors do not fit together.

    Example:
        >>> import torch
        >>> from symfast.reference.factor import factor_gradients
        >>> factor_gradients(torch.ones(1), [torch.zeros(1), torch.full((1,), 3.0)])
        [tensor([3.]), tensor([0.])]
    """
    stack = _stack(factors)
    if gradient.shape != factors[0].shape or gradient.dtype != factors[0].dtype:
        raise RuntimeError("the gradient must have the shape, dtype and device of the factors")
    products = leave_one_out(stack)[0] * gradient.reshape(-1).to(stack.dtype)
    return [x.reshape(gradient.shape).to(gradient.dtype) for x in products]


def factor_step_(
    weights: list[Tensor],
    gradients: list[Tensor],
    factors: list[Tensor],
    velocities: list[Tensor],
    settings: Tensor,
    rows: list[int],
) -> None:
    """Step the factors of every weight by its gradient, and write the new weight.

    ``v_j <- m v_j + g prod_{e != j} f_e + c f_j``, ``f_j <- f_j - lr v_j``, ``w <- prod_j f_j``
    with lr, m and c from the weight's row of settings. They lie where the weights do, so that a
    captured graph follows them. ``c = 2 lam / D`` gives the penalty ``lam ||w||_{2/D}^{2/D}``.

    Args:
        weights: contiguous, of one dtype and device; overwritten.
        gradients: like the weights.
        factors: (D, *weight) each, float64 for float64 weights, else float32; updated.
        velocities: like the factors, or of no elements where a weight goes without momentum, or
            an empty list if all do; updated.
        settings: float64 (rows, 3): lr, m, c; m counts only with a velocity.
        rows: the row of every weight.

    Raises:
        RuntimeError: if shapes, dtypes or devices do not fit; nothing has been changed then.

    Example:
        >>> import torch
        >>> from symfast.reference.factor import factor_step_
        >>> w, f = torch.ones(1), torch.ones(2, 1)
        >>> settings = torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64)
        >>> factor_step_([w], [torch.ones(1)], [f], [], settings, [0])
        >>> w.item(), f.flatten().tolist()
        (0.25, [0.5, 0.5])
    """
    check_step(weights, gradients, factors, velocities, settings, rows)
    for i, (weight, gradient, factor) in enumerate(zip(weights, gradients, factors, strict=True)):
        flat = factor.reshape(len(factor), weight.numel())
        lr, momentum, decay = settings[rows[i]].to(flat.dtype).unbind()
        push = leave_one_out(flat)[0] * gradient.reshape(-1).to(flat.dtype) + decay * flat
        if velocities and velocities[i].numel():
            push += momentum * velocities[i].view_as(flat)
            velocities[i].copy_(push.view_as(factor))
        flat = flat - lr * push
        factor.copy_(flat.view_as(factor))
        weight.copy_(leave_one_out(flat)[1].view_as(weight))


def _stack(factors: list[Tensor]) -> Tensor:
    """The factors as (D, n) in the type that they are multiplied in."""
    check_factors(factors)
    wide = ACCUMULATE[factors[0].dtype]
    return torch.stack([x.reshape(-1).to(wide) for x in factors])


def check_factors(factors: list[Tensor]) -> None:
    """Refuse factors that have no product."""
    if not MIN_DEPTH <= len(factors) <= MAX_DEPTH:
        raise RuntimeError(
            f"a product needs {MIN_DEPTH} to {MAX_DEPTH} factors, got {len(factors)}"
        )
    first = factors[0]
    if first.dtype not in ACCUMULATE:
        raise RuntimeError(
            f"factors must be float64, float32, bfloat16 or float16, got {first.dtype}"
        )
    for x in factors[1:]:
        if (x.shape, x.dtype, x.device) != (first.shape, first.dtype, first.device):
            raise RuntimeError(
                f"a factor must have the shape, dtype and device of the others, "
                f"{tuple(first.shape)}, got {tuple(x.shape)}"
            )


def check_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    factors: list[Tensor],
    velocities: list[Tensor],
    settings: Tensor,
    rows: list[int],
) -> None:
    """Refuse lists that do not belong together, before anything is changed."""
    count = len(weights)
    if not len(gradients) == len(factors) == len(rows) == count:
        raise RuntimeError(f"give one gradient, one stack of factors, one row for {count} weights")
    if len(velocities) not in (0, count):
        raise RuntimeError(f"give one velocity for each of {count} weights, or none at all")
    if count:
        _check_settings(settings, rows, weights[0])
    for i, factor in enumerate(factors):
        weight, gradient = weights[i], gradients[i]
        states = [factor, *(v for v in velocities[i : i + 1] if v.numel())]
        together = [weight, gradient, *states]
        if not all(x.is_contiguous() and x.device == weights[0].device for x in together):
            raise RuntimeError("weights, gradients and factors must be contiguous, on one device")
        depth = factor.shape[0] if factor.ndim else 0
        if factor.shape != (depth, *weight.shape) or not MIN_DEPTH <= depth <= MAX_DEPTH:
            raise RuntimeError(
                f"factors must have shape (depth, *weight) with depth 2 to {MAX_DEPTH}, got "
                f"{tuple(factor.shape)} for a weight {tuple(weight.shape)}"
            )
        if (
            gradient.shape != weight.shape
            or {weight.dtype, gradient.dtype} != {weights[0].dtype}
            or ACCUMULATE.get(weight.dtype) != factor.dtype
            or any(x.shape != factor.shape or x.dtype != factor.dtype for x in states)
        ):
            raise RuntimeError(
                "a gradient must be like its weight; factors and velocities are float64 for "
                "float64 weights, else float32"
            )


def _check_settings(settings: Tensor, rows: list[int], weight: Tensor) -> None:
    if (
        settings.shape[1:] != (SETTINGS,)
        or settings.dtype != torch.float64
        or settings.device != weight.device
        or not settings.is_contiguous()
        or not all(0 <= row < len(settings) for row in rows)
    ):
        raise RuntimeError(
            f"settings must be contiguous float64 of shape (rows, {SETTINGS}), where the weights "
            f"are, and have every row of {sorted(set(rows))[:5]}; got {settings.dtype} "
            f"{tuple(settings.shape)}"
        )
