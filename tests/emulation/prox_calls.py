# SPDX-License-Identifier: Apache-2.0
"""Calls of the group prox of plans on CUDA: norms and shrinkage in one launch."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import emulated
import problems
import torch
from family import HALF, Call, Family, Stream, Tensors, addresses, structure, untouched
from torch import Tensor

import symfast as sf
from symfast import chunks
from symfast.chunks import partial_count

FIELDS: list[tuple[str, Any]] = [(n, ctypes.c_void_p) for n in ("tasks", "chunks", "index")]
FIELDS += [("chunk_count", ctypes.c_int64), ("frames", ctypes.c_void_p), ("dense", ctypes.c_int64)]
FIELDS += [("thresholds", ctypes.c_void_p), ("threshold", ctypes.c_double)]
FIELDS += [("data", ctypes.POINTER(ctypes.c_void_p)), ("data_count", ctypes.c_int64)]
FIELDS += [("pointers", ctypes.c_void_p), ("mirrors", ctypes.c_int64)]
FIELDS += [("partials", ctypes.c_int64), ("workspace", ctypes.c_void_p), ("tag", ctypes.c_int64)]
Arguments = structure(FIELDS)
#: Words of the workspace that blocks count by.
COUNTERS = 2


def alone(make: problems.Make) -> problems.Entries:
    """Every mirror in one block: one tensor each, and none of them large."""
    return [
        (sf.Units([(make(24, 40), 0)]), sf.SignFlip([0, 1, 2, 3, 4, 9, 11, 20])),
        (sf.Units([(make(9, 40), 1)]), sf.SignFlip()),
        (sf.Units([(make(40, 72), 0)]), sf.Swap(list(range(10)), list(range(20, 30)))),
        (sf.Units([(make(33, 26), 1)]), problems._swap_pairs(26)),
        (sf.Units([(make(20, 24), 0)]), sf.Cluster([0, 1, 0, -1, 1, 2] + [3] * 14)),
    ]


def alone_dense(make: problems.Make) -> problems.Entries:
    """The same of dense frames."""
    frames = problems._frames
    return [
        (sf.Units([(make(24, 40), 0)]), sf.Direction(frames(1, 24, 3)[0])),
        (sf.Units([(make(30, 12), 1)]), sf.Direction(frames(1, 12, 2)[0])),
        (make(50, 16), sf.Mirror(frames(50, 16, 2))),
        (make(3, 33), sf.Mirror(frames(3, 33, 5))),
        (make(6, 10), sf.Mirror(frames(1, 60, 4)[0])),
    ]


def long(make: problems.Make) -> problems.Entries:
    """Runs of mirrors of so many parts that a whole block adds them up."""
    units = sf.Units([(make(640, 128), 1), (make(24, 128), 1)])
    return [(units, sf.SignFlip()), (sf.Units([(make(3, 5), 0)]), sf.SignFlip([1]))]


PROBLEMS = problems.PROBLEMS | {
    "alone": alone, "alone_dense": alone_dense, "long": long, "large": problems.large
}  # fmt: skip


@contextmanager
def cut(elements: int, columns: int = 8) -> Iterator[None]:
    """Plans that are made meanwhile are cut into chunks of so many elements; 0: as for a GPU."""
    before, grain = chunks.GRAINS["cpu"], chunks.GRAINS["cuda"]
    if elements:
        grain = grain._replace(elements=elements, columns=columns)
    chunks.GRAINS["cpu"] = grain
    try:
        yield
    finally:
        chunks.GRAINS["cpu"] = before


def made(name: str, dtype: torch.dtype, offset: int, elements: int = 0) -> problems.Problem:
    """A plan on fresh tensors, the same every time."""
    torch.manual_seed(len(name))
    entries = PROBLEMS[name](problems.maker(dtype, offset))
    with cut(elements):
        return problems.Problem(entries, sf.Plan(entries))


def thresholds_of(case: problems.Problem) -> Tensor:
    """Another threshold for every group: some mirrors vanish, some do not."""
    return torch.linspace(0.2, 5.0, case.plan.groups, dtype=torch.float64)


def expected(case: problems.Problem) -> list[Tensor]:
    """All parameters after the verb, float64, through dense frames."""
    wanted = [tensor.double().clone() for tensor in case.tensors()]
    new = {id(t): w for t, w in zip(case.tensors(), wanted, strict=True)}
    thresholds = iter(thresholds_of(case).tolist())
    for target, symmetry in case.entries:
        for views, frame in problems._unit_matrices(target, symmetry, new):
            matrix = torch.cat([view.reshape(view.shape[0], -1) for view in views], dim=1)
            c, t = frame.mT @ matrix, next(thresholds)
            mirror = isinstance(symmetry, sf.Mirror)
            sizes = [len(c)] if mirror else symmetry.mirrors(len(matrix))
            factors = [(1 - t / b.norm()).clamp(min=0).expand(len(b)) for b in c.split(sizes)]
            changed = matrix - frame @ (c * (1 - torch.cat(factors))[:, None])
            for view in views:
                width = view[0].numel()
                view.copy_(changed[:, :width].reshape(view.shape))
                changed = changed[:, width:]
    return wanted


def workspace_of(part: Any, mirrors: int) -> Tensor:
    """Poisoned memory, as much as any plan needs."""
    partials = partial_count(part.tables.tasks.numpy(), part.tables.chunks.numpy())
    return torch.full((3 * partials + mirrors + COUNTERS,), float("nan"), dtype=torch.float64)


def launch(
    emulator: emulated.Emulator,
    part: Any,
    mirrors: int,
    thresholds: Tensor | None,
    threshold: float = 0.0,
    workspace: Tensor | None = None,
) -> None:
    """The launcher on a part of a plan."""
    emulator.start()
    tables = part.tables
    partials = partial_count(tables.tasks.numpy(), tables.chunks.numpy())
    if workspace is None:
        workspace = workspace_of(part, mirrors)
    pointers = torch.zeros(max(1, len(part.tensors)), dtype=torch.int64)
    tensors = {n: getattr(tables, n) for n in ("tasks", "chunks", "index", "frames")}
    tensors |= {"thresholds": thresholds, "pointers": pointers, "workspace": workspace}
    call = Arguments(
        chunk_count=tables.chunks.shape[0], dense=tables.frames.numel() > 0, threshold=threshold,
        data_count=len(part.tensors), mirrors=mirrors, partials=partials, tag=emulated.TAG,
    )  # fmt: skip
    for name, tensor in tensors.items():
        setattr(call, name, emulator.allow(name, tensor))
    call.data = addresses(emulator, "parameters", part.tensors)
    emulator.call("emulated_prox_group", call, 0)


def call(name: str, dtype: torch.dtype, offset: int, elements: int = 0) -> Call:
    """A threshold for every group."""

    def run(emulator: emulated.Emulator) -> Tensors:
        case = made(name, dtype, offset, elements)
        launch(emulator, case.part, case.plan.mirrors, thresholds_of(case))
        return {str(i): t for i, t in enumerate(case.tensors())}

    def wanted() -> Tensors:
        case = made(name, dtype, offset, elements)
        return {str(i): t for i, t in enumerate(expected(case))}

    return Call(run, wanted)


def huge() -> Call:
    """A tensor of 2^31 + 64 elements and some, of which the last rows are looked at."""
    rows, width = 2**21 + 64, 1024
    w = untouched(rows, width, dtype=torch.bfloat16)
    tail = w[-2:]
    values = torch.randn(2, width).bfloat16()

    def run(emulator: emulated.Emulator) -> Tensors:
        tail.copy_(values)
        with cut(0):
            plan = sf.Plan([(w, sf.SignFlip(range(rows - 2, rows)))])
        launch(emulator, plan._compiled.parts[0], plan.mirrors, None, 3.0)
        return {"tail": tail}

    x = values.double()
    return Call(run, lambda: {"tail": x * (1 - 3 / x.norm(dim=1, keepdim=True))})


def stream(name: str, dtype: torch.dtype = torch.float32) -> Stream:
    """Mirrors of one block each: read twice, for norms and for shrinkage, and written once."""
    shapes = {
        "rows": lambda w: (w, sf.SignFlip()),
        "clusters": lambda w: (w, sf.Cluster([i // 4 for i in range(64)])),
        "pairs": lambda w: (w, sf.Swap(list(range(32)), list(range(32, 64)))),
        "mirrors": lambda w: (w, sf.Mirror(problems._frames(64, 256, 2))),
    }
    given = torch.randn(64, 256).to(dtype)

    def run(emulator: emulated.Emulator) -> Tensors:
        w = given.clone()
        with cut(0):
            plan = sf.Plan([shapes[name](w)])
        launch(emulator, plan._compiled.parts[0], plan.mirrors, None, 0.5)
        return {"parameters": w}

    read = {"parameters": 2 * given.nbytes}
    if name == "mirrors":
        read["frames"] = 2 * 64 * 256 * 2 * 4
    return Stream(Call(run, dict), dtype, read, {"parameters": given.nbytes})


SPREAD = {"elements": 64}
FAMILY = Family(
    source="plan_prox_group.cpp",
    dtypes=tuple(emulated.TYPES),
    calls={
        "alone": partial(call, "alone"),
        "alone_dense": partial(call, "alone_dense"),
        "long, cut": partial(call, "long", **SPREAD),
        "frames of both kinds": partial(call, "large"),
    }
    | {name: partial(call, name) for name in problems.PROBLEMS}
    | {f"{name}, cut": partial(call, name, **SPREAD) for name in problems.PROBLEMS},
    # every way: one block a chunk, two; all kinds of frames; rows in shared memory
    sanitized=("alone", "alone_dense", "gathered", "swap, cut", "mirror, cut"),
    tolerance={torch.float64: 32, torch.float32: 32} | dict.fromkeys(HALF, 0.51),
    planted=(
        ("plan_prox_group.cuh:gridDim.x / 2);=>gridDim.x / 2 + 1);", "swap, cut"),
        ("plan_prox_group.cuh:number < gridDim.x / 2;=>number > gridDim.x / 2;", "swap, cut"),
        ("plan_prox_group.cuh:gridDim.x - 1 - number;=>gridDim.x - 2 - number;", "swap, cut"),
        ("plan_prox_group.cuh:slots));\n  __syncthreads();\n=>slots));\n", "alone"),
        ("turns.cuh:if (counts(counter, found) == 0)=>if (false)", "swap, cut"),
        ("device.h:    return load(p);\n=>    return load_table(p);\n", "alone"),
        ("plan_work.cuh:chunk.partial - chunk.k0=>chunk.partial", "swap, cut"),
        ("plan_work.cuh:chunk.partial - chunk.o0, 1, 1}=>chunk.partial, 1, 1}", "mirror, cut"),
    ),
    huge=huge,
    streams={name: partial(stream, name) for name in ("rows", "clusters", "pairs", "mirrors")}
    | {f"rows {str(d)[6:]}": partial(stream, "rows", d) for d in emulated.TYPES},
)
