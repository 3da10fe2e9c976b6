# SPDX-License-Identifier: Apache-2.0
"""The cells of a sweep: every combination of hyperparameters, each with every seed."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from symfast.problems.problem import Axis, Replicas, Value, cell_key

if TYPE_CHECKING:
    import numpy as np

#: What a user may give for one axis.
Values: TypeAlias = float | str | Sequence[float] | Sequence[str] | Tensor


@dataclass(frozen=True)
class Grid:
    """Axes of a sweep; replicas are ordered cell by cell, the last axis faster, seeds fastest.

    Example:
        >>> from symfast.sweep.grid import Grid
        >>> grid = Grid({"depth": (2, 3), "lr": (0.1, 0.2)}, seeds=(0, 1, 2))
        >>> len(grid), grid.cell(2)
        (12, {'depth': 3, 'lr': 0.1})
    """

    axes: Mapping[str, tuple[Value, ...]]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        """Number of replicas."""
        return self.cells * len(self.seeds)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(map(len, self.axes.values()))

    def cell(self, number: int) -> dict[str, Value]:
        """Return the hyperparameters of one cell."""
        values: dict[str, Value] = {}
        for name, axis in reversed(list(self.axes.items())):
            number, at = divmod(number, len(axis))
            values[name] = axis[at]
        return {name: values[name] for name in self.axes}

    def chunks(self, size: int) -> list[range]:
        """Return ranges of replicas of at most ``size``."""
        return [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def columns(self, replicas: range) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return the columns cell, seed and one per axis for a range of replicas."""
        import numpy as np

        cell, seed = np.divmod(np.arange(replicas.start, replicas.stop), len(self.seeds))
        columns = {"cell": cell, "seed": np.array(self.seeds, dtype=np.int64)[seed]}
        at = np.unravel_index(cell, [len(axis) for axis in self.axes.values()]) if self.axes else ()
        for (name, axis), index in zip(self.axes.items(), at, strict=True):
            columns[name] = np.array(axis)[index]
        return columns

    def replicas(self, replicas: range, axes: Mapping[str, Axis]) -> Replicas:
        """Return a range of replicas as a problem wants them: numbers, seeds and keys."""
        columns = self.columns(replicas)
        cells = {
            name: torch.tensor([axes[name].number(x) for x in columns[name].tolist()]).double()
            if axes[name].choices
            else torch.from_numpy(columns[name]).double()
            for name in self.axes
        }
        keys = {int(i): cell_key(axes, self.cell(int(i))) for i in dict.fromkeys(columns["cell"])}
        return Replicas(
            cells,
            seeds=torch.from_numpy(columns["seed"]),
            keys=torch.tensor([keys[i] for i in columns["cell"].tolist()], dtype=torch.int64),
        )

    def describe(self) -> dict[str, list[Any]]:
        """Axes as plain lists, for a manifest."""
        return {name: list(axis) for name, axis in self.axes.items()} | {"seeds": list(self.seeds)}


def axis_name(axes: Collection[str], name: str) -> str:
    """Return the axis a name means: ``noise`` is label noise, or gradient noise without labels'.

    Args:
        axes: names of a problem's axes.
        name: what a user wrote.

    Example:
        >>> from symfast.sweep.grid import axis_name
        >>> axis_name(["lr", "gradient_noise"], "noise"), axis_name(["lr"], "lr")
        ('gradient_noise', 'lr')
    """
    kinds = [kind for kind in ("label_noise", "gradient_noise") if kind in axes]
    return kinds[0] if name == "noise" and kinds else name


def grid_of(
    axes: Mapping[str, Axis], given: Mapping[str, Values], seeds: int | Sequence[int]
) -> Grid:
    """Return the product of the given values, with defaults for the other axes.

    Raises:
        ValueError: if a value is out of range or repeated, or there is none.

    Example:
        >>> from symfast.problems.problem import Axis
        >>> from symfast.sweep.grid import grid_of
        >>> grid_of({"lr": Axis(0.1), "momentum": Axis(0.9)}, {"lr": [0.1, 0.2]}, 3).describe()
        {'lr': [0.1, 0.2], 'momentum': [0.9], 'seeds': [0, 1, 2]}
    """
    every = {name: axis_values(name, x, given.get(name, x.default)) for name, x in axes.items()}
    return Grid(every, seed_axis(seeds))


def axis_values(name: str, axis: Axis, values: Values | tuple[Value, ...]) -> tuple[Value, ...]:
    """Return one axis as a tuple of allowed values.

    Raises:
        ValueError: if a value is out of range or repeated, or there is none.

    Example:
        >>> from symfast.problems.problem import Axis
        >>> from symfast.sweep.grid import axis_values
        >>> axis_values("lr", Axis(0.1), 0.5)
        (0.5,)
    """
    flat: list[Any]
    if isinstance(values, str):
        flat = [values]
    elif isinstance(values, Sequence):
        flat = list(values)
    else:
        flat = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    if not flat:
        raise ValueError(f"{name} needs at least one value")
    try:
        checked = tuple(axis.check(name, x) for x in flat)
    except TypeError as error:
        raise ValueError(f"{name} must hold numbers, got {values!r}") from error
    if len(set(checked)) != len(checked):
        raise ValueError(f"{name} holds the same value twice")
    return checked


def seed_axis(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return seeds 0..n-1 for a number n, or the given ones.

    Raises:
        ValueError: if there is none, one is negative, 2^63 or more, or repeated.

    Example:
        >>> from symfast.sweep.grid import seed_axis
        >>> seed_axis(3)
        (0, 1, 2)
    """
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(x) for x in seeds)
    usable = found and min(found) >= 0 and max(found) < 1 << 63
    if not usable or len(set(found)) != len(found):
        raise ValueError(f"seeds must be a positive number or distinct integers, got {seeds!r}")
    return found
