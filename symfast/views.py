# SPDX-License-Identifier: Apache-2.0
"""How a strided tensor looks from one of its dims: units and columns as plain strides."""

from typing import NamedTuple

import torch

from symfast.errors import PlanError

#: More separate pieces than this and a copy is the better plan.
MOST_PIECES = 65536


class View(NamedTuple):
    """One piece of a tensor: ``element(o, i, c) = base + o*outer_stride + i*unit_stride + ...``.

    ``base`` counts from the tensor's first element.

    ``column`` numbers the columns of U in row-major order of the other dims: column of (o, c) is
    ``column + o*outer_column + c*inner_column``.
    """

    base: int
    outer: int
    outer_stride: int
    units: int
    unit_stride: int
    inner: int
    inner_stride: int
    column: int
    outer_column: int
    inner_column: int


def owner(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The tensor whose memory this one views, and the offset in it.

    Views of one flat parameter thus cost a plan one pointer, and follow the parameter when its
    data is swapped.
    """
    base = tensor._base
    if base is None or base.layout != torch.strided or base.dtype != tensor.dtype:
        return tensor, 0
    offset = int(tensor.storage_offset()) - int(base.storage_offset())
    return (base, offset) if offset >= 0 else (tensor, 0)


def unit_views(
    shape: tuple[int, ...], strides: tuple[int, ...], dim: int, columns_apart: bool
) -> list[View]:
    """Split a tensor into views along ``dim``; ``columns_apart`` keeps one column per outer step.

    Raises:
        PlanError: (a ValueError) if elements overlap or the layout falls into too many pieces.

    Example:
        >>> from symfast.views import unit_views
        >>> [v.inner for v in unit_views((4, 3, 2), (6, 2, 1), 1, False)]
        [2]
    """
    units, unit_stride = shape[dim], strides[dim]
    if 0 in shape:
        return []
    _refuse_overlap(shape, strides)
    levels = _columns(shape, strides, dim)
    inner = (1, 1, 0)
    if levels and not columns_apart and not (unit_stride == 1 and units > 1):
        inner = levels.pop()
    outer = (1, 0, 0)
    if levels:
        outer = levels.pop(max(range(len(levels)), key=lambda i: levels[i][0]))
    pieces = [(0, 0)]
    for size, stride, column in levels:
        if len(pieces) * size > MOST_PIECES:
            raise PlanError(
                f"a tensor of shape {shape} and strides {strides} falls into more than "
                f"{MOST_PIECES} pieces along dim {dim}; use tensor.contiguous()"
            )
        pieces = [(b + i * stride, c + i * column) for b, c in pieces for i in range(size)]
    return [
        View(b, *outer[:2], units, unit_stride, *inner[:2], c, outer[2], inner[2])
        for b, c in pieces
    ]


def _columns(
    shape: tuple[int, ...], strides: tuple[int, ...], dim: int
) -> list[tuple[int, int, int]]:
    """The other dims as (size, stride, column step), merged where memory and columns agree."""
    levels: list[tuple[int, int, int]] = []
    column = 1
    for d in range(len(shape) - 1, -1, -1):
        if d == dim:
            continue
        if shape[d] > 1:
            levels.append((shape[d], strides[d], column))
        column *= shape[d]
    levels.sort(key=lambda level: -level[1])
    merged: list[tuple[int, int, int]] = []
    for size, stride, step in levels:
        if merged:
            before, before_stride, before_step = merged[-1]
            if before_stride == size * stride and before_step == size * step:
                merged[-1] = (before * size, stride, step)
                continue
        merged.append((size, stride, step))
    return merged


def _refuse_overlap(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Elements are distinct if every stride clears the span of all smaller ones."""
    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride <= reach:
            raise PlanError(
                f"a tensor of shape {shape} and strides {strides} holds the same memory more than "
                "once (expanded or overlapping); use tensor.clone() as the parameter"
            )
        reach += (size - 1) * stride
