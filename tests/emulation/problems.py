# SPDX-License-Identifier: Apache-2.0
"""Small plans that reach every path of the kernels, and what each verb makes of them in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import symfast as sf

REFLECT, PROJECT, SHRINK, PROX = range(4)
Make = Callable[..., torch.Tensor]
Entries = list[tuple[Any, Any]]


def maker(dtype: torch.dtype, offset: int) -> Make:
    """Tensors that start ``offset`` elements into their storage."""

    def make(*shape: int) -> torch.Tensor:
        size = int(torch.Size(shape).numel())
        return torch.randn(size + offset, dtype=torch.float64).to(dtype)[offset:].view(shape)

    return make


def _layer(make: Make, units: int, inputs: int) -> sf.Units:
    weight, bias, following = make(units, inputs), make(units), make(7, units)
    return sf.Units([(weight, 0), (bias, 0), (following, 1)])


def _frames(groups: int, d: int, k: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(groups, d, k, dtype=torch.float64)).Q


def _swap_pairs(units: int) -> sf.Swap:
    order = torch.randperm(units).tolist()
    return sf.Swap(order[: units // 3], order[units // 3 : units // 3 * 2])


def sign_flip(make: Make) -> Entries:
    flips = sf.SignFlip([0, 1, 2, 3, 4, 9, 11, 20])
    return [(_layer(make, 24, 40), flips), (_layer(make, 6, 3), sf.SignFlip())]


def swap(make: Make) -> Entries:
    runs = sf.Swap(list(range(10)), list(range(20, 30)))
    return [(_layer(make, 40, 72), runs), (_layer(make, 25, 33), _swap_pairs(25))]


def cluster(make: Make) -> Entries:
    labels = [0, 1, 0, -1, 1, 2] + [3] * 14
    return [(_layer(make, 20, 24), sf.Cluster(labels)), (_layer(make, 20, 5), sf.Cluster(labels))]


def gathered(make: Make) -> Entries:
    """Units last and looked up one by one: rows whole, with gaps, beside those of another block."""

    def last(w: torch.Tensor, symmetry: Any) -> tuple[Any, Any]:
        return sf.Units([(w, 1)]), symmetry

    order = torch.randperm(61).tolist()
    halves = make(19, 48)
    return [
        last(make(40, 48), sf.Cluster([i // 4 for i in range(48)])),
        last(make(21, 61), sf.Cluster([p % 13 - 1 for p in order])),
        last(make(9, 64), sf.Swap(range(0, 64, 2), range(1, 64, 2))),
        last(make(33, 50), _swap_pairs(50)),
        last(make(300, 7), sf.Swap([0, 4], [2, 3])),
        last(make(18, 48), sf.SignFlip(range(1, 48, 2))),
        last(halves[:, :21], sf.Swap(range(1, 20, 4), range(3, 20, 4))),
        last(halves[:, 21:], sf.Cluster([i % 9 for i in range(27)])),
    ]


def direction(make: Make) -> Entries:
    return [
        (_layer(make, 24, 40), sf.Direction(_frames(1, 24, 3)[0])),
        (_layer(make, 9, 6), sf.Direction(_frames(1, 9, 9)[0])),
        (_layer(make, 600, 17), sf.Direction(_frames(1, 600, 2)[0])),
    ]


def mirror(make: Make) -> Entries:
    return [
        (make(50, 16), sf.Mirror(_frames(50, 16, 2))),
        (make(3, 33), sf.Mirror(_frames(3, 33, 5))),
        (make(2, 1300), sf.Mirror(_frames(2, 1300, 3))),
        (make(6, 10), sf.Mirror(_frames(1, 60, 4)[0])),
        (_layer(make, 8, 12), sf.Mirror(_frames(1, 8, 2)[0])),
        (make(5, 2048), sf.Mirror(_frames(1, 2048, 4)[0])),
    ]


def convolution(make: Make) -> Entries:
    """The unit dim in the middle, last, and first of a transposed parameter."""
    units = sf.Units([(make(6, 10, 3, 3), 1), (make(4, 5, 10), 2), (make(8, 10).t(), 0)])
    return [(units, sf.Swap([0, 1, 2], [5, 6, 9]))]


def convolution_dense(make: Make) -> Entries:
    units = sf.Units([(make(6, 10, 4, 4), 1), (make(4, 5, 10), 2), (make(8, 10).t(), 0)])
    return [(units, sf.Direction(_frames(1, 10, 3)[0]))]


def large(make: Make) -> Entries:
    """More than one chunk of a GPU each: rows, columns, own frames, and frames with padded rows."""

    def units(rows: int, columns: int, dim: int) -> sf.Units:
        return sf.Units([(make(rows, columns), dim)])

    return [
        (units(700, 66, 1), sf.Direction(_frames(1, 66, 3)[0])),
        (units(40, 1024, 1), sf.Direction(_frames(1, 1024, 3)[0])),  # near rows are moved apart
        (units(96, 300, 0), sf.Direction(_frames(1, 96, 5)[0])),
        (units(512, 40, 0), sf.Direction(_frames(1, 512, 2)[0])),
        (make(1100, 16), sf.Mirror(_frames(1100, 16, 2))),
        (units(64, 520, 0), sf.Swap(list(range(32)), list(range(32, 64)))),
        (units(48, 400, 0), sf.Cluster([i % 12 for i in range(48)])),
        (units(500, 40, 1), sf.SignFlip()),
        (units(3, 17000, 0), sf.SignFlip([0, 2])),
    ]


PROBLEMS = {
    f.__name__: f
    for f in (sign_flip, swap, cluster, gathered, direction, mirror, convolution, convolution_dense)
}


def streaming(
    dtype: torch.dtype = torch.float32,
) -> dict[str, tuple[torch.Tensor, tuple[Any, Any]]]:
    """Tensors whose every element is read once and written once, and the entry of a plan."""

    def last(rows: int, units: int, symmetry: Any) -> tuple[torch.Tensor, tuple[Any, Any]]:
        w = torch.randn(rows, units).to(dtype)
        return w, (sf.Units([(w, 1)]), symmetry)

    def first(rows: int, columns: int, symmetry: Any) -> tuple[torch.Tensor, tuple[Any, Any]]:
        w = torch.randn(rows, columns).to(dtype)
        return w, (w, symmetry)

    return {
        "rows": first(64, 256, sf.SignFlip()),
        "units last": last(256, 64, sf.SignFlip()),
        "pairs": first(64, 1040 // dtype.itemsize, sf.Swap(list(range(32)), list(range(32, 64)))),
        "pairs, units last": last(256, 64, sf.Swap(list(range(32)), list(range(32, 64)))),
        "clusters": first(64, 256, sf.Cluster([i // 4 for i in range(64)])),
        "direction": first(128, 256, sf.Direction(_frames(1, 128, 4)[0])),
        "direction, units last": last(256, 128, sf.Direction(_frames(1, 128, 4)[0])),
        "mirror": first(64, 64, sf.Mirror(_frames(64, 64, 4))),
        "mirror, wide": first(8, 2048, sf.Mirror(_frames(1, 2048, 1)[0])),
    }


def gathered_streams(
    dtype: torch.dtype = torch.float32, rows: int = 64, units: int = 256
) -> dict[str, tuple[torch.Tensor, tuple[Any, Any]]]:
    """Tensors with units last that are looked up one by one, and the entry of a plan."""
    generator = torch.Generator().manual_seed(units)
    order = torch.randperm(units, generator=generator).tolist()
    half, fours, most = units // 2, units // 4 * 4, units // 8 * 7
    symmetries = {
        "clusters of four neighbours": sf.Cluster([i // 4 for i in range(units)]),
        "clusters of any four": sf.Cluster([p // 4 for p in order]),
        "clusters of any four, some left out": sf.Cluster(
            [p // 4 if p < most else -1 for p in order]
        ),
        "neighbours swapped": sf.Swap(range(0, 2 * half, 2), range(1, 2 * half, 2)),
        "runs of eight swapped": sf.Swap(
            [i for i in range(units // 16 * 16) if i % 16 < 8],
            [i for i in range(units // 16 * 16) if i % 16 >= 8],
        ),
        "any pairs swapped": sf.Swap(order[:half], order[half : 2 * half]),
        "any pairs swapped, half of all": sf.Swap(order[: half // 2], order[half : half // 2 * 3]),
        "every other unit swapped": sf.Swap(range(0, fours, 4), range(2, fours, 4)),
        "every other unit": sf.SignFlip(range(1, units, 2)),
        "any unit": sf.SignFlip(order),
    }
    tensors = {name: torch.randn(rows, units).to(dtype) for name in symmetries}
    return {n: (w, (sf.Units([(w, 1)]), symmetries[n])) for n, w in tensors.items()}


@dataclass
class Problem:
    """Entries on fresh tensors, their plan, and copies of the tensors to start from."""

    entries: Entries
    plan: sf.Plan

    @property
    def part(self) -> Any:
        return self.plan._compiled.parts[0]

    def tensors(self) -> list[torch.Tensor]:
        return self.part.tensors

    def amounts(self) -> torch.Tensor:
        """A different amount for every group."""
        amounts = torch.linspace(0.2, 0.9, self.plan.groups, dtype=torch.float64)
        return amounts.to(self.part.accumulate)


def problem(name: str, dtype: torch.dtype, offset: int = 0) -> Problem:
    """One of PROBLEMS, or ``large``, reproducibly."""
    torch.manual_seed(len(name))
    entries = (PROBLEMS | {"large": large})[name](maker(dtype, offset))
    return Problem(entries, sf.Plan(entries))


def expected(case: Problem, verb: int) -> list[torch.Tensor]:
    """All parameters after the verb, float64, through dense frames: ``U + A (f(C) - C)``."""
    wanted = [tensor.double().clone() for tensor in case.tensors()]
    new = {id(t): w for t, w in zip(case.tensors(), wanted, strict=True)}
    amounts = iter(case.amounts().tolist())
    for target, symmetry in case.entries:
        for views, frame in _unit_matrices(target, symmetry, new):
            matrix = torch.cat([view.reshape(view.shape[0], -1) for view in views], dim=1)
            c = frame.mT @ matrix
            changed = matrix + frame @ (_new(c, verb, next(amounts)) - c)
            for view in views:
                width = view[0].numel()
                view.copy_(changed[:, :width].reshape(view.shape))
                changed = changed[:, width:]
    return wanted


def _new(c: torch.Tensor, verb: int, amount: float) -> torch.Tensor:
    if verb == REFLECT:
        return -c
    if verb == PROJECT:
        return torch.zeros_like(c)
    return c * (1 - amount) if verb == SHRINK else c.sign() * (c.abs() - amount).clamp(min=0)


def _unit_matrices(target: Any, symmetry: Any, new: dict[int, torch.Tensor]) -> Any:
    """(views with units first, frame) of every group of an entry, on the new values."""
    if isinstance(target, sf.Units):
        views = [_of(new, tensor).movedim(dim, 0) for tensor, dim in target]
        yield views, symmetry.frame(target.m)
        return
    tensor, frames = _of(new, target), symmetry.matrix.double()
    if frames.shape[-2] == tensor.numel():
        yield [tensor.view(-1, 1)], frames
        return
    rows = tensor.view(-1, tensor.shape[-1])
    for row, frame in zip(rows, frames.expand(rows.shape[0], *frames.shape[-2:]), strict=True):
        yield [row[:, None]], frame


def _of(new: dict[int, torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    """The same view of the new values of a tensor's base."""
    base = tensor if tensor._base is None else tensor._base
    found = new[id(base)] if id(base) in new else new[id(tensor)]
    offset = tensor.storage_offset() if id(base) in new and base is not tensor else 0
    return found.as_strided(tensor.shape, tensor.stride(), offset)
