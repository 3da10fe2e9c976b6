# SPDX-License-Identifier: Apache-2.0
"""Dense mirrors in plain torch: the formula itself, for every device, and the tests' oracle."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from symfast.codes import ACCUMULATE, PROJECT, PROX, REFLECT, SHRINK
from symfast.errors import ModeError
from symfast.mirror_check import (
    broadcast_batch,
    require_amount,
    require_entries,
    require_orthonormal,
    require_pair,
)

# The numbers of csrc/mirror.h.
MODES = {"l1": 0, "group": 1}


def own_dtype(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which products keep the dtype of their factors despite autocast.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import own_dtype
        >>> with torch.autocast("cpu", torch.bfloat16), own_dtype(torch.device("cpu")):
        ...     (torch.eye(2) @ torch.eye(2)).dtype
        torch.float32
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _inner(theta: Tensor, O: Tensor) -> Tensor:
    """O^T theta in the accumulate dtype, batches broadcast: (..., k)."""
    wide = ACCUMULATE[theta.dtype]
    with own_dtype(theta.device):
        return torch.einsum("...d,...dk->...k", theta.to(wide), O.to(wide))


def _change(c: Tensor, amount: Tensor | float, verb: int, mode: int) -> Tensor:
    """f(c) - c; the amount broadcasts to c."""
    if verb == REFLECT:
        return -2 * c
    if verb == PROJECT:
        return (c - c) - c  # not -c: an infinity must show, as in the kernels
    if verb == SHRINK:
        return c * (1 - amount) - c
    if mode == MODES["l1"]:
        soft = torch.where(c < -amount, c + amount, c - c)  # c - c: NaN stays NaN
        return torch.where(c > amount, c - amount, soft) - c
    squares = c.square().sum(-1, keepdim=True)
    inside = squares.sqrt() <= amount
    # The root is taken of 1 inside, where it is not used: its slope at 0 would be infinite.
    norm = torch.where(inside, 1, squares).sqrt()
    return torch.where(inside, 0, 1 - amount / norm) * c - c


def move(theta: Tensor, O: Tensor, amount: Tensor | float, verb: int, mode: int = 0) -> Tensor:
    """Return theta + O (f(c) - c), c = O^T theta, rounded once to theta's dtype.

    theta (..., d), O (..., d, k), amount a number or (...); all batches broadcast. Plain
    differentiable torch, so it serves forward-mode derivatives too.

    Raises:
        RuntimeError: torch's own, if the shapes do not fit.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import PROJECT, move
        >>> move(torch.tensor([1.0, 3.0]), torch.tensor([[0.0], [1.0]]), 0.0, PROJECT)
        tensor([1., 0.])
    """
    wide = ACCUMULATE[theta.dtype]
    if isinstance(amount, Tensor):
        amount = amount.to(wide).unsqueeze(-1)
    step = _change(_inner(theta, O), amount, verb, mode)
    with own_dtype(theta.device):
        step = torch.einsum("...k,...dk->...d", step, O.to(wide))
    return (theta.to(wide) + step).to(theta.dtype)


# ---- operators: theta (groups, rows, d), O (groups, d, k) --------------------------------------


def check_operands(theta: Tensor, O: Tensor) -> None:
    """Refuse operands no kernel may touch; the same sentences serve the fake kernels.

    Raises:
        RuntimeError: for wrong dimensions, sizes, dtypes or devices.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import check_operands
        >>> check_operands(torch.zeros(2, 5, 3), torch.zeros(2, 3, 1))
    """
    shapes = f"theta {tuple(theta.shape)}, O {tuple(O.shape)}"
    _insist(
        theta.dim() == 3 and O.dim() == 3,
        f"wanted theta (groups, rows, d) and O (groups, d, k), got {shapes}",
    )
    fits = theta.shape[0] == O.shape[0] and theta.shape[2] == O.shape[1]
    _insist(fits, f"groups or d differ: {shapes}")
    wide = ACCUMULATE.get(theta.dtype)
    known = wide is not None and O.dtype in (theta.dtype, wide)
    _insist(known, f"theta of {theta.dtype} and O of {O.dtype} do not go together")
    _insist(theta.device == O.device, f"theta is on {theta.device}, O on {O.device}")


def check_amounts(theta: Tensor, amounts: Tensor, verb: int, mode: int) -> None:
    """Refuse amounts other than (groups, rows) or (1, 1) in the accumulate dtype, or odd verbs.

    Raises:
        RuntimeError: for a wrong shape, dtype, device, verb or mode.

    Example:
        >>> import torch
        >>> from symfast.codes import SHRINK
        >>> from symfast.reference.mirror import check_amounts
        >>> check_amounts(torch.zeros(2, 5, 3), torch.ones(1, 1), SHRINK, 0)
    """
    shape, rows = tuple(amounts.shape), tuple(theta.shape[:2])
    _insist(shape in ((1, 1), rows), f"wanted amounts {rows} or (1, 1), got {shape}")
    wide = ACCUMULATE[theta.dtype]
    _insist(amounts.dtype == wide, f"wanted {wide} amounts, got {amounts.dtype}")
    device = amounts.device
    _insist(device == theta.device, f"theta is on {theta.device}, amounts on {device}")
    _insist(REFLECT <= verb <= PROX, f"verb {verb} is none of 0, 1, 2, 3")
    _insist(mode in MODES.values(), f"mode {mode} is none of 0, 1")


def _insist(condition: bool, sentence: str) -> None:
    if not condition:
        raise RuntimeError("mirror: " + sentence)


def mirror_coefficients(theta: Tensor, O: Tensor) -> Tensor:
    """Return O^T theta: theta (G, N, d), O (G, d, k) -> (G, N, k) in theta's dtype.

    Raises:
        RuntimeError: see :func:`check_operands`.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import mirror_coefficients
        >>> mirror_coefficients(torch.ones(1, 1, 2), torch.eye(2)[None])
        tensor([[[1., 1.]]])
    """
    check_operands(theta, O)
    return _inner(theta, O.unsqueeze(1)).to(theta.dtype).contiguous()


def mirror_norms(theta: Tensor, O: Tensor) -> Tensor:
    """Return ||O^T theta||_2: theta (G, N, d), O (G, d, k) -> (G, N) in the accumulate dtype.

    Raises:
        RuntimeError: see :func:`check_operands`.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import mirror_norms
        >>> mirror_norms(torch.tensor([[[3.0, 4.0]]]), torch.eye(2)[None])
        tensor([[5.]])
    """
    check_operands(theta, O)
    length: Tensor = torch.linalg.vector_norm(_inner(theta, O.unsqueeze(1)), dim=-1)
    return length.contiguous()


def mirror_apply(theta: Tensor, O: Tensor, amounts: Tensor, verb: int, mode: int) -> Tensor:
    """Return theta + O (f(c) - c) for every row: theta (G, N, d), O (G, d, k) -> (G, N, d).

    amounts is (G, N) or (1, 1) and not read by reflect and project.

    Raises:
        RuntimeError: see :func:`check_operands` and :func:`check_amounts`.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import REFLECT, mirror_apply
        >>> mirror_apply(torch.ones(1, 1, 2), torch.eye(2)[None], torch.zeros(1, 1), REFLECT, 0)
        tensor([[[-1., -1.]]])
    """
    check_operands(theta, O)
    check_amounts(theta, amounts, verb, mode)
    return move(theta, O.unsqueeze(1), amounts, verb, mode).contiguous()


# ---- the public functions, by the formula ------------------------------------------------------


def coefficients(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return O^T theta by the formula; see :func:`symfast.coefficients`."""
    _require(theta, O, check)
    return _inner(theta, O).to(theta.dtype)


