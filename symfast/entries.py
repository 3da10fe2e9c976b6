# SPDX-License-Identifier: Apache-2.0
"""Read what the user gave a plan: (Units or tensor, symmetry) pairs become numbered entries."""

from collections.abc import Sequence

import torch

from symfast.errors import PlanError
from symfast.orthonormal import check_frames
from symfast.symmetry import Cluster, Direction, Mirror, SignFlip, Swap, Symmetry
from symfast.tables import Entry, Member
from symfast.units import Units, check_parameter

_KINDS = (SignFlip, Swap, Cluster, Direction, Mirror)


def build_entries(
    given: Sequence[tuple[Units | torch.Tensor, Symmetry]], replicas: int | None
) -> list[Entry]:
    """Number the groups and mirrors of all entries and check every frame.

    Raises:
        PlanError, UnitsError, SymmetryError: (ValueErrors) naming the entry at fault.
    """
    if replicas is not None and (isinstance(replicas, bool) or replicas < 0):
        raise PlanError(f"replicas must be a whole number >= 0, got {replicas!r}")
    entries: list[Entry] = []
    group = mirror = 0
    for number, pair in enumerate(given):
        target, symmetry = _pair(pair, number)
        first = (group, mirror)
        if isinstance(target, Units):
            entry = _units_entry(number, target, symmetry, replicas, first)
        elif isinstance(symmetry, Mirror):
            entry = _mirror_entry(number, target, symmetry, replicas, first)
        else:
            units = Units([(target, 0)], replicas)
            entry = _units_entry(number, units, symmetry, replicas, first)
        entries.append(entry)
        group += entry.batch
        mirror += entry.batch * entry.mirrors
    unchecked = [
        e.symmetry.matrix
        for e in entries
        if isinstance(e.symmetry, Direction | Mirror) and not e.symmetry.checked
    ]
    check_frames(unchecked, "Plan")
    return entries


def _pair(pair: object, number: int) -> tuple[Units | torch.Tensor, Symmetry]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise PlanError(
            f"entry {number} must be a pair (Units or tensor, symmetry), got {type(pair).__name__}"
        )
    target, symmetry = pair
    if not isinstance(symmetry, _KINDS):
        raise PlanError(
            f"entry {number} has {type(symmetry).__name__} as its symmetry; it must be SignFlip, "
            "Swap, Cluster, Direction or Mirror"
        )
    if not isinstance(target, Units):
        target = check_parameter(target, f"the parameter of entry {number}")
        if target.ndim == 0:
            raise PlanError(f"the parameter of entry {number} is a single number without units")
    return target, symmetry


def _lead(tensor: torch.Tensor, replicas: int | None, number: int) -> int:
    """Stride between replicas; the tensor must have the leading dim."""
    if replicas is None:
        return 0
    if tensor.ndim < 2 or tensor.shape[0] != replicas:
        raise PlanError(
            f"entry {number} has shape {tuple(tensor.shape)}; with replicas={replicas} it needs "
            f"a leading dim of that size and at least one more"
        )
    return tensor.stride(0)


def _units_entry(
    number: int, units: Units, symmetry: Symmetry, replicas: int | None, first: tuple[int, int]
) -> Entry:
    if units.replicas != replicas:
        raise PlanError(
            f"entry {number}: its Units have replicas={units.replicas}, "
            f"the plan has replicas={replicas}"
        )
    if isinstance(symmetry, Mirror) and symmetry.matrix.ndim > 2:
        raise PlanError(
            f"entry {number}: Mirror(O) with batch dims {tuple(symmetry.matrix.shape[:-2])} acts "
            "on a tensor; on Units give one O of shape (m, k)"
        )
    if isinstance(symmetry, Direction | Mirror):
        symmetry.frame_rows(units.m)
    mirrors = symmetry.mirrors(units.m)
    lead = 0 if replicas is None else 1
    members = [
        Member(t, tuple(t.shape[lead:]), t.stride()[lead:], dim, _lead(t, replicas, number))
        for t, dim in units
    ]
    if not isinstance(symmetry, Direction | Mirror):
        _check_units(symmetry, units.m)
    return Entry(number, members, symmetry, units.m, sum(mirrors), *first, len(mirrors))


def _check_units(symmetry: SignFlip | Swap | Cluster, size: int) -> None:
    """Index symmetries name existing units; their own methods complain."""
    if isinstance(symmetry, Cluster):
        symmetry.members(size)
    else:
        symmetry.indices(size)


def _mirror_entry(
    number: int,
    tensor: torch.Tensor,
    symmetry: Mirror,
    replicas: int | None,
    first: tuple[int, int],
) -> Entry:
    """A dense mirror on a bare tensor: along its last dim, or on the whole of it."""
    whole, frame = tuple(tensor.shape), tuple(symmetry.matrix.shape)  # slices of sizes are slow
    if replicas is None:
        step, shape, strides = 0, whole, tensor.stride()
    else:
        step = _lead(tensor, replicas, number)
        shape, strides = whole[1:], tensor.stride()[1:]
    d, k = frame[-2:]
    batch = frame[:-2]
    count = tensor.numel() // replicas if replicas else tensor.numel()
    if shape[-1] == d and (not batch or batch == shape[:-1]):
        member = Member(tensor, shape, strides, len(shape) - 1, step, True)
        groups = count // d if d else _product(shape[:-1])
        return Entry(number, [member], symmetry, d, k, *first, 1, groups)
    if not batch and count == d:
        flat = _flattened(shape, strides)
        if flat is None:
            raise PlanError(
                f"entry {number}: Mirror(O) with {d} rows flattens the tensor, which must then "
                f"be contiguous; got shape {shape} with strides {strides}"
            )
        member = Member(tensor, (d,), (flat,), 0, step)
        return Entry(number, [member], symmetry, d, k, *first, 1, 1)
    raise PlanError(
        f"entry {number}: Mirror(O) of shape {frame} does not fit a tensor "
        f"of shape {shape}: O needs {shape[-1]} rows (and batch dims {shape[:-1]} or none), or "
        f"{count} rows to act on the whole tensor"
    )


def _flattened(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """The one stride that walks the tensor in row-major order, if there is one."""
    levels = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    for (_, before), (size, stride) in zip(levels, levels[1:], strict=False):
        if before != size * stride:
            return None
    return levels[-1][1] if levels else 1


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
