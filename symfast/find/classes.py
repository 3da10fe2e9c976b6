# SPDX-License-Identifier: Apache-2.0
"""Classes of units that must move together: a union-find over (parameter, dim, index)."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

PERMUTATION, SIGN, RESCALE, ROTATION = 1, 2, 4, 8
# the three ways in which units can move, and the kinds that each decides
ALGEBRAS = {"permutation": PERMUTATION, "diagonal": SIGN | RESCALE, "rotation": ROTATION}
EVERY_KIND = PERMUTATION | SIGN | RESCALE | ROTATION
PINNED = 0  # the label of what cannot move


@dataclass(frozen=True)
class Key:
    """An axis of a parameter: one potential symmetry acts along it.

    ``slot`` tells apart independent symmetries on one axis: "" for the plain axis, "read" for the
    reading side of a gain (its plain axis is the writing side), "2", "3" for further factors of
    a product. ``within`` = (dim, start, stop) restricts the axis to a part of the parameter, the
    rows of one convolution group.
    """

    parameter: str
    dim: int
    slot: str = ""
    within: tuple[int, int, int] | None = None


class UnitClasses:
    """Union-find over labels; a label is a unit with the sign of its exponent in the low bit.

    A unit scaled by s has label 2u where a tensor carries s and 2u + 1 where it carries 1/s.
    ``invert`` is ``label ^ 1``. A class that contains both labels of a unit has s = 1/s, so only
    a sign is left of its scale.
    """

    def __init__(self, algebra: str) -> None:
        self.algebra = algebra
        self.parent: list[int] = [PINNED, PINNED]
        self.mask: list[int] = [0, 0]
        self.keys: dict[Key, Labels] = {}
        self.refinements: defaultdict[int, set[tuple[int, tuple[int, ...]]]] = defaultdict(set)
        self.activations: defaultdict[int, dict[str, None]] = defaultdict(dict)
        self.blocks: dict[int, set[int]] = {}
        self._splits = 0

    def fresh(self, count: int) -> Labels:
        """Return ``count`` new labels that may do everything the algebra knows."""
        start = len(self.parent)
        self.parent.extend(range(start, start + 2 * count))
        self.mask.extend([ALGEBRAS[self.algebra]] * (2 * count))
        return np.arange(start, start + 2 * count, 2)

    def axis(self, key: Key, size: int) -> Labels:
        """Return the labels of a parameter's axis, the same ones at every use."""
        if key not in self.keys:
            self.keys[key] = self.fresh(size)
        return self.keys[key]

    def find(self, label: int) -> int:
        """Return the label that stands for the class."""
        root = label
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[label] != root:
            self.parent[label], label = root, self.parent[label]
        return root

    def unite(self, a: Labels, b: Labels, inverse: bool = False) -> None:
        """Let unit a[i] move as b[i] (or as its inverse), elementwise with broadcasting."""
        left, right = np.broadcast_arrays(a, b)
        pairs = np.unique(np.stack([left.ravel(), right.ravel()]), axis=1)
        for x, y in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
            other = y ^ 1 if inverse and y > 1 else y
            self._join(x, other)
            self._join(self.invert(x), self.invert(other))

    @staticmethod
    def invert(label: int) -> int:
        """Return the label of the inverse; what cannot move is its own inverse."""
        return label ^ 1 if label > 1 else label

    def _join(self, a: int, b: int) -> None:
        low, high = sorted((self.find(a), self.find(b)))
        if low == high:
            return
        self.parent[high] = low
        self.mask[low] &= self.mask[high]

    def forbid(self, labels: Labels, kinds: int) -> None:
        """Take ``kinds`` away from the classes of ``labels``."""
        for label in np.unique(labels).tolist():
            for side in (label, self.invert(label)):
                self.mask[self.find(side)] &= ~kinds

    def refine(self, labels: Labels, dims: tuple[int, ...]) -> None:
        """Split the units by their position along ``dims``: what differs there cannot mix."""
        dims = tuple(dim for dim in dims if labels.shape[dim] > 1)
        if not dims:
            return
        self._splits += 1
        places = defaultdict(set)
        grid = np.ravel_multi_index(
            tuple(np.indices(labels.shape)[dim] for dim in dims),
            tuple(labels.shape[dim] for dim in dims),
        )
        for label, place in zip(labels.ravel().tolist(), grid.ravel().tolist(), strict=True):
            places[label].add(place)
        for label, found in places.items():
            for side in (label, self.invert(label)):
                self.refinements[side].add((self._splits, tuple(sorted(found))))

    def blocks_of(self, labels: Labels, dims: tuple[int, ...]) -> Labels:
        """Return labels of whole blocks: one per position along ``dims`` (an attention head)."""
        moved = np.moveaxis(labels, dims, range(len(dims)))
        lead = moved.shape[: len(dims)]
        rows = moved.reshape(int(np.prod(lead)), -1)
        names: dict[tuple[int, ...], int] = {}
        out = np.empty(len(rows), dtype=np.int64)
        for number, row in enumerate(rows.tolist()):
            content = tuple(row)
            if content not in names:
                names[content] = int(self.fresh(1)[0])
                self.blocks[names[content]] = set(content)
            out[number] = names[content]
        shape = [labels.shape[dim] if dim in dims else 1 for dim in range(labels.ndim)]
        return out.reshape(shape)

    def contain(self, blocks: Labels, units: Labels) -> None:
        """Record that each block holds the units at its positions (labels broadcast)."""
        left, right = np.broadcast_arrays(blocks, units)
        for block, unit in set(zip(left.ravel().tolist(), right.ravel().tolist(), strict=True)):
            if block in self.blocks:
                self.blocks[block].add(unit)

    def name_activation(self, labels: Labels, name: str) -> None:
        """Remember what the units pass through, for the reader."""
        for label in np.unique(labels).tolist():
            self.activations[label][name] = None
