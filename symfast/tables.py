# SPDX-License-Identifier: Apache-2.0
"""Compile (parameters, symmetry) entries into the flat tables of csrc/plan.h."""

import weakref
from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from symfast import plan_ops
from symfast.chunks import GRAINS, TASK_FIELDS, cut
from symfast.codes import ACCUMULATE, Kind
from symfast.plan_tables import Tables, layout_of, transposed_frames
from symfast.symmetry import Cluster, Direction, Indices, Mirror, SignFlip, Swap, Symmetry
from symfast.views import View, owner, unit_views

#: With fewer columns beside each unit, runs shorter than this on average are stored unit by unit.
SHORT_RUN = 8
DENSE = int(Kind.DENSE)
#: Rows of A^T whose lengths are multiples of this meet in the same sets of the first-level cache;
#: a frame that many columns share gets a gap of a cache line or two between its rows.
NEAR_ROWS, ROW_GAP = 512, 16
#: The coefficients of an entry start where a sector of a GPU does: 32 bytes of float32.
SECTOR = 8


class Member(NamedTuple):
    """One tensor of an entry, seen from one replica: which dim holds units.

    ``batch``: the other dims are groups of their own, not columns of one unit matrix.
    """

    tensor: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dim: int
    replica_stride: int = 0
    batch: bool = False


class Entry(NamedTuple):
    """A symmetry on its members, with the numbers of its first group and mirror.

    ``columns`` is k; ``batch`` the number of groups; ``mirrors`` those of one group.
    """

    number: int
    members: list[Member]
    symmetry: Symmetry
    units: int
    columns: int
    group: int
    mirror: int
    mirrors: int
    batch: int = 1


class Piece(NamedTuple):
    """Where the coefficients of one member lie in a part's flat output.

    The members of an entry that a part holds are one block from ``start`` on: (replicas, k, all
    their columns), of which this one has ``width`` from ``column`` on; (replicas, width, k, 1) for
    a batch.
    """

    part: int
    start: int
    all: int
    column: int
    width: int


class Stored(NamedTuple):
    """A frame in a pool. Dense ones have a step between groups and one between rows of A^T."""

    kind: Kind
    pool: int
    entries: int
    touched: int
    step: int = 0
    row: int = 0


@dataclass(eq=False)
class Part:
    """One (device, dtype, stage): one kernel launch per verb.

    The kernels know the tables by ``key`` as long as this part lives. A copy, or what comes out of
    a pickle, has a key of its own. ``extent`` (tasks, 2): mirrors and touched units, to cut by.
    """

    device: torch.device
    dtype: torch.dtype
    stage: int
    tensors: list[torch.Tensor] = field(default_factory=list)
    tables: Tables = field(default_factory=Tables)
    extent: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    key: int = field(init=False)
    empty: bool = field(init=False)  # there is nothing to do

    def store(self, tables: Tables) -> None:
        """Hand the tables to the kernels, which check them and keep them under a new key."""
        self.tables = tables
        self.empty = tables.chunks.numel() == 0
        self.key = plan_ops.store(tables)
        weakref.finalize(self, plan_ops.drop, self.key).atexit = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store(self.tables)

    @property
    def accumulate(self) -> torch.dtype:
        """The type sums are kept in: float32 for half types."""
        return ACCUMULATE[self.dtype]


def encode_runs(a: Indices, b: Indices) -> Indices:
    """Rows (a, b, length, first mirror) of maximal runs in which both count up by one."""
    if not a.size:
        return np.zeros((0, 4), np.int64)
    breaks = np.flatnonzero((np.diff(a) != 1) | (np.diff(b) != 1)) + 1
    start = np.concatenate([np.zeros(1, np.int64), breaks])
    length = np.diff(np.append(start, a.size))
    return np.stack([a[start], b[start], length, start], axis=1)


