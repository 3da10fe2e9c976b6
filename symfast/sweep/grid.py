# SPDX-License-Identifier: Apache-2.0
"""The cells of a sweep: every combination of hyperparameters, each with every seed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Numbers: TypeAlias = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Cell:
    """One point of the diagram; its replicas differ by seed only."""

    depth: int
    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Grid:
    """Axes of a sweep; replicas are ordered cell by cell, seeds fastest.

    Example:
        >>> from symfast.sweep.grid import Grid
        >>> grid = Grid((2, 3), (0.1,), (0.9,), (0.01, 0.02), (0, 1, 2))
        >>> len(grid), grid.replica(4)
        (12, (1, Cell(depth=2, lr=0.1, momentum=0.9, weight_decay=0.02), 1))
    """

    depth: tuple[int, ...]
    lr: tuple[float, ...]
    momentum: tuple[float, ...]
    weight_decay: tuple[float, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        """Number of replicas."""
        return math.prod(map(len, asdict(self).values()))

    def replica(self, index: int) -> tuple[int, Cell, int]:
        """Cell number, cell and seed of one replica."""
        number, seed = divmod(index, len(self.seeds))
        rest, values = number, []
        for axis in (self.weight_decay, self.momentum, self.lr, self.depth):
            rest, at = divmod(rest, len(axis))
            values.append(axis[at])
        weight_decay, momentum, lr, depth = values
        return number, Cell(int(depth), lr, momentum, weight_decay), self.seeds[seed]

    def chunks(self, size: int) -> Iterator[range]:
        """Ranges of replicas of at most ``size``."""
        for first in range(0, len(self), size):
            yield range(first, min(first + size, len(self)))

    def columns(self, replicas: range) -> dict[str, list[Any]]:
        """Hyperparameter columns of the table for a range of replicas."""
        rows = [self.replica(i) for i in replicas]
        columns: dict[str, list[Any]] = {"cell": [number for number, _, _ in rows]}
        columns["seed"] = [seed for _, _, seed in rows]
        for name in ("depth", "lr", "momentum", "weight_decay"):
            columns[name] = [getattr(cell, name) for _, cell, _ in rows]
        return columns

    def describe(self) -> dict[str, list[float]]:
        """Axes as plain lists, for a manifest."""
        return {name: list(axis) for name, axis in asdict(self).items()}


def axis(name: str, values: Numbers) -> tuple[float, ...]:
    """One axis as a tuple of finite numbers that are not negative.

    Raises:
        ValueError: if a value is negative, not finite or repeated, or there is none.

    Example:
        >>> from symfast.sweep.grid import axis
        >>> axis("lr", 0.1)
        (0.1,)
    """
    flat = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    if not flat:
        raise ValueError(f"{name} needs at least one value")
    bad = [x for x in flat if not math.isfinite(x) or x < 0]
    if bad:
        raise ValueError(f"{name} must be finite and not negative, got {bad[0]}")
    if len(set(flat)) != len(flat):
        raise ValueError(f"{name} holds the same value twice")
    return tuple(flat)


def seed_axis(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return seeds 0..n-1 for a number n, or the given ones.

    Raises:
        ValueError: if there is none, one is negative or repeated.

    Example:
        >>> from symfast.sweep.grid import seed_axis
        >>> seed_axis(3)
        (0, 1, 2)
    """
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(x) for x in seeds)
    if not found or min(found) < 0 or len(set(found)) != len(found):
        raise ValueError(f"seeds must be a positive number or distinct integers, got {seeds!r}")
    return found
