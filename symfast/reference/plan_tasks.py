# SPDX-License-Identifier: Apache-2.0
"""The tasks of csrc/plan.h, read one at a time in plain torch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symfast.codes import Kind
from symfast.plan_tables import Tables


@dataclass(frozen=True)
class Task:
    """A row of the table; the fields are those of csrc/plan.h."""

    kind: int
    tensor: int
    base: int
    outer: int
    outer_stride: int
    units: int
    unit_stride: int
    inner: int
    inner_stride: int
    pool: int
    count: int
    frame_step: int
    frame_row: int
    mirror: int
    mirror_step: int
    mirror_column_step: int
    group: int
    group_step: int
    out: int
    out_outer: int
    out_inner: int
    out_row: int


def walk(tensors: list[Tensor], tables: Tables) -> Iterator[tuple[Task, Tensor]]:
    """Every task with its view of a parameter, (outer, units, inner)."""
    for row in tables.tasks.tolist():
        task = Task(*row)
        tensor = tensors[task.tensor]
        shape = (task.outer, task.units, task.inner)
        strides = (task.outer_stride, task.unit_stride, task.inner_stride)
        yield task, tensor.as_strided(shape, strides, tensor.storage_offset() + task.base)


def pairs(task: Task, index: Tensor) -> tuple[Tensor, Tensor]:
    """The units a and b of every mirror of an index frame."""
    if task.kind in (Kind.ROWS_SCATTERED, Kind.PAIRS_SCATTERED):
        words = index[task.pool : task.pool + task.count]
        return words & 0xFFFFFFFF, words >> 32
    runs = index[task.pool : task.pool + 4 * task.count].reshape(-1, 4).tolist()
    a = [a + i for a, _, length, _ in runs for i in range(length)]
    b = [b + i for _, b, length, _ in runs for i in range(length)]
    return index.new_tensor(a), index.new_tensor(b)


def clusters(task: Task, index: Tensor) -> list[Tensor]:
    """The members of every cluster."""
    start = task.pool + task.count + 1
    offsets = index[task.pool : start].tolist()
    return [index[start + i : start + j] for i, j in zip(offsets, offsets[1:], strict=False)]


def frame_of(task: Task, frames: Tensor) -> Tensor:
    """A of a dense task, (outer or 1, units, k)."""
    count = task.outer if task.frame_step else 1
    shape, strides = (count, task.count, task.units), (task.frame_step, task.frame_row, 1)
    frame: Tensor = frames.as_strided(shape, strides, frames.storage_offset() + task.pool)
    return frame.transpose(-2, -1)


def mirror_count(task: Task, index: Tensor) -> int:
    """Mirrors of one outer index; of a dense frame, its columns."""
    return len(pairs(task, index)[0]) if task.kind in (Kind.ROWS, Kind.PAIRS) else task.count


def mirror_numbers(task: Task, index: Tensor) -> Tensor:
    """The number of every mirror of a task, (outer, mirrors)."""
    outer = torch.arange(task.outer, device=index.device)[:, None] * task.mirror_step
    row = torch.arange(mirror_count(task, index), device=index.device)
    if task.kind == Kind.DENSE:
        row = row * task.mirror_column_step
    return task.mirror + outer + row


def group_numbers(task: Task, device: torch.device) -> Tensor:
    """The group of every outer index, (outer, 1)."""
    return task.group + torch.arange(task.outer, device=device)[:, None] * task.group_step
