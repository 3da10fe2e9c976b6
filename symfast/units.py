# SPDX-License-Identifier: Apache-2.0
"""Units: the (parameter, dim) pairs that make up one unit matrix U."""

from collections.abc import Iterable, Iterator

import torch

from symfast.codes import ACCUMULATE
from symfast.errors import UnitsError


def check_parameter(tensor: object, what: str) -> torch.Tensor:
    """Refuse what a plan cannot walk: not a tensor, not dense, or not of a floating type."""
    if not isinstance(tensor, torch.Tensor):
        raise UnitsError(f"{what} must be a tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise UnitsError(f"{what} must be a dense tensor, got layout {tensor.layout}")
    if tensor.dtype not in ACCUMULATE:
        raise UnitsError(
            f"{what} must be float64, float32, bfloat16 or float16, got {tensor.dtype}"
        )
    return tensor


class Units:
    """The tensors whose slices along a dim belong to the same units, in order.

    Together they are the unit matrix ``U`` of shape (m, n): unit j owns slice j of every member
    along its dim, n numbers in all. Nothing is gathered or copied.

    Args:
        members: pairs (tensor, dim); every tensor has the same size m along its dim. Types and
            devices may differ. The hidden layer of an MLP is
            ``[(fc1.weight, 0), (fc1.bias, 0), (fc2.weight, 1)]``.
        replicas: number R of stacked replicas; every tensor then has a leading dim of size R
            that ``dim`` does not count.

    Raises:
        UnitsError: (a ValueError) if members are empty, sizes differ, a dim does not exist, or a
            tensor is not a dense floating one.

    Example:
        >>> import symfast as sf, torch
        >>> fc1, fc2 = torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)
        >>> units = sf.Units([(fc1.weight, 0), (fc1.bias, 0), (fc2.weight, 1)])
        >>> units.m, units.n
        (5, 6)
    """

    def __init__(
        self, members: Iterable[tuple[torch.Tensor, int]], replicas: int | None = None
    ) -> None:
        self.members = [self._member(member) for member in members]
        self.replicas = replicas
        if not self.members:
            raise UnitsError("Units needs at least one (tensor, dim) pair, got none")
        lead = 0 if replicas is None else 1
        sizes = []
        for number, (tensor, dim) in enumerate(self.members):
            dims = tensor.ndim - lead
            if not -dims <= dim < dims:
                raise UnitsError(
                    f"Units member {number} has shape {tuple(tensor.shape)}"
                    f"{' with a leading replica dim' if lead else ''}: there is no dim {dim}"
                )
            if lead and tensor.shape[0] != replicas:
                raise UnitsError(
                    f"Units member {number} has leading size {tensor.shape[0]}, "
                    f"but replicas={replicas}"
                )
            position = dim % dims + lead
            self.members[number] = (tensor, position - lead)
            sizes.append(tensor.shape[position])
        if len(set(sizes)) > 1:
            raise UnitsError(
                f"all members of Units must have the same number of units, got {sizes}"
            )
        self.m: int = sizes[0]

    @staticmethod
    def _member(member: tuple[torch.Tensor, int]) -> tuple[torch.Tensor, int]:
        try:
            tensor, dim = member
        except (TypeError, ValueError):
            raise UnitsError(f"a member of Units is a pair (tensor, dim), got {member!r}") from None
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise UnitsError(f"the dim of a member must be a whole number, got {dim!r}")
        return check_parameter(tensor, "a member of Units"), dim

    @property
    def n(self) -> int:
        """Numbers per unit (of one replica)."""
        count = 1 if self.replicas is None else max(self.replicas, 1)
        return sum(tensor.numel() // count // self.m for tensor, _ in self.members) if self.m else 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        shapes = ", ".join(f"({tuple(tensor.shape)}, {dim})" for tensor, dim in self.members)
        stacked = "" if self.replicas is None else f", replicas={self.replicas}"
        return f"Units(m={self.m}, n={self.n}: {shapes}{stacked})"
