# SPDX-License-Identifier: Apache-2.0
"""From classes of units to groups: which slices of which parameters, in which roles."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from symfast.find.classes import PERMUTATION, RESCALE, ROTATION, SIGN, Key, UnitClasses
from symfast.find.tracer import Tracer
from symfast.symmetry_group import AxisSlice, Member, SymmetryGroup

Entries = dict[tuple[Key, int], list[int]]  # (axis, exponent) -> indices
NAMES = {
    PERMUTATION: "permutation",
    SIGN: "sign_flip",
    RESCALE: "rescale",
    ROTATION: "rotation",
}


@dataclass
class Recipe:
    """A candidate group, by names: it can be bound to any model of the same shape."""

    slices: list[tuple[AxisSlice, str]]
    kinds: list[str]
    activation: str
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def content(self) -> frozenset[AxisSlice]:
        """The slices without their roles."""
        return frozenset(part for part, _ in self.slices)

    def bind(self, tensors: Mapping[str, Tensor], proved: set[str]) -> SymmetryGroup:
        """Return the group on the named tensors of a model."""
        members = []
        for part, role in self.slices:
            view = part.of(tensors[part.parameter])
            whole = view is tensors[part.parameter]
            name = part.parameter if whole else part.label
            members.append(Member(view, part.dim, name, role, part))
        kinds = tuple(kind for kind in self.kinds if kind in proved)
        unproved = tuple(kind for kind in self.kinds if kind not in proved)
        errors = tuple(self.errors.items())
        return SymmetryGroup(tuple(members), kinds, unproved, self.where, self.activation, errors)

    @property
    def where(self) -> str:
        """Writers, activation and readers, in words."""
        ends: dict[str, dict[str, None]] = {"in": {}, "out": {}, "norm": {}}
        for part, role in self.slices:
            if role != "bias":
                ends[role][part.parameter.rpartition(".")[0] or part.parameter] = None
        left = " + ".join(ends["in"] or ends["norm"])
        middle = [] if self.activation == "identity" else [self.activation]
        right = [" + ".join(ends["out"])] if ends["out"] else []
        return " -> ".join([left, *middle, *right])


def build(tracer: Tracer) -> list[Recipe]:
    """Return all candidate groups, in the order of the parameters."""
    found: dict[frozenset[AxisSlice], Recipe] = {}
    for algebra in ("diagonal", "permutation", "rotation"):
        classes = tracer.classes[algebra]
        for recipe in _plain(tracer, classes):
            old = found.setdefault(recipe.content, recipe)
            if old is not recipe:
                old.kinds += [kind for kind in recipe.kinds if kind not in old.kinds]
                if old.activation == "identity":
                    old.activation = recipe.activation
    for recipe in _heads(tracer, tracer.classes["permutation"]):
        found.setdefault(recipe.content, recipe)
    order = ["permutation", "sign_flip", "rescale", "rotation", "scale"]
    for recipe in found.values():
        if {"rotation", "rescale"} <= set(recipe.kinds):
            recipe.kinds.append("scale")
        recipe.kinds.sort(key=order.index)
    place = {name: number for number, name in enumerate(tracer.tensors)}
    return sorted(found.values(), key=lambda r: min(place[p.parameter] for p in r.content))


def _members(tracer: Tracer, classes: UnitClasses) -> dict[int, Entries]:
    """Return per class its entries: which indices of which axes it holds."""
    entries: dict[int, Entries] = defaultdict(lambda: defaultdict(list))
    for key, labels in classes.keys.items():
        for index, label in enumerate(labels.tolist()):
            if not classes.mask[classes.find(label)]:
                continue  # most units of a large embedding cannot move at all
            name, exponent = _class_of(classes, label)
            entries[name][key, exponent].append(index)
    return {name: _cancel(_orient(tracer, parts)) for name, parts in entries.items()}


def _orient(tracer: Tracer, parts: Entries) -> Entries:
    """Let the first axis that writes the units be the one that is multiplied."""
    for key, exponent in parts:
        if tracer.roles.get((key.parameter, key.dim)) != "out" and key.slot == "":
            if exponent == 0:
                break
            return {(k, 1 - e): indices for (k, e), indices in parts.items()}
    return parts


def _class_of(classes: UnitClasses, label: int) -> tuple[int, int]:
    """Return the class of a label, and whether the label is its inverse."""
    mine, other = classes.find(label), classes.find(classes.invert(label))
    if mine == other:
        return min(mine, other), 0
    return min(mine, other), int(mine > other)


def _cancel(parts: Entries) -> Entries:
    """Merge the sides of a gain: what multiplies and divides it by the same factor is nothing."""
    merged: Entries = {}
    for (key, exponent), indices in parts.items():
        plain = Key(key.parameter, key.dim, "", key.within)
        opposite = (plain, 1 - exponent)
        if key.slot and (plain, exponent) in merged:
            merged.pop((plain, exponent))  # twice the same sign: no change of sign
        elif opposite in merged and merged[opposite] == indices:
            merged.pop(opposite)
        else:
            merged[plain, exponent] = indices
    return merged


Signature = tuple[frozenset[object], frozenset[object], int, tuple[str, ...]]


def _plain(tracer: Tracer, classes: UnitClasses) -> list[Recipe]:
    """Collect classes with the same entries and limits into groups."""
    limits: dict[int, set[object]] = defaultdict(set)
    acts: dict[int, dict[str, None]] = defaultdict(dict)
    for label, splits in classes.refinements.items():
        limits[_class_of(classes, label)[0]] |= splits
    for label, names in classes.activations.items():
        acts[_class_of(classes, label)[0]] |= names
    groups: dict[Signature, list[Entries]] = defaultdict(list)
    for name, entries in _members(tracer, classes).items():
        mask = classes.mask[classes.find(name)]
        if classes.find(classes.invert(name)) == classes.find(name):
            mask &= ~RESCALE
        if mask and entries and classes.find(name) > 1:
            counts = frozenset((key, len(indices)) for key, indices in entries.items())
            words = tuple(acts[name])
            groups[counts, frozenset(limits[name]), mask, words].append(entries)
    recipes = []
    for (_, _, mask, words), units in groups.items():
        kinds = [text for bit, text in NAMES.items() if mask & bit]
        recipe = _recipe(tracer, units, kinds, list(words))
        if recipe is not None:
            recipes.append(recipe)
    return recipes


def _heads(tracer: Tracer, classes: UnitClasses) -> list[Recipe]:
    """Groups whose units are whole blocks of units: attention heads."""
    owner: dict[int, int] = {}
    for block, units in classes.blocks.items():  # blocks that share units (keys) are one
        for unit in units:
            first = owner.setdefault(classes.find(unit), block)
            classes._join(first, block)
    inside: dict[int, set[int]] = defaultdict(set)
    for block, units in classes.blocks.items():
        inside[classes.find(block)] |= {classes.find(unit) for unit in units}
    members = _members(tracer, classes)
    limits: dict[int, set[object]] = defaultdict(set)
    for label, splits in classes.refinements.items():
        if label in classes.blocks:
            limits[classes.find(label)] |= splits
    groups: dict[Signature, list[Entries]] = defaultdict(list)
    for block, roots in inside.items():
        if not all(classes.mask[root] for root in (block, *roots)):
            continue
        entries: Entries = defaultdict(list)
        for root in (block, *roots):
            for pair, indices in members.get(root, {}).items():
                entries[pair] = sorted([*entries[pair], *indices])
        counts = frozenset((key, len(indices)) for key, indices in entries.items())
        if entries:
            groups[counts, frozenset(limits[block]), PERMUTATION, ()].append(entries)
    found = [_recipe(tracer, units, ["permutation"], ["heads"]) for units in groups.values()]
    return [recipe for recipe in found if recipe is not None]


def _recipe(
    tracer: Tracer, units: list[Entries], kinds: list[str], words: list[str]
) -> Recipe | None:
    """Write the indices of a group's units as slices; None if there is no group in it."""
    if len(units) < 2:
        kinds = [kind for kind in kinds if kind in ("sign_flip", "rescale")]
    if not kinds:
        return None
    first = min(units[0], key=lambda pair: pair[1])
    units = sorted(units, key=lambda entries: entries[first])
    slices = []
    for key, exponent in units[0]:
        table = np.array([sorted(entries[key, exponent]) for entries in units])
        parts = _slices(key, table)
        if parts is None:
            tracer.note(f"units of {key.parameter} are not evenly spaced along dim {key.dim}")
            return None
        role = _role(tracer, key, exponent, kinds)
        slices += [(part, role) for part in parts]
    return Recipe(slices, kinds, " -> ".join(words) or "identity")


