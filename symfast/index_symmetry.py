# SPDX-License-Identifier: Apache-2.0
"""Symmetries of single units, pairs and clusters: frames that are lists of unit numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from symfast.errors import SymmetryError

Indices: TypeAlias = npt.NDArray[np.int64]


def _indices(values: Sequence[int] | torch.Tensor | npt.ArrayLike, what: str) -> Indices:
    """Turn a sequence of unit numbers into an int64 array; anything fractional is refused."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SymmetryError(
            f"{what} must be a flat sequence of whole numbers, got shape {array.shape} "
            f"and type {array.dtype}"
        )
    return array.astype(np.int64)


def _check_range(values: Indices, size: int, what: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        worst = int(values.min() if values.min() < 0 else values.max())
        raise SymmetryError(f"{what} names unit {worst}, but there are units 0 to {size - 1}")


def _check_distinct(values: Indices, what: str) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size != values.size:
        raise SymmetryError(f"{what} names unit {int(distinct[counts > 1][0])} more than once")


@dataclass(frozen=True)
class SignFlip:
    """Sign flip (or rescaling) of single units, each its own mirror.

    Frame ``A = [e_j for j in units]``; ``A^T U = 0`` means that those units are zero (sparsity).
    Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024, section 4.

    Args:
        units: distinct unit numbers, or None for every unit.

    Raises:
        SymmetryError: (a ValueError) if units repeat or, in a plan, do not exist.

    Example:
        >>> import symfast as sf
        >>> sf.SignFlip([2, 0]).frame(3).tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """

    units: tuple[int, ...] | None = None
    kind: ClassVar[str] = "sign_flip"

    def __post_init__(self) -> None:
        if self.units is not None:
            units = _indices(self.units, "SignFlip")
            _check_distinct(units, "SignFlip")
            object.__setattr__(self, "units", tuple(units.tolist()))

    def indices(self, size: int) -> Indices:
        """The unit numbers as an int64 array, checked against ``size`` units."""
        if self.units is None:
            return np.arange(size, dtype=np.int64)
        units = np.array(self.units, np.int64)
        _check_range(units, size, "SignFlip")
        return units

    def mirrors(self, size: int) -> list[int]:
        """Columns of the frame that belong to each mirror: one column per unit."""
        return [1] * (size if self.units is None else len(self.units))

    def frame(self, size: int) -> torch.Tensor:
        """The dense frame A (size, k), float64."""
        units = self.indices(size)
        frame = torch.zeros(size, len(units), dtype=torch.float64)
        frame[torch.from_numpy(units), torch.arange(len(units))] = 1.0
        return frame

    def to_dict(self) -> dict[str, Any]:
        """A plain description that survives JSON."""
        return {"kind": self.kind, "units": None if self.units is None else list(self.units)}


@dataclass(frozen=True)
class Swap:
    """Exchange of disjoint pairs of units, each pair its own mirror.

    Frame column ``(e_a - e_b) / sqrt 2``; ``A^T U = 0`` means that both units are equal
    (homogeneous ensemble). Ziyin, ICML 2024, section 4 (permutation symmetry).

    Args:
        a: first units of the pairs.
        b: second units, as many; no unit may appear twice.

    Raises:
        SymmetryError: (a ValueError) if lengths differ or a unit appears twice.

    Example:
        >>> import symfast as sf
        >>> sf.Swap([0], [2]).mirrors(3)
        [1]
    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    kind: ClassVar[str] = "swap"

    def __post_init__(self) -> None:
        a, b = _indices(self.a, "Swap"), _indices(self.b, "Swap")
        if a.size != b.size:
            raise SymmetryError(f"Swap needs as many units a as b, got {a.size} and {b.size}")
        _check_distinct(np.concatenate([a, b]), "Swap")
        object.__setattr__(self, "a", tuple(a.tolist()))
        object.__setattr__(self, "b", tuple(b.tolist()))

    def indices(self, size: int) -> Indices:
        """The pairs as an int64 array (pairs, 2), checked against ``size`` units."""
        pairs = np.array([self.a, self.b], np.int64).reshape(2, -1)
        _check_range(pairs.ravel(), size, "Swap")
        return pairs.T

    def mirrors(self, size: int) -> list[int]:
        """Columns of the frame that belong to each mirror: one column per pair."""
        return [1] * len(self.a)

    def frame(self, size: int) -> torch.Tensor:
        """The dense frame A (size, k), float64."""
        pairs = torch.from_numpy(self.indices(size).copy())
        frame = torch.zeros(size, len(pairs), dtype=torch.float64)
        columns = torch.arange(len(pairs))
        frame[pairs[:, 0], columns] = 0.5**0.5
        frame[pairs[:, 1], columns] = -(0.5**0.5)
        return frame

    def to_dict(self) -> dict[str, Any]:
        """A plain description that survives JSON."""
        return {"kind": self.kind, "a": list(self.a), "b": list(self.b)}


@dataclass(frozen=True)
class Cluster:
    """Permutation of the units inside clusters, each cluster one mirror of c - 1 columns.

    The frame of a cluster of c units is the Helmert complement of its indicator: column j is
    ``(1, .., 1, -(j+1), 0, ..) / sqrt((j+1)(j+2))`` over the members in ascending order, so
    ``A^T U = 0`` means that all members are equal. Ziyin, ICML 2024, section 4.

    Args:
        labels: one whole number per unit; equal labels >= 0 form a cluster, negative ones and
            clusters of one unit are left alone.

    Raises:
        SymmetryError: (a ValueError) in a plan, if there are not as many labels as units.

    Example:
        >>> import symfast as sf
        >>> sf.Cluster([0, 1, 0, 0, -1]).mirrors(5)
        [2]
    """

    labels: tuple[int, ...]
    kind: ClassVar[str] = "cluster"

    def __post_init__(self) -> None:
        labels = _indices(self.labels, "Cluster")
        object.__setattr__(self, "labels", tuple(labels.tolist()))

    def members(self, size: int) -> list[Indices]:
        """The members of every cluster of two or more units, ascending, by label."""
        if len(self.labels) != size:
            raise SymmetryError(f"Cluster has {len(self.labels)} labels for {size} units")
        labels = np.array(self.labels, np.int64)
        order = np.argsort(labels, kind="stable")
        cuts = np.flatnonzero(np.diff(labels[order])) + 1
        return [part for part in np.split(order, cuts) if part.size > 1 and labels[part[0]] >= 0]

    def mirrors(self, size: int) -> list[int]:
        """Columns of the frame that belong to each mirror: c - 1 for a cluster of c units."""
        return [part.size - 1 for part in self.members(size)]

    def frame(self, size: int) -> torch.Tensor:
        """The dense frame A (size, k), float64."""
        members = self.members(size)
        frame = torch.zeros(size, sum(part.size - 1 for part in members), dtype=torch.float64)
        column = 0
        for part in members:
            for j in range(part.size - 1):
                scale = ((j + 1) * (j + 2)) ** -0.5
                frame[part[: j + 1], column] = scale
                frame[part[j + 1], column] = -(j + 1) * scale
                column += 1
        return frame

    def to_dict(self) -> dict[str, Any]:
        """A plain description that survives JSON."""
        return {"kind": self.kind, "labels": list(self.labels)}
