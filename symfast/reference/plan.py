# SPDX-License-Identifier: Apache-2.0
"""The plan operators in plain torch: one task of csrc/plan.h at a time, chunks ignored."""

import torch
from torch import Tensor

from symfast.codes import (
    ACCUMULATE,
    PER_GROUP,
    PER_MIRROR,
    PROJECT,
    PROX,
    REFLECT,
    SHRINK,
    UNIFORM,
    Kind,
)
from symfast.plan_tables import Tables
from symfast.reference.plan_tasks import (
    Task,
    clusters,
    frame_of,
    group_numbers,
    mirror_count,
    mirror_numbers,
    pairs,
    walk,
)


def plan_check(tensors: list[Tensor], tables: Tables) -> None:
    """Refuse tensors whose shape, strides, dtype or device is not what the plan was made for."""
    expected, frames = tables.layout.tolist(), tables.frames
    position = 0
    for number, tensor in enumerate(tensors):
        dims = expected[position] if position < len(expected) else -1
        sizes = expected[position + 1 : position + 1 + dims]
        strides = expected[position + 1 + dims : position + 1 + 2 * dims]
        position += 1 + 2 * dims
        if list(tensor.shape) != sizes or list(tensor.stride()) != strides:
            raise RuntimeError(
                f"parameter {number} of the plan has sizes {list(tensor.shape)} and strides "
                f"{list(tensor.stride())}, but had sizes {sizes} and strides {strides} when the "
                "plan was made; make a new plan"
            )
        if tensor.dtype != tensors[0].dtype or ACCUMULATE.get(tensor.dtype) != frames.dtype:
            raise RuntimeError(
                f"parameter {number} of the plan is {tensor.dtype} now; make a new plan"
            )
        if tensor.device != tensors[0].device or tensor.device != frames.device:
            raise RuntimeError(
                f"parameter {number} of the plan is on {tensor.device} and the plan on "
                f"{frames.device}; call plan.to(device)"
            )
    if position != len(expected):
        raise RuntimeError("the plan was made for another number of parameters; make a new plan")


def _checked(tensors: list[Tensor], tables: Tables) -> tuple[Tensor, Tensor]:
    """The index pool and the frames on the parameters' device, which is the plan's."""
    plan_check(tensors, tables)
    return tables.index.to(tables.frames.device), tables.frames


def plan_apply_(
    tensors: list[Tensor],
    tables: Tables,
    verb: int,
    amount: float = 0.0,
    amounts: Tensor | None = None,
    amount_index: int = UNIFORM,
) -> None:
    """``U <- U + A (f(C) - C)`` for every task; see csrc/plan.h for the tables."""
    index, frames = _checked(tensors, tables)
    if verb not in (REFLECT, PROJECT, SHRINK, PROX):
        raise RuntimeError(f"verb {verb} does not change parameters; it must be 0 to 3")
    for task, view in walk(tensors, tables):
        if not mirror_count(task, index):
            continue
        matrix = view.to(frames.dtype)  # (outer, units, inner)
        a = _amounts(task, index, amounts, amount, amount_index, matrix)
        if task.kind in (Kind.ROWS, Kind.ROWS_SCATTERED):
            units, _ = pairs(task, index)
            view[:, units] = new_coefficients(matrix[:, units], verb, a).to(view.dtype)
        elif task.kind in (Kind.PAIRS, Kind.PAIRS_SCATTERED):
            first, second = pairs(task, index)
            u, w = _new_pair(matrix[:, first], matrix[:, second], verb, a)
            view[:, first], view[:, second] = u.to(view.dtype), w.to(view.dtype)
        elif task.kind == Kind.CLUSTERS:
            for number, members in enumerate(clusters(task, index)):
                one = a if a.shape[1] == 1 else a[:, number : number + 1]
                view[:, members] = new_cluster(matrix[:, members], verb, one).to(view.dtype)
        else:
            frame = frame_of(task, frames)  # (outer or 1, units, k)
            c = frame.mT @ matrix
            view.copy_(matrix + frame @ (new_coefficients(c, verb, a) - c))


