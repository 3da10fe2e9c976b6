# SPDX-License-Identifier: Apache-2.0
"""Dense mirrors in plain torch: the formula itself, for every device, and the tests' oracle."""

import torch
from torch import Tensor

from symfast import errors

# The numbers of csrc/plan.h and csrc/mirror.h.
REFLECT, PROJECT, SHRINK, PROX = 0, 1, 2, 3
MODES = {"l1": 0, "group": 1}


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype sums are taken in: float64 for float64, float32 for the rest.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import accumulate_dtype
        >>> accumulate_dtype(torch.bfloat16)
        torch.float32
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def _inner(theta: Tensor, O: Tensor) -> Tensor:
    """O^T theta in the accumulate dtype, batches broadcast: (..., k)."""
    wide = accumulate_dtype(theta.dtype)
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
        soft = torch.where(c < -amount, c + amount, torch.where(c.isnan(), c, 0))
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
        >>> move(torch.tensor([1.0, 3.0]), torch.tensor([[1.0], [-1.0]]) / 2**0.5, 0.0, PROJECT)
        tensor([2., 2.])
    """
    wide = accumulate_dtype(theta.dtype)
    if isinstance(amount, Tensor):
        amount = amount.to(wide).unsqueeze(-1)
    step = _change(_inner(theta, O), amount, verb, mode)
    return (theta.to(wide) + torch.einsum("...k,...dk->...d", step, O.to(wide))).to(theta.dtype)


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
    shapes = f"theta {tuple(theta.shape)} and O {tuple(O.shape)}"
    torch._check(
        theta.dim() == 3 and O.dim() == 3,
        lambda: f"mirror: wanted theta (groups, rows, d) and O (groups, d, k), got {shapes}",
    )
    fits = theta.shape[0] == O.shape[0] and theta.shape[2] == O.shape[1]
    torch._check(fits, lambda: f"mirror: groups or d differ between {shapes}")
    torch._check(
        theta.dtype in errors.DTYPES
        and O.dtype in {theta.dtype, accumulate_dtype(theta.dtype)},
        lambda: f"mirror: dtypes {theta.dtype} of theta and {O.dtype} of O do not go together",
    )
    torch._check(theta.device == O.device, lambda: "mirror: theta and O are on different devices")


def check_amounts(theta: Tensor, amounts: Tensor, verb: int, mode: int) -> None:
    """Refuse amounts other than (groups, rows) or (1, 1) in the accumulate dtype, or odd verbs.

    Raises:
        RuntimeError: for a wrong shape, dtype, device, verb or mode.

    Example:
        >>> import torch
        >>> from symfast.reference.mirror import SHRINK, check_amounts
        >>> check_amounts(torch.zeros(2, 5, 3), torch.ones(1, 1), SHRINK, 0)
    """
    shape = tuple(amounts.shape)
    torch._check(
        len(shape) == 2 and (shape == (1, 1) or shape == tuple(theta.shape[:2])),
        lambda: f"mirror: wanted amounts {tuple(theta.shape[:2])} or (1, 1), got {shape}",
    )
    wide = accumulate_dtype(theta.dtype)
    torch._check(
        amounts.dtype == wide, lambda: f"mirror: wanted {wide} amounts, got {amounts.dtype}"
    )
    torch._check(
        amounts.device == theta.device, lambda: "mirror: theta and amounts on different devices"
    )
    torch._check(REFLECT <= verb <= PROX, lambda: f"mirror: verb {verb} is none of 0, 1, 2, 3")
    torch._check(mode in MODES.values(), lambda: f"mirror: mode {mode} is none of 0, 1")


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
    return torch.linalg.vector_norm(_inner(theta, O), dim=-1)


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
    _require(theta, O, check)
    batch = errors.broadcast_batch(theta, O)
    return move(theta, O, errors.require_amount("amount", amount, theta, batch), SHRINK)


def prox(
    theta: Tensor,
    O: Tensor,
    threshold: float | Tensor,
    mode: str = "l1",
    *,
    check: bool = False,
) -> Tensor:
    """Return the proximal point of threshold ||O^T theta||; see :func:`symfast.prox`."""
    _require(theta, O, check)
    if mode not in MODES:
        raise errors.ModeError(mode)
    batch = errors.broadcast_batch(theta, O)
    threshold = errors.require_amount("threshold", threshold, theta, batch, least=0.0)
    return move(theta, O, threshold, PROX, MODES[mode])


def _require(theta: Tensor, O: Tensor, check: bool) -> None:
    errors.require_pair(theta, O)
    if check:
        errors.require_orthonormal(O)
