# SPDX-License-Identifier: Apache-2.0
"""Moves of groups on a float64 copy of their parameters, written back whole or not at all."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from symfast.sides import sides
from symfast.symmetry_group import Member, SymmetryGroup


class GaugeError(ValueError):
    """A gauge move would change the function, or its result does not fit the parameters."""


class Scratch:
    """Groups on float64 copies of the memory they live in; views stay views of one copy.

    Example:
        >>> import torch
        >>> from symfast.gauge import Scratch
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> w, v = torch.ones(1, 1), torch.ones(1, 1)
        >>> group = SymmetryGroup((Member(w, 0, "w", "in"), Member(v, 1, "v", "out")), ())
        >>> scratch = Scratch([group])
        >>> scratch.apply_(0, torch.tensor([2.0]).double())
        >>> w.item(), scratch.groups[0].members[0].tensor.item()
        (1.0, 2.0)
        >>> scratch.write_()
        >>> w.item(), v.item()
        (2.0, 0.5)
    """

    def __init__(self, groups: Sequence[SymmetryGroup]) -> None:
        self._originals = groups
        self._copies: dict[tuple[int, torch.dtype], Tensor] = {}
        self.groups = [
            replace(group, members=tuple(map(self._copy, group.members))) for group in groups
        ]

    def _copy(self, member: Member) -> Member:
        tensor = member.tensor.detach()
        storage = tensor.untyped_storage()
        key = storage.data_ptr(), tensor.dtype
        if key not in self._copies:
            count = storage.nbytes() // tensor.element_size()
            whole = tensor.as_strided((count,), (1,), 0)
            self._copies[key] = whole.double() if whole.dtype != torch.float64 else whole.clone()
        view = self._copies[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return replace(member, tensor=view, source=None)

    def apply_(self, number: int, factors: Tensor) -> None:
        """Move a group's copy: in and bias by T (or factors), out by T^-T (or their inverses)."""
        writers, readers = sides(self.groups[number])
        if factors.ndim == 2:
            inverse = torch.linalg.inv(factors).T
            for member, T in [(x, factors) for x in writers] + [(x, inverse) for x in readers]:
                rows = member.tensor.movedim(member.dim, 0)
                moved = torch.tensordot(T.to(rows.device), rows, dims=1)
                member.tensor.copy_(moved.movedim(0, member.dim))
            return
        for member, s in [(x, factors) for x in writers] + [(x, 1 / factors) for x in readers]:
            shape = [1] * member.tensor.ndim
            shape[member.dim] = -1
            member.tensor.mul_(s.to(member.tensor.device).reshape(shape))

    def write_(self) -> None:
        """Write every copy back; all values are checked before the first is written.

        Raises:
            GaugeError: (a ValueError) if a value is not finite in the parameter's dtype.
        """
        fresh: list[tuple[Tensor, Tensor]] = []
        for old, new in zip(self._originals, self.groups, strict=True):
            for target, source in zip(old.members, new.members, strict=True):
                value = source.tensor.to(target.tensor.dtype)
                if not bool(torch.isfinite(value).all()):
                    raise GaugeError(
                        f"{target.name} would hold NaN or infinity as {value.dtype}; nothing was "
                        "changed. Mend the parameters, or move them in a wider dtype"
                    )
                fresh.append((target.tensor, value))
        with torch.no_grad():
            for tensor, value in fresh:
                tensor.copy_(value)


def refuse_ties(groups: Sequence[SymmetryGroup], model: nn.Module | None) -> None:
    """Refuse groups whose move would reach numbers twice along the units, or out of sight.

    The rows of a tensor may belong to one group and its columns to another: those moves commute.
    The same numbers along the same dim twice may not, nor may a parameter that the model holds
    under a second name, unless its group was found and proved on the model.

    Raises:
        GaugeError: (a ValueError) naming the tensors.

    Example:
        >>> import torch
        >>> from symfast.gauge import refuse_ties
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> w = torch.ones(2, 2)
        >>> tied = SymmetryGroup((Member(w, 0, "a", "in"), Member(w.T, 1, "b", "out")), ())
        >>> try:
        ...     refuse_ties([tied], None)
        ... except ValueError as error:
        ...     print(error)
        a and b share memory along their units (tied weights): moving both changes the function...
    """
    moved = [member for group in groups for side in sides(group) for member in side]
    by_storage: dict[int, list[Member]] = {}
    for member in moved:
        by_storage.setdefault(member.tensor.untyped_storage().data_ptr(), []).append(member)
    for members in by_storage.values():
        if len(members) > 1:
            _refuse_overlaps(members)
    if model is not None:
        _refuse_second_names(moved, model)


def _refuse_overlaps(members: Sequence[Member]) -> None:
    """Paint the members of one storage, a canvas for each stride that units run along.

    One unit runs along no stride; it is the same way as others of one unit.
    """
    first = members[0].tensor
    size = first.untyped_storage().nbytes() // first.element_size()
    canvases: dict[int, Tensor] = {}
    for number, member in enumerate(members):
        tensor, ways = member.tensor, {member.tensor.stride(member.dim)}
        if tensor.shape[member.dim] == 1:
            ways.add(0)
        for way in ways:
            canvas = canvases.setdefault(way, torch.zeros(size, dtype=torch.int32))
            place = canvas.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            if int(taken := place.max()) > 0:
                raise GaugeError(
                    f"{members[int(taken) - 1].name} and {member.name} share memory along their "
                    "units (tied weights): moving both changes the function. Untie them, or leave "
                    "one out"
                )
            place.fill_(number + 1)


def _refuse_second_names(members: Sequence[Member], model: nn.Module) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
    for member in members:
        known = names.get(member.tensor.untyped_storage().data_ptr(), [])
        if member.source is None and len(known) > 1:
            raise GaugeError(
                f"{member.name} is also {', '.join(known)} (tied weights): moving it changes the "
                "function elsewhere. Use sf.find_symmetries, which sees every use, or untie it"
            )
