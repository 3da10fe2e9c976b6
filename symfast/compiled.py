# SPDX-License-Identifier: Apache-2.0
"""The compiled half of a plan: its parts, and how results are read back out of them."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.autograd.graph import increment_version

from symfast import plan_ops as _registered  # noqa: F401  (declares the operators)
from symfast.codes import PER_GROUP, PER_MIRROR, SHRINK
from symfast.entries import build_entries
from symfast.overlap import stages
from symfast.reference.plan import group_shrinkage
from symfast.symmetry import Symmetry
from symfast.tables import Entry, Part, PartBuilder, Piece
from symfast.units import Units

_check = torch.ops.symfast.plan_check.default
_verb = torch.ops.symfast.plan_apply_.default
# A tiny verb is mostly the way there: in eager mode these skip a Python frame each.
_eager_verb = getattr(_verb, "_op", _verb)
_bump_versions = getattr(torch._C, "_increment_version", increment_version)
_prox_group = torch.ops.symfast.plan_prox_group_.default
_norms = torch.ops.symfast.plan_norms.default
_coefficients = torch.ops.symfast.plan_coefficients.default


@dataclass(eq=False)
class Compiled:
    """Parts in the order they run; ``pieces`` say where an entry's coefficients lie in them."""

    groups: int
    mirrors: int
    copies: int  # stacked replicas, 1 without
    stacked: bool
    entries: list[Entry]
    pieces: list[list[Piece]]
    parts: list[Part]
    owners: torch.Tensor  # (mirrors,): the group of each
    #: The same parts; those of one stage that share mirrors together.
    sharing: list[list[Part]]

    def apply(
        self, verb: int, amount: float = 0.0, amounts: torch.Tensor | None = None, per: int = 0
    ) -> None:
        """Run a mutating verb on every part, stage after stage, behind autograd's back."""
        call, bump = _eager_verb, _bump_versions
        if torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                with torch.no_grad():  # a compiled graph knows of autograd all the same
                    return self.apply(verb, amount, amounts, per)
            call, bump = _verb, increment_version
        if len(self.parts) > 1:  # find a changed parameter before the first launch writes
            for p in self.parts:
                _check(p.tensors, p.key)
        for p in self.parts:
            if amounts is not None:
                call(p.tensors, p.key, verb, 0.0, amounts.to(p.device, p.accumulate), per)
            elif amount:
                call(p.tensors, p.key, verb, amount)
            else:
                call(p.tensors, p.key, verb)
            bump(p.tensors)
        return None

    def prox_group(self, threshold: float, thresholds: torch.Tensor | None) -> None:
        """Shrink every mirror by its norm; thresholds are by group, flat."""
        if torch.compiler.is_compiling() and torch.is_grad_enabled():
            with torch.no_grad():
                return self.prox_group(threshold, thresholds)
        if len(self.parts) > 1:
            for p in self.parts:
                _check(p.tensors, p.key)
        for parts in self.sharing:
            if len(parts) > 1:
                self._prox_shared(parts, threshold, thresholds)
                continue
            (p,) = parts
            given = None if thresholds is None else thresholds.to(p.device, torch.float64)
            _prox_group(p.tensors, p.key, threshold, given)
            increment_version(p.tensors)
        return None

    def _prox_shared(
        self, parts: list[Part], threshold: float, thresholds: torch.Tensor | None
    ) -> None:
        """Norms of mirrors that no launch sees whole, then shrinkage: two passes."""
        norms = self.norms(PER_MIRROR, parts)
        t = torch.full((1, self.groups), threshold, dtype=torch.float64, device=norms.device)
        if thresholds is not None:
            t = thresholds.to(norms.device, torch.float64).reshape(-1, self.groups)
        t = self.by_mirror(t)
        amounts = group_shrinkage(norms, t).reshape(-1)
        for p in parts:
            given = amounts.to(p.device, p.accumulate)
            _verb(p.tensors, p.key, SHRINK, 0.0, given, PER_MIRROR)
            increment_version(p.tensors)

    def norms(self, per: int, parts: list[Part] | None = None) -> torch.Tensor:
        """(copies, groups or mirrors) float64 on the first part's device, of all parts or some.

        A part goes on from the sums of squares of the one before; the last one takes the roots.
        """
        parts = self.parts if parts is None else parts
        count = self.groups if per == PER_GROUP else self.mirrors
        found: torch.Tensor | None = None
        left = sum(not p.empty for p in parts)
        for p in reversed(parts):
            if p.empty:
                _check(p.tensors, p.key)
                continue
            left -= 1
            before = None if found is None else found.to(p.device)
            found = _norms(p.tensors, p.key, before, per, left == 0)
        if found is None:
            found = torch.zeros(self.copies * count, dtype=torch.float64)
        if parts:
            found = found.to(parts[0].device)
        return found.reshape(self.copies, count)

    def by_mirror(self, groups: torch.Tensor) -> torch.Tensor:
        """Repeat (copies or 1, groups) for every mirror of a group."""
        return groups.index_select(1, self.owners.to(groups.device))

    def coefficients(self) -> list[torch.Tensor]:
        """(k, n) of every group, with a leading dim of replicas if there are any."""
        flats = [_coefficients(p.tensors, p.key) for p in self.parts]
        result: list[torch.Tensor] = []
        for entry, pieces in zip(self.entries, self.pieces, strict=True):
            result += self._cut(entry, pieces, flats)
        return result

    def _cut(
        self, entry: Entry, pieces: list[Piece], flats: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Views of what the kernels wrote; copies only where members lie in several parts."""
        k = entry.columns
        blocks = [
            flats[p.part].narrow(0, p.start, self.copies * k * p.all).reshape(self.copies, k, p.all)
            for p in pieces
        ]
        if entry.members[0].batch:
            shaped = blocks[0].reshape(self.copies, entry.batch, k, 1)
            return list((shaped.transpose(0, 1) if self.stacked else shaped.select(0, 0)).unbind(0))
        whole = blocks[0]
        if len({p.part for p in pieces}) > 1:
            dtype = max((b.dtype for b in blocks), key=lambda d: d.itemsize)
            whole = torch.cat(
                [
                    b.narrow(2, p.column, p.width).to(blocks[0].device, dtype)
                    for b, p in zip(blocks, pieces, strict=True)
                ],
                dim=2,
            )
        return [whole if self.stacked else whole.select(0, 0)]


def compile_entries(
    given: Sequence[tuple[Units | torch.Tensor, Symmetry]], order: bool, replicas: int | None
) -> Compiled:
    """Build all tables for the parameters as they are now.

    Raises:
        PlanError, UnitsError, SymmetryError: (ValueErrors) in words; nothing is changed.
    """
    collecting = gc.isenabled()
    gc.disable()  # 10^5 small records and no cycles: collections would take half of the time
    try:
        return _compile(given, order, replicas)
    finally:
        if collecting:
            gc.enable()


def _compile(
    given: Sequence[tuple[Units | torch.Tensor, Symmetry]], order: bool, replicas: int | None
) -> Compiled:
    entries = build_entries(given, replicas)
    last = entries[-1] if entries else None
    groups = last.group + last.batch if last else 0
    mirrors = last.mirror + last.batch * last.mirrors if last else 0
    copies = 1 if replicas is None else replicas
    builders: dict[tuple[int, torch.device, torch.dtype], PartBuilder] = {}
    pieces: list[list[Piece]] = []
    for entry, stage in zip(entries, stages(entries, order), strict=True):
        together: dict[tuple[int, torch.device, torch.dtype], list[int]] = {}
        for i, member in enumerate(entry.members):
            key = (stage, member.tensor.device, member.tensor.dtype)
            together.setdefault(key, []).append(i)
        found: dict[int, Piece] = {}
        for key, numbers in together.items():
            if key not in builders:
                part = Part(key[1], key[2], stage)
                builders[key] = PartBuilder(part, len(builders), copies, mirrors, groups)
            members = [entry.members[i] for i in numbers]
            found |= zip(numbers, builders[key].reserve(entry, members), strict=True)
            for i, member in zip(numbers, members, strict=True):
                builders[key].add(entry, member, found[i])
        pieces.append([found[i] for i in range(len(entry.members))])
    parts = [builder.finish() for builder in builders.values()]
    _sort_by_stage(parts, pieces)
    several = [entry.mirrors for entry in entries for _ in range(entry.batch)]
    owners = np.repeat(np.arange(groups), np.asarray(several, np.int64))
    device = parts[0].device if parts else torch.device("cpu")
    return Compiled(
        groups, mirrors, copies, replicas is not None, entries, pieces, parts,
        torch.from_numpy(owners).to(device), _sharing(parts, pieces),
    )  # fmt: skip


def _sort_by_stage(parts: list[Part], pieces: list[list[Piece]]) -> None:
    """Put parts in the order they run and renumber the pieces that name them."""
    order = sorted(range(len(parts)), key=lambda i: parts[i].stage)
    if order == list(range(len(parts))):
        return
    place = {old: new for new, old in enumerate(order)}
    parts[:] = [parts[i] for i in order]
    for found in pieces:
        found[:] = [piece._replace(part=place[piece.part]) for piece in found]


def _sharing(parts: list[Part], pieces: list[list[Piece]]) -> list[list[Part]]:
    """Every part alone, or with all of its stage that have a mirror in several parts."""
    spread = {piece.part for found in pieces if len({p.part for p in found}) > 1 for piece in found}
    sets: dict[tuple[int, int], list[Part]] = {}
    for number, part in enumerate(parts):
        sets.setdefault((part.stage, -1 if number in spread else number), []).append(part)
    return list(sets.values())