def _role(tracer: Tracer, key: Key, exponent: int, kinds: list[str]) -> str:
    """Name a member's role; where factors are free, by whether they multiply or divide."""
    used = tracer.roles.get((key.parameter, key.dim), "in" if key.dim == 0 else "out")
    scaled = bool({"rescale", "sign_flip"} & set(kinds))
    if not scaled:
        return used
    if exponent:
        return "out"
    return "bias" if used == "bias" else "in"


def _slices(key: Key, table: np.ndarray) -> list[AxisSlice] | None:
    """Write ``table`` (units, inner) as evenly spaced slices: one, or one per run of indices."""
    whole = _slice(key, table)
    if whole is not None:
        return [whole]
    gaps = np.diff(table[0])
    cuts = (np.flatnonzero(gaps != gaps.min()) + 1).tolist() if len(gaps) else []
    pieces = np.split(table, cuts, axis=1) if cuts else list(table.T[:, :, None])
    parts = [_slice(key, piece) for piece in pieces]
    if any(part is None for part in parts):
        parts = [_slice(key, column[:, None]) for column in table.T]
    return None if any(part is None for part in parts) else [p for p in parts if p is not None]


def _slice(key: Key, table: np.ndarray) -> AxisSlice | None:
    """Return the slice whose indices are ``table``, if they are evenly spaced."""
    units, inner = table.shape
    start = int(table[0, 0])
    step = int(table[1, 0] - start) if units > 1 else inner
    inner_step = int(table[0, 1] - start) if inner > 1 else 1
    part = AxisSlice(key.parameter, key.dim, start, step, units, inner, inner_step, key.within)
    even = step > 0 and np.array_equal(part.indices().numpy(), table)
    return part if even else None
