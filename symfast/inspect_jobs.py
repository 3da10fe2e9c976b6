# SPDX-License-Identifier: Apache-2.0
"""The work of an inspection: groups of one make together, small jobs side by side."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from symfast.checkpoint import Checkpoint, Heads
from symfast.diagnosis import Diagnosis, diagnose_alike
from symfast.measure import make_of
from symfast.symmetry_group import Member, SymmetryGroup
from symfast.triangle import WHOLE
from symfast.workers import run_each

Progress: TypeAlias = Callable[[int, int], None]
#: Numbers of all groups that are measured together.
TOGETHER = 1 << 19


@dataclass(frozen=True)
class Pending:
    """A group that is made when its turn comes.

    Attributes:
        make: what it has in common with those that can be measured together with it.
        m, n: shape of its unit matrix.
        group: makes it.
        on_cpu: whether its tensors lie on the CPU.
    """

    make: Hashable
    m: int
    n: int
    group: Callable[[], SymmetryGroup]
    on_cpu: bool = True

    @property
    def cost(self) -> int:
        """About how many multiplications it takes."""
        return self.m * self.n * min(self.m, self.n)

    @property
    def large(self) -> bool:
        """Whether it gets all threads, and no other beside it: its Gram matrix fills memory."""
        return not self.on_cpu or min(self.m, self.n) > WHOLE


def diagnose_each(
    pending: Sequence[Pending], progress: Progress | None, **options: Any
) -> list[Diagnosis]:
    """Diagnose all groups, in their order.

    Large ones one by one with all of torch's threads; the others side by side on one thread each,
    the longest first, so that what is found does not depend on the number of threads.

    Example:
        >>> import torch
        >>> from symfast.inspect_jobs import diagnose_each, pending_groups
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> groups = [SymmetryGroup((Member(torch.ones(2, n), 0, "w", "in"),), ()) for n in (3, 2)]
        >>> [d.row["n"] for d in diagnose_each(pending_groups(groups), None)]
        [3, 2]
    """
    jobs = sorted(_jobs(pending), key=lambda job: -sum(pending[x].cost for x in job))
    large = [job for job in jobs if pending[job[0]].large]
    small = [job for job in jobs if not pending[job[0]].large]

    def run(job: list[int]) -> list[Diagnosis]:
        return diagnose_alike([pending[number].group() for number in job], **options)

    def results() -> Iterator[tuple[list[int], list[Diagnosis]]]:
        for job in large:
            yield job, run(job)
        for place, diagnoses in run_each([partial(run, job) for job in small]):
            yield small[place], diagnoses

    found: dict[int, Diagnosis] = {}
    total, done = sum(group.m * group.n for group in pending), 0
    for job, diagnoses in results():
        found |= zip(job, diagnoses, strict=True)
        done += sum(pending[number].m * pending[number].n for number in job)
        if progress is not None:
            progress(done, total)
    return [found[number] for number in range(len(pending))]


def _jobs(pending: Sequence[Pending]) -> Iterator[list[int]]:
    """Numbers of the groups that are measured together: wide ones of one make."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, group in enumerate(pending):
        alike[group.make].append(number)
    for numbers in alike.values():
        m, n = pending[numbers[0]].m, pending[numbers[0]].n
        together = max(1, TOGETHER // (m * n)) if m <= n else 1
        # equal parts: none is left over for one thread
        count = math.ceil(len(numbers) / together)
        size = math.ceil(len(numbers) / count)
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def pending_groups(groups: Iterable[SymmetryGroup]) -> list[Pending]:
    """Groups at hand.

    Example:
        >>> import torch
        >>> from symfast.inspect_jobs import pending_groups
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> group = SymmetryGroup((Member(torch.ones(2, 2), 0, "w", "in"),), ())
        >>> pending_groups([group])[0].cost
        8
    """
    found = []
    for group in groups:
        on_cpu = all(member.tensor.device.type == "cpu" for member in group.members)
        found.append(Pending(make_of(group), group.m, group.n, partial(_itself, group), on_cpu))
    return found


def _itself(group: SymmetryGroup) -> SymmetryGroup:
    return group


def pending_matrix(checkpoint: Checkpoint, name: str) -> Pending:
    """A tensor of a file as a unit matrix of its own, its rows (dim 0) the units."""
    shape = checkpoint.shapes[name]
    m, n = shape[0], math.prod(shape[1:])
    make = (m, n, checkpoint.dtypes[name])
    return Pending(make, m, n, lambda: matrix_group(name, checkpoint.read(name)))


def matrix_group(name: str, tensor: Any) -> SymmetryGroup:
    """A tensor as a unit matrix; nothing is known of its symmetries."""
    return SymmetryGroup((Member(tensor, 0, name, "in"),), (), where=name, activation="unknown")


def pending_heads(
    checkpoint: Checkpoint, layer: str, weights: tuple[str, ...], heads: Heads
) -> Iterator[Pending]:
    """QK and VO of every head of a layer of a file, by name alone: nothing is proved.

    There are none if the shapes do not fit the number of heads.
    """
    query, key, value, output = (checkpoint.shapes[name] for name in weights)
    types = tuple(checkpoint.dtypes[name] for name in weights)
    size = query[0] // heads.query
    if not size or query[0] % heads.query or key[0] != size * heads.key_value:
        return
    for head in range(heads.query):
        own = slice(head * size, (head + 1) * size)
        shared = head * heads.key_value // heads.query
        source = slice(shared * size, (shared + 1) * size)
        for kind, rows, left, right in (
            ("QK", (own, source), query[1], key[1]),
            ("VO", (source, own), value[1], output[0]),
        ):
            names = weights[:2] if kind == "QK" else weights[2:]
            make = (kind, size, left, right, types)
            where = f"{layer} head {head} {kind}"
            group = partial(_head, checkpoint, names, rows, where)
            yield Pending(make, size, left + right, group)


def _head(
    checkpoint: Checkpoint, names: tuple[str, ...], rows: tuple[slice, slice], where: str
) -> SymmetryGroup:
    writer, reader = (checkpoint.read(name) for name in names)
    dim = 1 if where.endswith("VO") else 0
    part = reader[:, rows[1]] if dim else reader[rows[1]]
    members = (
        Member(writer[rows[0]], 0, names[0], "in"),
        Member(part, dim, names[1], "out"),
    )
    return SymmetryGroup(members, (), ("rotation",), where, "unknown")
