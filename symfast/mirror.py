# SPDX-License-Identifier: Apache-2.0
"""Mirrors on plain tensors: theta (..., d) and a frame O (..., d, k) with orthonormal columns.

With c = O^T theta every verb is theta + O (f(c) - c). The batches of theta and O broadcast against
each other. Half types are computed in float32 and rounded once. Gradients flow to theta, O and
amounts, to any order; forward-mode derivatives are taken through the reference formula.

O is not tested for orthonormal columns at every call, which would cost more than the verb:
``check=True`` does it (outside torch.compile and vmap) and names the defect.

Source of the mirrors: L. Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from symfast import mirror_op
from symfast.codes import ACCUMULATE, PROJECT, PROX, REFLECT, SHRINK
from symfast.errors import ModeError
from symfast.mirror_check import (
    broadcast_batch,
    require_amount,
    require_entries,
    require_orthonormal,
    require_pair,
)
from symfast.reference import mirror as formula
from symfast.reference.mirror import MODES


class _Layout(NamedTuple):
    """How a batch folds into (groups, rows): O varies over the first ``split`` axes of order."""

    batch: tuple[int, ...]
    order: tuple[int, ...]
    split: int

    def fold(self, x: Tensor) -> Tensor:
        """(..., n), broadcast to the batch -> (groups, rows, n); a view wherever one exists."""
        if x.shape[:-1] != self.batch:
            x = x.expand(*self.batch, -1)
        if not self._is_straight():
            x = x.permute(*self.order, -1)
        sizes = [self.batch[axis] for axis in self.order]
        return x.reshape(_product(sizes[: self.split]), _product(sizes[self.split :]), x.shape[-1])

    def unfold(self, x: Tensor) -> Tensor:
        """(groups, rows, n) -> (*batch, n)."""
        if self._is_straight():
            return x.reshape(*self.batch, x.shape[-1])
        x = x.reshape(*(self.batch[axis] for axis in self.order), x.shape[-1])
        return x.permute(*(self.order.index(axis) for axis in range(len(self.batch))), -1)

    def unfold_rows(self, x: Tensor) -> Tensor:
        """(groups, rows) -> batch."""
        return self.unfold(x.unsqueeze(-1)).squeeze(-1)

    def fold_amounts(self, x: Tensor) -> Tensor:
        """(...), broadcast to the batch -> (groups, rows)."""
        return self.fold(x.unsqueeze(-1)).squeeze(-1)

    def _is_straight(self) -> bool:
        return self.order == tuple(range(len(self.order)))


class _Quick(NamedTuple):
    """A batch of one axis that needs no more than a new axis beside it: before it or after it."""

    batch: tuple[int]
    axis: int

    def fold_amounts(self, x: Tensor) -> Tensor:
        return x.expand(self.batch).unsqueeze(self.axis)

    def unfold(self, x: Tensor) -> Tensor:
        return x.squeeze(self.axis)

    def unfold_rows(self, x: Tensor) -> Tensor:
        return x.squeeze(self.axis)


def _fold(theta: Tensor, O: Tensor, check: bool) -> tuple[Tensor, Tensor, _Layout | _Quick]:
    """Check the operands; return them as (groups, rows, d) and (groups, d, k), and the way back."""
    require_pair(theta, O)
    if check:
        require_orthonormal(O)
    if theta.dim() == 2:  # the common cases first, for the sake of small tensors
        if O.dim() == 2:
            return theta.unsqueeze(0), O.unsqueeze(0), _Quick((theta.shape[0],), 0)
        if O.dim() == 3 and O.shape[0] == theta.shape[0]:
            return theta.unsqueeze(1), O, _Quick((theta.shape[0],), 1)
    layout = _layout(theta, O)
    groups = _product(layout.batch[axis] for axis in layout.order[: layout.split])
    return layout.fold(theta), O.reshape(groups, *O.shape[-2:]), layout


def _layout(theta: Tensor, O: Tensor) -> _Layout:
    """Find the groups: the axes along which O differs."""
    batch, frames = broadcast_batch(theta, O), O.shape[:-2]
    extra = len(batch) - len(frames)
    groups = tuple(extra + i for i, size in enumerate(frames) if size != 1)
    rows = tuple(axis for axis in range(len(batch)) if axis not in groups)
    return _Layout(batch, groups + rows, len(groups))


def _product(sizes: Iterable[int]) -> int:
    result = 1  # math.prod stops the compiler when sizes are symbols
    for size in sizes:
        result = result * size
    return result


def _is_forward_mode() -> bool:
    # Operators of torch.library have no forward-mode rule, so dual numbers go by the formula.
    return forward_ad._current_level >= 0


# Reflect and project do not read their amounts. Making a tensor costs as much as looking at theta.
_UNREAD = {x: torch.zeros(1, 1, dtype=x, device="cpu") for x in (torch.float32, torch.float64)}


def _amounts(theta: Tensor, amount: float | Tensor, verb: int, way: _Layout | _Quick) -> Tensor:
    """The amounts as an operator takes them: (groups, rows) or (1, 1)."""
    wide = ACCUMULATE[theta.dtype]
    if isinstance(amount, Tensor):
        amount = amount.to(wide)
        if amount.dim() == 0:
            return amount.reshape(1, 1)
        return way.fold_amounts(amount).contiguous()
    if verb >= SHRINK:
        return theta.new_full((1, 1), amount, dtype=wide)
    # A constant must not meet tensors that stand for others (compiler, fake, subclass).
    if not torch.compiler.is_compiling() and type(theta) in (Tensor, Parameter) and theta.is_cpu:
        return _UNREAD[wide]
    return theta.new_empty((1, 1), dtype=wide)


def _apply(
    theta: Tensor, O: Tensor, amount: float | Tensor, verb: int, mode: int, check: bool
) -> Tensor:
    rows, frames, way = _fold(theta, O, check)
    if verb == SHRINK:
        amount = require_amount("amount", amount, theta, way.batch)
    elif verb == PROX:
        amount = require_amount("threshold", amount, theta, way.batch, least=0.0)
        if check:
            require_entries(amount)
    if _is_forward_mode():
        return formula.move(theta, O, amount, verb, mode)
    amounts = _amounts(theta, amount, verb, way)
    return way.unfold(mirror_op.call_apply(rows, frames, amounts, verb, mode))


def coefficients(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return the coefficients of theta off its mirror planes.

    c = O^T theta, for theta (..., d) and O (..., d, k) of floating dtype: (..., k) in theta's
    dtype. O has theta's dtype, or float32 beside a half-precision theta.

    Raises:
        TypeError: for dtypes that are not real floating or do not go together.
        ValueError: for shapes or devices that do not fit, or (``check``) O not orthonormal.

    Example:
        >>> import torch, symfast as sf
        >>> O = torch.tensor([[0.6], [0.8]])
        >>> sf.coefficients(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), O)
        tensor([[3.],
                [4.]])
    """
    rows, frames, way = _fold(theta, O, check)
    if _is_forward_mode():
        return formula.coefficients(theta, O)
    return way.unfold(mirror_op.call_coefficients(rows, frames))