class PartBuilder:
    """Collects the tasks of one part, then freezes them."""

    def __init__(self, part: Part, number: int, replicas: int, mirrors: int, groups: int) -> None:
        self.part, self.number = part, number
        self.replicas, self.mirrors, self.groups = replicas, mirrors, groups
        self.tasks = array("q")  # TASK_FIELDS of each
        self.extent = array("q")  # mirrors and touched units of each task
        self.index: list[Indices] = []
        self.index_size = 0
        self.frames: list[torch.Tensor] = []
        self.frames_size = 0
        self.out_size = 0
        self.batch_frame = (0, 0, 0)
        self.numbers: dict[int, int] = {}
        self.views: dict[Any, list[View]] = {}  # of every layout
        self.stored: dict[tuple[int, int], Stored] = {}
        self.grain = GRAINS.get(part.device.type, GRAINS["cpu"])

    def reserve(self, entry: Entry, members: list[Member]) -> list[Piece]:
        """Room for the coefficients of some members of an entry."""
        widths = [_count(m.shape) // max(m.shape[m.dim], 1) for m in members]
        start = -(-self.out_size // SECTOR) * SECTOR
        self.out_size = start + self.replicas * entry.columns * sum(widths)
        return [
            Piece(self.number, start, sum(widths), sum(widths[:i]), width)
            for i, width in enumerate(widths)
        ]

    def add(self, entry: Entry, member: Member, piece: Piece) -> None:
        """Add the tasks of one member, whose coefficients go to the piece."""
        base, offset = owner(member.tensor)
        tensor = self.numbers.setdefault(id(base), len(self.numbers))
        if tensor == len(self.part.tensors):
            self.part.tensors.append(base)
        layout = (member.shape, member.strides, member.dim, member.batch)
        views = self.views.get(layout)
        if views is None:
            views = self.views[layout] = unit_views(*layout)
        for replica in range(self.replicas):
            out = piece.start + replica * entry.columns * piece.all + piece.column
            if member.batch:
                self._add_batch(entry, tensor, offset, views, replica, out)
            else:
                self._add_units(entry, tensor, offset, views, replica, out, piece.all)
            offset += member.replica_stride

    def _add_batch(
        self, entry: Entry, tensor: int, offset: int, views: list[View], replica: int, out: int
    ) -> None:
        """A dense mirror per column: group, mirror and frame all advance with the column."""
        k = entry.columns
        if replica == 0:  # it has no other member
            assert isinstance(entry.symmetry, Mirror)
            self.batch_frame = self._store_dense(entry, entry.symmetry)
        pool, step, row = self.batch_frame
        mirror = entry.mirror + replica * self.mirrors
        group = entry.group + replica * self.groups
        for view in views:
            column, over = view.column, view.outer_column
            self.tasks.extend((
                DENSE, tensor, offset + view.base, *view[1:7], pool + column * step, k,
                over * step, row, mirror + column, over, 0, group + column, over,
                out + column * k, over * k, 0, 1,
            ))  # fmt: skip
            self.extent.extend((1, entry.units))

    def _add_units(
        self,
        entry: Entry,
        tensor: int,
        offset: int,
        views: list[View],
        replica: int,
        out: int,
        width: int,
    ) -> None:
        """One task per view under the entry's shared frame."""
        by_column = int(isinstance(entry.symmetry, Direction))
        mirror = entry.mirror + replica * self.mirrors
        group = entry.group + replica * self.groups
        for view in views:
            short = SHORT_RUN if view.inner < SHORT_RUN else 0
            if view.unit_stride == 1:
                short = self.grain.run
            kind, pool, count, touched, _, row = self._frame(entry, short)
            self.tasks.extend((
                kind, tensor, offset + view.base, *view[1:7], pool, count, 0, row, mirror, 0,
                by_column, group, 0, out + view.column, view.outer_column,
                view.inner_column, width,
            ))  # fmt: skip
            self.extent.extend((entry.mirrors, touched))

    def _frame(self, entry: Entry, short: int) -> Stored:
        """Store the frame of an entry once; units in runs shorter than ``short`` one by one."""
        key = (entry.number, short if isinstance(entry.symmetry, SignFlip | Swap) else 0)
        if key not in self.stored:
            self.stored[key] = self._store(entry, short)
        return self.stored[key]

    def _store(self, entry: Entry, short: int) -> Stored:
        symmetry = entry.symmetry
        if isinstance(symmetry, Direction | Mirror):
            pool, step, row = self._store_dense(entry, symmetry)
            return Stored(Kind.DENSE, pool, entry.columns, entry.units, step, row)
        if isinstance(symmetry, Cluster):
            members = symmetry.members(entry.units)
            sizes = [0, *(part.size for part in members)]
            pool = self._push_index(np.concatenate([np.cumsum(sizes), *members]))
            return Stored(Kind.CLUSTERS, pool, len(members), sum(sizes))
        if isinstance(symmetry, Swap):
            a, b = symmetry.indices(entry.units).T
            kinds, touched = (Kind.PAIRS, Kind.PAIRS_SCATTERED), 2 * a.size
        else:
            a = b = symmetry.indices(entry.units)
            kinds, touched = (Kind.ROWS, Kind.ROWS_SCATTERED), a.size
        runs = encode_runs(a, b)
        if len(runs) * short > a.size:
            return Stored(kinds[1], self._push_index(a | (b << 32)), a.size, touched)
        return Stored(kinds[0], self._push_index(runs), len(runs), touched)

    def _store_dense(self, entry: Entry, symmetry: Direction | Mirror) -> tuple[int, int, int]:
        """Where the frame starts, its step between groups and the one between rows of A^T."""
        matrix, units = symmetry.matrix, entry.units
        shared = matrix.ndim == 2
        row = units + ROW_GAP if shared and units % NEAR_ROWS == 0 else units
        if row > units:
            matrix = torch.nn.functional.pad(matrix, (0, 0, 0, row - units))
        start = self.frames_size
        self.frames.append(matrix)
        self.frames_size += matrix.numel()
        return start, 0 if shared else units * entry.columns, row

    def _push_index(self, values: Indices) -> int:
        start = self.index_size
        self.index.append(values.ravel())
        self.index_size += values.size
        return start

    def finish(self) -> Part:
        """Freeze the collected tasks into tables."""
        part = self.part
        tasks = np.frombuffer(self.tasks, np.int64).reshape(-1, len(TASK_FIELDS))
        extent = np.frombuffer(self.extent, np.int64).reshape(-1, 2)
        index = np.concatenate(self.index) if self.index else np.zeros(0, np.int64)
        chunks = cut(tasks, extent[:, 0], extent[:, 1], index, self.grain)
        frames = transposed_frames(self.frames, part.accumulate).to(part.device)
        part.extent = torch.from_numpy(extent)
        part.store(
            Tables(
                layout=layout_of(part.tensors),
                tasks=torch.from_numpy(tasks),
                chunks=torch.from_numpy(chunks),
                index=torch.from_numpy(index),
                frames=frames,
                mirrors=self.replicas * self.mirrors,
                numel=self.out_size,
                groups=self.replicas * self.groups,
            )
        )
        return part


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
