# SPDX-License-Identifier: Apache-2.0
"""One hidden space under compression: which members write, scale and read its units."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from symfast.sides import gather
from symfast.symmetry_group import AxisSlice, Member, SymmetryGroup


def rows(members: Iterable[Member], m: int) -> Tensor:
    """Gather members to the unit matrix (m, n), float64, on the CPU."""
    return gather(members, m, "cpu")


class HiddenUnits:
    """The units of a permutation group, with the factors that another group leaves free.

    Attributes:
        readers: members that read the units.
        free: writing members that may be multiplied by a factor if the readers are divided.
        fixed: the other writing members (gates, norms, statistics).
        signs, scales: whether factors -1, and factors s > 0, are free.
        linear: whether any invertible matrix may mix the units.
        gone: units that nothing depends on any more.
    """

    def __init__(self, group: SymmetryGroup, groups: Sequence[SymmetryGroup]) -> None:
        self.group, self.m = group, group.m
        self.readers = [member for member in group.members if member.role == "out"]
        writers = [member for member in group.members if member.role != "out"]
        kinds: set[str] = set()
        inside: set[AxisSlice | None] = set()
        own = {member.source for member in group.members}
        for other in groups:
            theirs = {member.source for member in other.members}
            outs = {member.source for member in other.members if member.role == "out"}
            if theirs <= own and outs == {member.source for member in self.readers}:
                found = {"sign_flip", "rescale"} & set(other.kinds)
                if found and not kinds:
                    kinds, inside = found, theirs - outs
        self.free = [member for member in writers if member.source in inside]
        self.fixed = [member for member in writers if member.source not in inside]
        self.signs, self.scales = "sign_flip" in kinds, "rescale" in kinds
        self.linear = {"rotation", "rescale"} <= set(group.kinds)
        self.gone = torch.zeros(self.m, dtype=torch.bool)

    def erase_(self, units: Tensor) -> None:
        """Zero everything of ``units`` but stored statistics, and count them as gone."""
        with torch.no_grad():
            for member in self.group.members:
                if "running" not in member.name:
                    member.tensor.movedim(member.dim, 0)[units] = 0
        self.gone |= units


def padded(convolution: nn.Module) -> bool:
    """Say whether a convolution pads its input."""
    padding = convolution.padding
    return padding != "valid" if isinstance(padding, str) else any(padding)  # type: ignore[arg-type]


def reader_modules(hidden: HiddenUnits, model: nn.Module) -> list[tuple[Member, nn.Module]]:
    """Return the module that owns each reading weight."""
    found = []
    for member in hidden.readers:
        assert member.source is not None
        owner = member.source.parameter.rpartition(".")[0]
        found.append((member, model.get_submodule(owner)))
    return found