def plan_norms(
    tensors: list[Tensor],
    tables: Tables,
    before: Tensor | None = None,
    per: int = PER_MIRROR,
    root: bool = False,
) -> Tensor:
    """Sums of squares, (mirrors,) or (groups,) float64, that go on from others, or their roots."""
    index, frames = _checked(tensors, tables)
    if per not in (PER_GROUP, PER_MIRROR):
        raise RuntimeError(f"norms are per group (1) or per mirror (2), not {per}")
    count = tables.groups if per == PER_GROUP else tables.mirrors
    total = torch.zeros(count, dtype=torch.float64, device=frames.device)
    if before is not None and (before.shape != total.shape or before.dtype != total.dtype):
        raise RuntimeError("sums to go on from must be float64 and as many as the norms")
    total = total if before is None else total + before
    for task, view in walk(tensors, tables):
        c = _coefficients(task, view.to(frames.dtype), index, frames)
        squares = c.double().square_().sum(2)  # (outer, k)
        if per == PER_GROUP:
            outer = torch.arange(task.outer, device=frames.device)
            total.index_add_(0, task.group + outer * task.group_step, squares.sum(1))
        else:
            total.index_add_(0, _mirrors(task, index, squares).flatten(), squares.flatten())
    return total.sqrt_() if root else total


def group_shrinkage(norms: Tensor, t: Tensor) -> Tensor:
    """What mirrors are shrunk by, 1 - max(0, 1 - t / ||C||); NaN norms stay NaN."""
    return torch.where(norms <= t, 1.0, t / norms)


def plan_prox_group_(
    tensors: list[Tensor],
    tables: Tables,
    threshold: float = 0.0,
    thresholds: Tensor | None = None,
) -> None:
    """``C <- max(0, 1 - t / ||C||) C`` for every mirror; thresholds are float64, by group."""
    norms = plan_norms(tensors, tables, None, PER_MIRROR, True)
    index, frames = _checked(tensors, tables)
    if thresholds is not None and thresholds.dtype != torch.float64:
        raise RuntimeError("thresholds must be float64")
    t = torch.full_like(norms, threshold)
    for task, _ in walk(tensors, tables):
        if thresholds is not None and mirror_count(task, index):
            numbers = mirror_numbers(task, index)
            t[numbers] = thresholds[group_numbers(task, index.device)].expand_as(numbers)
    amounts = group_shrinkage(norms, t).to(frames.dtype)
    plan_apply_(tensors, tables, SHRINK, 0.0, amounts, PER_MIRROR)


def plan_coefficients(tensors: list[Tensor], tables: Tables) -> Tensor:
    """All coefficients ``C = A^T U``, flat; (numel,) in the type sums are kept in."""
    index, frames = _checked(tensors, tables)
    flat = torch.zeros(tables.numel, dtype=frames.dtype, device=frames.device)
    for task, view in walk(tensors, tables):
        c = _coefficients(task, view.to(frames.dtype), index, frames)  # (outer, k, inner)
        steps = (task.out_outer, task.out_row, task.out_inner)
        flat.as_strided(c.shape, steps, task.out).copy_(c)
    return flat


def _coefficients(task: Task, matrix: Tensor, index: Tensor, frames: Tensor) -> Tensor:
    """C of a task, (outer, k, inner)."""
    if task.kind in (Kind.ROWS, Kind.ROWS_SCATTERED):
        return matrix[:, pairs(task, index)[0]]
    if task.kind in (Kind.PAIRS, Kind.PAIRS_SCATTERED):
        a, b = pairs(task, index)
        first, second = matrix[:, a], matrix[:, b]
        return torch.mul(first - second, 0.5**0.5)
    if task.kind == Kind.DENSE:
        frame: Tensor = frame_of(task, frames)
        return torch.matmul(frame.transpose(-2, -1), matrix)
    parts = [_helmert(matrix[:, members]) for members in clusters(task, index)]
    return torch.cat([matrix[:, :0], *parts], dim=1)


