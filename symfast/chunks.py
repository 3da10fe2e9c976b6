# SPDX-License-Identifier: Apache-2.0
"""Cut the tasks of a plan into chunks: the parts one thread or one thread block does."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from symfast.codes import Kind


class Grain(NamedTuple):
    """How large chunks are: ``elements`` each, at least ``rows`` rows or ``columns`` columns.

    Rows under one dense frame make chunks of ``long`` times as many elements, in multiples of
    ``whole`` rows. Units that are adjacent in memory, in runs shorter than ``run`` on average, are
    looked up one by one.
    """

    elements: int
    rows: int
    columns: int
    long: int = 8
    whole: int = 12  # 3 or 4 rows are done at once
    run: int = 8


#: A thread of a CPU walks memory: 16 rows are what SIMD lanes are filled from, 1024 columns a page
#: of float32 per unit. A GPU wants blocks by the hundred; 64 columns are two cache lines, and 8
#: rows give coefficients that fill a sector. It takes units that are looked up one by one by whole
#: rows of memory, while a run of 8 half-precision units is half a sector.
GRAINS = {"cpu": Grain(65536, 16, 1024), "cuda": Grain(16384, 16, 64, whole=8, run=32)}
CHUNK_FIELDS = ("task", "first", "k0", "k1", "o0", "o1", "c0", "c1", "partial")
TASK_FIELDS = (
    "kind", "tensor", "base", "outer", "outer_stride", "units", "unit_stride", "inner",
    "inner_stride", "pool", "count", "frame_step", "frame_row", "mirror", "mirror_step",
    "mirror_column_step", "group", "group_step", "out", "out_outer", "out_inner", "out_row",
)  # fmt: skip

Table = npt.NDArray[np.int64]


def cut(
    tasks: Table, mirrors: Table, members: Table, index: Table, grain: Grain = GRAINS["cpu"]
) -> Table:
    """Chunks (C, 9) for tasks (T, fields); they depend on sizes only, never on thread counts.

    ``mirrors`` and ``members`` hold, per task, the number of mirrors and of units they touch.

    Example:
        >>> import numpy as np
        >>> from symfast.chunks import TASK_FIELDS, cut
        >>> none = np.zeros((0, len(TASK_FIELDS)), np.int64)
        >>> cut(none, none[:, 0], none[:, 0], none[:, 0]).shape
        (0, 9)
    """
    field = {name: tasks[:, i] for i, name in enumerate(TASK_FIELDS)}
    work = members * field["outer"] * field["inner"]
    whole = np.zeros((len(tasks), len(CHUNK_FIELDS)), np.int64)
    whole[:, 0] = np.arange(len(tasks))
    whole[:, 3], whole[:, 5], whole[:, 7] = mirrors, field["outer"], field["inner"]
    if (work <= grain.elements).all():
        chunks = whole
    else:
        pieces = []
        start = 0
        for number in np.flatnonzero(work > grain.elements).tolist():
            pieces.append(whole[start:number])
            task = dict(zip(TASK_FIELDS, tasks[number].tolist(), strict=True))
            pieces.append(
                _cut_task(number, task, int(mirrors[number]), int(members[number]), index, grain)
            )
            start = number + 1
        pieces.append(whole[start:])
        chunks = np.concatenate(pieces)
    sizes = _partials(tasks, chunks)
    chunks[:, 8] = np.cumsum(sizes) - sizes
    return chunks


def partial_count(tasks: Table, chunks: Table) -> int:
    """Partial sums that norms need room for."""
    return int(_partials(tasks, chunks).sum())


def _partials(tasks: Table, chunks: Table) -> Table:
    """Sums of squares a chunk produces: one per mirror it touches."""
    owner = tasks[chunks[:, 0]]
    field = {name: owner[:, i] for i, name in enumerate(TASK_FIELDS)}
    dense = np.where(
        field["mirror_column_step"] > 0,
        field["count"],
        np.where(field["mirror_step"] > 0, chunks[:, 5] - chunks[:, 4], 1),
    )
    return np.where(field["kind"] == Kind.DENSE, dense, chunks[:, 3] - chunks[:, 2])


def _ranges(size: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _cut_task(
    number: Any, task: dict[str, int], mirrors: int, members: int, index: Table, grain: Grain
) -> Table:
    """Cut one large task so that a chunk walks memory in order."""
    outer, inner, elements = task["outer"], task["inner"], grain.elements
    outers, columns, ks = [(0, outer)], [(0, inner)], [(0, mirrors)]
    per_outer = max(members * inner, 1)
    many_rows = task["unit_stride"] == 1 and inner == 1 and task["kind"] != Kind.DENSE
    if many_rows and outer > 1:
        outers = _ranges(outer, max(1, elements // per_outer // grain.rows) * grain.rows)
    elif per_outer <= elements:
        height = max(1, elements // per_outer)
        if task["kind"] == Kind.DENSE and task["unit_stride"] == 1:
            if not task["frame_step"]:  # one frame for many rows: long chunks
                height = max(min(outer // 16, grain.long * height), grain.whole)
            height -= height % grain.whole if height > grain.whole else 0
        outers = _ranges(outer, height)
    else:
        outers = _ranges(outer, 1)
        per_mirror = max(members // max(mirrors, 1), 1) * inner
        if task["kind"] == Kind.DENSE:
            columns = _ranges(inner, max(grain.columns, elements // max(members, 1) // 64 * 64))
        elif per_mirror <= elements:
            ks = _ranges(mirrors, max(1, elements // per_mirror))
        else:
            ks = _ranges(mirrors, 1)
            columns = _ranges(inner, max(64, elements * inner // per_mirror // 64 * 64))
    first = _first_runs(task, [k0 for k0, _ in ks], index)
    rows = [
        (number, run, *k, *o, *c, 0)
        for o in outers
        for run, k in zip(first, ks, strict=True)
        for c in columns
    ]
    return np.array(rows, np.int64).reshape(-1, len(CHUNK_FIELDS))


def _first_runs(task: dict[str, int], starts: list[int], index: Table) -> list[int]:
    """The run that holds each first mirror (run-length index frames only)."""
    if task["kind"] not in (Kind.ROWS, Kind.PAIRS) or not task["count"]:
        return [0] * len(starts)
    runs = index[task["pool"] : task["pool"] + 4 * task["count"]].reshape(-1, 4)
    found: list[int] = (np.searchsorted(runs[:, 3], starts, side="right") - 1).tolist()
    return found