def norms(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return the distance of theta from its mirror planes.

    ||O^T theta||_2, for theta (..., d) and O (..., d, k): (...) in float64 for float64, else in
    float32. The gradient at distance zero is zero.

    Raises:
        TypeError: for dtypes that are not real floating or do not go together.
        ValueError: for shapes or devices that do not fit, or (``check``) O not orthonormal.

    Example:
        >>> import torch, symfast as sf
        >>> sf.norms(torch.tensor([3.0, 4.0, 9.0]), torch.eye(3)[:, :2])
        tensor(5.)
    """
    rows, frames, way = _fold(theta, O, check)
    if _is_forward_mode():
        return formula.norms(theta, O)
    return way.unfold_rows(mirror_op.call_norms(rows, frames))


def reflect(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return the mirror image of theta.

    (I - 2 O O^T) theta, for theta (..., d) and O (..., d, k): (..., d) in theta's dtype.

    Raises:
        TypeError: for dtypes that are not real floating or do not go together.
        ValueError: for shapes or devices that do not fit, or (``check``) O not orthonormal.

    Example:
        >>> import torch, symfast as sf
        >>> sf.reflect(torch.tensor([1.0, 2.0, 3.0]), torch.eye(3)[:, :1])
        tensor([-1.,  2.,  3.])
    """
    return _apply(theta, O, 0.0, REFLECT, 0, check)


def project(theta: Tensor, O: Tensor, *, check: bool = False) -> Tensor:
    """Return the point of the mirror plane nearest to theta.

    (I - O O^T) theta, for theta (..., d) and O (..., d, k): (..., d) in theta's dtype. What is
    left of O^T theta is rounding, about eps ||theta||, not an exact zero.

    Raises:
        TypeError: for dtypes that are not real floating or do not go together.
        ValueError: for shapes or devices that do not fit, or (``check``) O not orthonormal.

    Example:
        >>> import torch, symfast as sf
        >>> sf.project(torch.tensor([1.0, 2.0, 3.0]), torch.eye(3)[:, :1])
        tensor([0., 2., 3.])
    """
    return _apply(theta, O, 0.0, PROJECT, 0, check)


def shrink(theta: Tensor, O: Tensor, amount: float | Tensor, *, check: bool = False) -> Tensor:
    """Return theta moved toward its mirror plane by a fraction of the distance.

    (I - amount O O^T) theta, for theta (..., d), O (..., d, k) and any real amount, a number or a
    tensor that broadcasts to the batch: (..., d) in theta's dtype. Amount 0 changes nothing,
    1 projects, 2 reflects.

    Raises:
        TypeError: for dtypes that are not real floating or do not go together.
        ValueError: for shapes or devices that do not fit, or (``check``) O not orthonormal.

    Example:
        >>> import torch, symfast as sf
        >>> sf.shrink(torch.tensor([4.0, 2.0, 3.0]), torch.eye(3)[:, :1], 0.25)
        tensor([3., 2., 3.])
    """
    return _apply(theta, O, amount, SHRINK, 0, check)


def prox(
    theta: Tensor,
    O: Tensor,
    threshold: float | Tensor,
    mode: str = "l1",
    *,
    check: bool = False,
) -> Tensor:
    """Return the proximal point of theta for a norm of its coefficients.

    argmin_x ||x - theta||^2 / 2 + threshold ||O^T x||, with the 1-norm (``mode="l1"``: every
    coefficient c becomes sign(c) max(|c| - threshold, 0)) or the 2-norm (``mode="group"``: all k
    coefficients of a row are scaled by max(1 - threshold / ||c||_2, 0)). theta (..., d),
    O (..., d, k), threshold a number or a tensor that broadcasts to the batch: (..., d) in theta's
    dtype. The entries of a threshold tensor are compared with 0 only under ``check``.

    Raises:
        TypeError: for dtypes that are not real floating or do not go together.
        ValueError: for shapes or devices that do not fit, an unknown mode, a negative threshold,
            or (``check``) O not orthonormal.

    Source: N. Parikh and S. Boyd, "Proximal Algorithms", 2014, sections 2.2 and 6.5.

    Example:
        >>> import torch, symfast as sf
        >>> sf.prox(torch.tensor([3.0, 4.0, 7.0]), torch.eye(3)[:, :2], 2.5, mode="group")
        tensor([1.5000, 2.0000, 7.0000])
    """
    if mode not in MODES:
        raise ModeError(mode)
    return _apply(theta, O, threshold, PROX, MODES[mode], check)
