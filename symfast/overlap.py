# SPDX-License-Identifier: Apache-2.0
"""Which entries of a plan touch the same memory, and in what order they may run."""

from collections import defaultdict

import numpy as np
import torch

from symfast.errors import PlanError
from symfast.symmetry import Cluster, SignFlip, Swap
from symfast.tables import Entry, Member


def stages(entries: list[Entry], order: bool) -> list[int]:
    """The stage of every entry: entries of one stage are disjoint, stages run in turn.

    Disjoint entries all get stage 0. With ``order`` an entry that touches elements of earlier
    ones comes one stage after the last of them; otherwise that is an error.

    Raises:
        PlanError: (a ValueError) naming two entries that overlap, unless ``order``.

    Example:
        >>> from symfast.overlap import stages
        >>> stages([], order=False)
        []
    """
    result = [0] * len(entries)
    for cluster in _clusters(entries):
        _mark(entries, cluster, order, result)
    return result


def _clusters(entries: list[Entry]) -> list[list[tuple[int, Member]]]:
    """Members whose address ranges meet, as (entry, member) lists; loners are left out."""
    spans: dict[tuple[torch.device, int], list[tuple[int, int, int, Member]]] = defaultdict(list)
    for number, entry in enumerate(entries):
        for member in entry.members:
            tensor = member.tensor
            if tensor.numel():
                start = tensor.data_ptr()
                stop = start + _reach(tensor) * tensor.element_size()
                # a DTensor or meta tensor has no address: it meets itself alone
                own = 0 if start else id(tensor)
                spans[tensor.device, own].append((start, stop, number, member))
    found = []
    for items in spans.values():
        starts = np.array([item[0] for item in items], np.int64)
        order = np.argsort(starts, kind="stable")
        stops = np.maximum.accumulate(np.array([item[1] for item in items], np.int64)[order])
        cuts = np.flatnonzero(starts[order][1:] >= stops[:-1]) + 1
        edges = np.concatenate([[0], cuts, [order.size]])
        for first in np.flatnonzero(np.diff(edges) > 1).tolist():
            part = sorted(order[edges[first] : edges[first + 1]].tolist())
            found.append([(items[i][2], items[i][3]) for i in part])
    return found


def _mark(
    entries: list[Entry], cluster: list[tuple[int, Member]], order: bool, result: list[int]
) -> None:
    """Paint the elements every entry touches; paint underneath means an overlap."""
    low = min(member.tensor.data_ptr() for _, member in cluster)
    slot = min(member.tensor.element_size() for _, member in cluster)
    high = max(_stop(member) for _, member in cluster)
    paint = torch.zeros((high - low) // slot, dtype=torch.int32)  # 1 + entry that painted last
    by_entry: dict[int, list[Member]] = defaultdict(list)
    for number, member in cluster:
        by_entry[number].append(member)
    for number, members in sorted(by_entry.items()):
        stage = result[number]
        for member in members:
            touched = _touched(paint, member, entries[number], low, slot)
            for below in torch.unique(touched).tolist():
                if below:
                    _complain(entries, number, below - 1, order)
                    stage = max(stage, result[below - 1] + 1)
        result[number] = stage
        for member in members:
            touched = _touched(paint, member, entries[number], low, slot)
            if bool((touched == number + 1).any()):
                _complain(entries, number, number, order)
            _paint(paint, member, entries[number], low, slot, number + 1)


def _complain(entries: list[Entry], number: int, other: int, order: bool) -> None:
    if number == other:
        raise PlanError(
            f"two members of entry {number} ({entries[number].symmetry.kind}) share memory "
            "(tied parameters?); list the shared tensor once"
        )
    if not order:
        raise PlanError(
            f"entries {other} ({entries[other].symmetry.kind}) and {number} "
            f"({entries[number].symmetry.kind}) touch the same elements of a parameter; pass "
            'overlap="order" to apply them one after the other, or make them disjoint'
        )


def _reach(tensor: torch.Tensor) -> int:
    """One past the last element a tensor reaches from its first."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum((s - 1) * t for s, t in zip(tensor.shape, tensor.stride(), strict=True))


def _stop(member: Member) -> int:
    tensor = member.tensor
    return tensor.data_ptr() + _reach(tensor) * tensor.element_size()


def _strided(paint: torch.Tensor, member: Member, low: int, slot: int) -> torch.Tensor:
    """The member's elements in the paint: its dims with units first, then slots per element."""
    tensor = member.tensor
    wide = tensor.element_size() // slot
    lead = tensor.ndim - len(member.shape)
    view = paint.as_strided(
        (*tensor.shape, wide),
        (*(stride * wide for stride in tensor.stride()), 1),
        (tensor.data_ptr() - low) // slot,
    )
    return view.movedim(member.dim + lead, 0)


def _chosen(entry: Entry) -> torch.Tensor | None:
    """The units an index symmetry touches; None means all of them."""
    symmetry = entry.symmetry
    if isinstance(symmetry, SignFlip) and symmetry.units is not None:
        return torch.from_numpy(symmetry.indices(entry.units))
    if isinstance(symmetry, Swap):
        return torch.from_numpy(symmetry.indices(entry.units).ravel().copy())
    if isinstance(symmetry, Cluster):
        members = symmetry.members(entry.units)
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *members]))
    return None


def _touched(
    paint: torch.Tensor, member: Member, entry: Entry, low: int, slot: int
) -> torch.Tensor:
    view, chosen = _strided(paint, member, low, slot), _chosen(entry)
    return view if chosen is None else view.index_select(0, chosen)


def _paint(
    paint: torch.Tensor, member: Member, entry: Entry, low: int, slot: int, color: int
) -> None:
    view, chosen = _strided(paint, member, low, slot), _chosen(entry)
    if chosen is None:
        view.fill_(color)
    else:
        view.index_fill_(0, chosen, color)