def _helmert(members: Tensor) -> Tensor:
    """c_j = (sum_{i<=j} d_i - (j+1) d_{j+1}) / sqrt((j+1)(j+2)), d_i = u_i - u_0."""
    d = members - members[:, :1]
    j = torch.arange(1, d.shape[1], dtype=d.dtype, device=d.device)[:, None]
    return (d.cumsum(1)[:, :-1] - j * d[:, 1:]) / (j * (j + 1)).sqrt()


def _mirrors(task: Task, index: Tensor, squares: Tensor) -> Tensor:
    """The mirror of every coefficient row, (outer, k)."""
    outer = torch.arange(squares.shape[0], device=squares.device)[:, None] * task.mirror_step
    row = torch.arange(squares.shape[1], device=squares.device)
    if task.kind == Kind.DENSE:
        row = row * task.mirror_column_step
    elif task.kind == Kind.CLUSTERS:
        sizes = [len(members) - 1 for members in clusters(task, index)]
        row = torch.repeat_interleave(
            torch.arange(len(sizes), device=row.device), index.new_tensor(sizes)
        )
    return task.mirror + outer + row


def _amounts(
    task: Task, index: Tensor, amounts: Tensor | None, amount: float, per: int, matrix: Tensor
) -> Tensor:
    """Amounts that broadcast against (outer, mirrors or k, inner)."""
    if per == UNIFORM or amounts is None:
        return matrix.new_full((1, 1, 1), amount)
    if per == PER_GROUP:
        return amounts[group_numbers(task, matrix.device)][:, :, None]
    return amounts[mirror_numbers(task, index)][:, :, None]


def _soft(c: Tensor, t: Tensor) -> Tensor:
    return torch.where(c > t, c - t, torch.where(c < -t, c + t, c - c))


def new_coefficients(c: Tensor, verb: int, amount: Tensor) -> Tensor:
    """f(c) for every coefficient.

    Example:
        >>> import torch
        >>> from symfast.codes import PROX
        >>> from symfast.reference.plan import new_coefficients
        >>> new_coefficients(torch.tensor([3.0, -0.5]), PROX, torch.tensor(1.0)).tolist()
        [2.0, 0.0]
    """
    if verb == REFLECT:
        return -c
    if verb == PROJECT:
        return c - c  # not 0: NaN and infinity must show
    return c * (1 - amount) if verb == SHRINK else _soft(c, amount)


def _new_pair(a: Tensor, b: Tensor, verb: int, amount: Tensor) -> tuple[Tensor, Tensor]:
    """A swap: reflect exchanges, project averages once for both."""
    if verb == REFLECT:
        return b, a
    mean = (a + b) * 0.5
    if verb == PROJECT:
        return mean, mean
    half = (a - b) * 0.5
    half = half * (1 - amount) if verb == SHRINK else _soft(half, amount * 0.5**0.5)
    return mean + half, mean - half


def new_cluster(u: Tensor, verb: int, amount: Tensor) -> Tensor:
    """A cluster (outer, c, inner): mean = u_0 + sum(u_i - u_0) / c is exact for equal members.

    Example:
        >>> import torch
        >>> from symfast.codes import PROJECT
        >>> from symfast.reference.plan import new_cluster
        >>> u = torch.tensor([[[1.0], [3.0]]])
        >>> new_cluster(u, PROJECT, torch.zeros(1, 1, 1)).flatten().tolist()
        [2.0, 2.0]
    """
    count = u.shape[1]
    mean = u[:, :1] + (u - u[:, :1]).sum(1, keepdim=True) / count
    if verb == PROX:
        c = _soft(_helmert(u), amount)
        j = torch.arange(1, count, dtype=u.dtype, device=u.device)[:, None]
        c = c / (j * (j + 1)).sqrt()
        rest = c.flip(1).cumsum(1).flip(1)  # sum over columns >= j, what member j gets from them
        zero = torch.zeros_like(rest[:, :1])
        return mean + torch.cat([rest, zero], 1) - torch.cat([zero, c * j], 1)
    if verb == PROJECT:
        return mean.expand_as(u)
    return mean + (u - mean) * (-1 if verb == REFLECT else 1 - amount)
