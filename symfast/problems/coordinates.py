# SPDX-License-Identifier: Apache-2.0
"""A regression in the coordinates whose factors are trained: a mirror's frame, or groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

#: What shares gates: nothing, the outputs of a feature, the features of an output, or features with
#: equal labels.
Per: TypeAlias = Literal["element", "row", "column"] | Sequence[int]

#: An orthonormal frame may be off by this much.
ORTHONORMAL = 1e-8
#: Weights of one problem: its Gram matrix has the square of that many numbers.
MOST_WEIGHTS = 8192


@dataclass(frozen=True, eq=False)
class Coordinates:
    """``1/2 w^T gram w - linear^T w`` over p = d o coordinates w of a weight matrix (d, o)."""

    gram: Tensor  # (p, p)
    linear: Tensor  # (p,)
    factored: Tensor  # (p,) bool
    group: Tensor  # (p,) int64, first coordinate of each one's group; (0,) without gates
    rotation: Tensor | None  # (d, d), [O, O_perp]
    order: Tensor  # (p,), which entry of the row-major matrix a coordinate is
    x: Tensor  # (n, d), data in these coordinates
    y: Tensor  # (n, o)
    by_output: bool  # coordinate of feature f and output k: k d + f, otherwise f o + k

    def theta(self, w: Tensor) -> Tensor:
        """Weights (B, p), row-major, of coordinates (B, p)."""
        if self.rotation is not None:
            return w @ self.rotation.T
        found = torch.empty_like(w)
        found[:, self.order] = w
        return found

    def group_norms(self, w: Tensor) -> Tensor:
        """Norms (B, groups) of the factored groups; sizes (B, p') of the coordinates, no gates."""
        inside = w[:, self.factored]
        if len(self.group) == 0:
            return inside.abs()
        number = self.group.unique(return_inverse=True)[1]
        squares = w.new_zeros(len(w), int(number.max()) + 1)
        return squares.index_add_(1, number, w.square()).sqrt()


def coordinates(X: Tensor, y: Tensor, frame: Tensor | None, per: Per) -> Coordinates:
    """Return the problem of weights (d, o) for X (n, d), y (n, o), float64.

    Raises:
        ValueError: if the frame is not orthonormal, the labels do not fit, or there are too many
            weights.

    Example:
        >>> import torch
        >>> from symfast.problems.coordinates import coordinates
        >>> X = torch.eye(3, dtype=torch.float64)
        >>> coordinates(X, X[:, :1], None, per=[0, 1, 0]).group.tolist()
        [0, 0, 2]
    """
    (n, d), o = X.shape, y.shape[1]
    if d * o > MOST_WEIGHTS:
        raise ValueError(f"at most {MOST_WEIGHTS} weights can be factored, not {d} x {o}")
    if frame is not None and (per != "element" or o > 1):
        raise ValueError('a frame goes with per="element" and one target')
    rotation, k = _complete(frame, d)
    rotated = X if rotation is None else X @ rotation
    gram, linear = rotated.T @ rotated / n, rotated.T @ y / n
    order, group = torch.arange(d * o), torch.zeros(0, dtype=torch.int64)
    if per != "element":
        labels = _labels(per, d, o).flatten()
        order = labels.argsort(stable=True)
        number, size = labels[order].unique_consecutive(return_inverse=True, return_counts=True)[1:]
        group = (size.cumsum(0) - size)[number]
    full = torch.kron(gram, torch.eye(o, dtype=gram.dtype))[order][:, order].contiguous()
    factored = torch.arange(d * o) < k * o
    if per != "element" and not isinstance(per, str):  # labels put the features in another order
        rotated = rotated[:, order[::o] // o]
    data = rotated.contiguous(), y.contiguous(), per == "column"
    return Coordinates(full, linear.flatten()[order], factored, group, rotation, order, *data)


def check_data(X: Tensor, y: Tensor) -> None:
    """Refuse data that are not one finite matrix (n, d) and a target (n,) or (n, o)."""
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"X must be a matrix of samples by features, not of shape {tuple(X.shape)}"
        )
    if y.ndim not in (1, 2) or y.shape[0] != X.shape[0] or 0 in y.shape:
        raise ValueError(
            f"y must hold one number, or one row, for each of {len(X)} samples, not "
            f"{tuple(y.shape)}"
        )
    for name, x in (("X", X), ("y", y)):
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite; clean the data first")


def _labels(per: Per, d: int, o: int) -> Tensor:
    """The group (d, o) of every weight."""
    if per == "row":
        return torch.arange(d)[:, None].expand(d, o)
    if per == "column":
        return torch.arange(o).expand(d, o)
    whole = not isinstance(per, str) and all(isinstance(x, int) for x in per)
    if not whole or len(per) != d:
        raise ValueError(
            f'per must be "element", "row", "column", or {d} whole numbers, not {per!r:.60}'
        )
    return torch.tensor(list(per))[:, None].expand(d, o)


def _complete(frame: Tensor | None, d: int) -> tuple[Tensor | None, int]:
    """Return [O, O_perp] (d, d) and the number k of columns of O; (None, d) without a frame."""
    if frame is None:
        return None, d
    columns = torch.as_tensor(frame, dtype=torch.float64, device="cpu").detach()
    if columns.ndim != 2 or columns.shape[0] != d or not 1 <= columns.shape[1] <= d:
        raise ValueError(
            f"frame must have shape ({d}, k) with k from 1 to {d}, not {tuple(columns.shape)}"
        )
    k = columns.shape[1]
    defect = float((columns.T @ columns - torch.eye(k, dtype=torch.float64)).abs().max())
    if not defect <= ORTHONORMAL:
        raise ValueError(f"the frame's columns must be orthonormal; O^T O is off by {defect:.1e}")
    left, _, _ = torch.linalg.svd(columns, full_matrices=True)
    return torch.cat([columns, left[:, k:]], 1), k