def norms(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return ||O^T theta||_2 in the accumulate dtype; see :func:`symfast.norms`."""
    _require(theta, O, check)
    length: Tensor = torch.linalg.vector_norm(_inner(theta, O), dim=-1)
    return length


def reflect(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return (I - 2 O O^T) theta by the formula; see :func:`symfast.reflect`."""
    _require(theta, O, check)
    return move(theta, O, 0.0, REFLECT)


def project(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return (I - O O^T) theta by the formula; see :func:`symfast.project`."""
    _require(theta, O, check)
    return move(theta, O, 0.0, PROJECT)


def shrink(theta: Tensor, O: Tensor, amount: float | Tensor, *, check: bool = False) -> Tensor:
    """Return (I - amount O O^T) theta by the formula; see :func:`symfast.shrink`."""
    batch = _require(theta, O, check)
    return move(theta, O, require_amount("amount", amount, theta, batch), SHRINK)


def prox(
    theta: Tensor,
    O: Tensor,
    threshold: float | Tensor,
    mode: str = "l1",
    *,
    check: bool = False,
) -> Tensor:
    """Return the proximal point of threshold ||O^T theta||; see :func:`symfast.prox`."""
    if mode not in MODES:
        raise ModeError(mode)
    batch = _require(theta, O, check)
    threshold = require_amount("threshold", threshold, theta, batch, least=0.0)
    if check:
        require_entries(threshold)
    return move(theta, O, threshold, PROX, MODES[mode])


def _require(theta: Tensor, O: Tensor, check: bool) -> tuple[int, ...]:
    require_pair(theta, O)
    if check:
        require_orthonormal(O)
    return broadcast_batch(theta, O)
