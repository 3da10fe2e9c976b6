# SPDX-License-Identifier: Apache-2.0
"""What writes the units of a group and what reads them: rows, norms and Gram matrices of a side."""

from collections.abc import Iterable

import torch
from torch import Tensor

from symfast.gram import BLOCK, gram, unit_rows
from symfast.symmetry_group import ROLES, Member, SymmetryGroup


def sides(group: SymmetryGroup) -> tuple[list[Member], list[Member]]:
    """Members that write the units (in, bias) and members that read them (out).

    Example:
        >>> import torch
        >>> from symfast.sides import sides
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> group = SymmetryGroup((Member(torch.ones(2, 2), 0, "w", "in"),), ())
        >>> [len(side) for side in sides(group)]
        [1, 0]
    """
    writers = [member for member in group.members if member.role in ("in", "bias")]
    readers = [member for member in group.members if member.role == "out"]
    return writers, readers


def gather(members: Iterable[Member], m: int, device: torch.device | str | None = None) -> Tensor:
    """Gather members to the unit matrix (m, n), float64, on ``device`` or that of the first.

    Example:
        >>> import torch
        >>> from symfast.sides import gather
        >>> from symfast.symmetry_group import Member
        >>> gather([Member(torch.ones(2, 3), 1, "v", "out")], 3).shape
        torch.Size([3, 2])
        >>> gather([], 3).shape
        torch.Size([3, 0])
    """
    parts: list[Tensor] = []
    for member in members:
        device = member.tensor.device if device is None else device
        parts.append(unit_rows(member.tensor, member.dim).to(device, torch.float64))
    return torch.cat(parts, 1) if parts else torch.zeros(m, 0, dtype=torch.float64, device=device)


def unit_squares(members: Iterable[Member]) -> Tensor:
    """Sum of squares per unit over the members, (m,) float64 on the device of the first.

    Raises:
        ValueError: if there is no member.

    Example:
        >>> import torch
        >>> from symfast.sides import unit_squares
        >>> from symfast.symmetry_group import Member
        >>> unit_squares([Member(torch.ones(2, 3), 0, "w", "in")]).tolist()
        [3.0, 3.0]
    """
    total: Tensor | None = None
    for member in members:
        parts = unit_rows(member.tensor, member.dim)
        height = max(1, BLOCK // max(parts.shape[1], 1))
        squares = torch.cat([part.double().square().sum(1) for part in parts.split(height)])
        total = squares if total is None else total + squares.to(total.device)
    if total is None:
        raise ValueError("a side of a group without members has no unit norms")
    return total


class SideGrams:
    """Gram matrices of a group by role, each summed once; norms come from them where they are.

    Args:
        group: the group.
        grams: those that are known, by role.
        squares: sums of squares per unit that are known, by role.

    Example:
        >>> import torch
        >>> from symfast.sides import SideGrams
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> w, b = Member(torch.eye(2), 0, "w", "in"), Member(torch.ones(2), 0, "b", "bias")
        >>> grams = SideGrams(SymmetryGroup((w, b), ()))
        >>> grams.gram("in", "bias").tolist(), grams.squares("bias").tolist()
        ([[2.0, 1.0], [1.0, 2.0]], [1.0, 1.0])
    """

    def __init__(
        self,
        group: SymmetryGroup,
        grams: dict[str, Tensor] | None = None,
        squares: dict[str, Tensor] | None = None,
    ) -> None:
        self._m = group.m
        self._device = group.members[0].tensor.device
        self._members = {
            role: [member for member in group.members if member.role == role] for role in ROLES
        }
        self._grams: dict[str, Tensor] = dict(grams or {})
        self._squares: dict[str, Tensor] = dict(squares or {})

    def has(self, *roles: str) -> bool:
        """Whether the group has a member of any of these roles."""
        return any(self._members[role] for role in roles)

    def gram(self, *roles: str) -> Tensor:
        """Gram matrix (m, m) of the members of these roles; not to be written to."""
        found = [self._gram(role) for role in roles if self._members[role]]
        if not found:
            return torch.zeros(self._m, self._m, dtype=torch.float64, device=self._device)
        total = found[0]
        for other in found[1:]:
            total = total + other
        return total

    def squares(self, *roles: str) -> Tensor:
        """Sums of squares per unit (m,) of the members of these roles."""
        total = torch.zeros(self._m, dtype=torch.float64, device=self._device)
        for role in roles:
            if self._members[role]:
                total = total + self._square(role)
        return total

    def _gram(self, role: str) -> Tensor:
        if role not in self._grams:
            pairs = [(member.tensor, member.dim) for member in self._members[role]]
            self._grams[role] = gram(pairs).to(self._device)
        return self._grams[role]

    def _square(self, role: str) -> Tensor:
        if role in self._grams:
            return self._grams[role].diagonal()
        if role not in self._squares:
            self._squares[role] = unit_squares(self._members[role]).to(self._device)
        return self._squares[role]
