# SPDX-License-Identifier: Apache-2.0
"""A bound on what an approximate merge does to the outputs, for every input."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from symfast.compress.lipschitz import Model, Size, analyse, scaled
from symfast.compress.slopes import Norms, arguments, overlap
from symfast.find.graph import Exact, TraceError, export
from symfast.find.tracer import operator_name
from symfast.symmetry_group import Member, SymmetryGroup, named_tensors

LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


@dataclass(frozen=True)
class Bound:
    """How far a merge can move things, for inputs of the example's shape.

    Attributes:
        local: change of what reads the units, per norm of what writes them with a 1 appended.
        output: change of the outputs per norm of the input with a 1 appended.
        reason: why there is none, where a bound is infinite.
    """

    local: float
    output: float
    reason: str = ""


@dataclass
class Bounds:
    """Bounds for the merges of one model; it is traced again only if its parameters are others."""

    model: nn.Module
    exact: Exact
    norms: Norms = field(default_factory=dict)
    _program: tuple[tuple[str, ...], torch.export.ExportedProgram] | None = None

    def sizes(self) -> dict[str, Size]:
        """Sizes of all values as the model stands, by the names of their nodes."""
        try:
            return {node.name: size for node, size in self._analyse().size.items()}
        except TraceError:
            return {}

    def of(self, group: SymmetryGroup, gap: float, before: Mapping[str, Size]) -> Bound:
        """Bound of a merge in ``group`` that moved ``B^T A`` by at most ``gap`` (2-norm).

        A (m, p) are the rows of the writers, B (m, q) those of the readers. What the readers see
        changes by ``B'^T A' (u' - u) + (B'^T A' - B^T A) u``: the first by the slopes of the model
        as it is now, the second by the sizes it had ``before``.
        """
        try:
            return _bound(self._analyse(), group, gap, before)
        except TraceError as error:
            return Bound(math.inf, math.inf, str(error).splitlines()[0])

    def _analyse(self) -> Model:
        names = tuple(named_tensors(self.model))
        exact = Exact(self.model, self.exact.args, self.exact.kwargs)
        if self._program is None or self._program[0] != names:
            self._program = names, export(exact)
        return analyse(exact, self._program[1], self.norms)


def _bound(model: Model, group: SymmetryGroup, gap: float, before: Mapping[str, Size]) -> Bound:
    writers, readers, reason = _places(model, group)
    if reason:
        return Bound(math.inf, math.inf, reason)
    written = _written(before, group, writers)
    between = model.carry({node: (0.0, 1.0) for node in writers})
    changes: dict[fx.Node, Size] = {}
    local = 0.0
    widen = max(overlap(node) for node in writers)
    for node in readers:
        source = _input(node)
        if source not in between:
            return Bound(math.inf, math.inf, f"{node.name} does not read what the writers write")
        factor = gap * between[source][1] * overlap(node)
        local = max(local, factor * widen)
        changes[node] = scaled(written, factor)
    after = model.carry(changes)
    total = [sum(after.get(node, (0.0, 0.0))[part] for node in model.outputs) for part in (0, 1)]
    output = math.hypot(*total)
    if math.isfinite(output):
        return Bound(local, output)
    return Bound(local, math.inf, _reason(model, {**between, **after}))


def _places(model: Model, group: SymmetryGroup) -> tuple[list[fx.Node], list[fx.Node], str]:
    """Layers that write and that read the units, or why they are none."""
    found: dict[str, list[fx.Node]] = {"in": [], "out": []}
    for member in group.members:
        if member.role == "norm":
            return [], [], f"{member.name} norms the units"
        if member.role == "bias":
            continue
        users = model.uses.get(_parameter(member), [])
        if len(users) != 1 or operator_name(users[0]) not in LAYERS:
            return [], [], f"{member.name} is no weight of one linear layer or convolution"
        if arguments(users[0]).get("weight") not in users[0].all_input_nodes:
            return [], [], f"{member.name} is no weight of one linear layer or convolution"
        if users[0] not in found[member.role]:
            found[member.role].append(users[0])
    return found["in"], found["out"], "" if found["in"] and found["out"] else "no layer writes them"


def _parameter(member: Member) -> str:
    return member.name if member.source is None else member.source.parameter


def _input(node: fx.Node) -> fx.Node:
    given = arguments(node)["input"]
    assert isinstance(given, fx.Node)
    return given


def _written(before: Mapping[str, Size], group: SymmetryGroup, writers: list[fx.Node]) -> Size:
    """Size of the windows that the writers see, side by side, with a 1 for each bias."""
    slope = offset = 0.0
    for node in writers:
        size = scaled(before.get(_input(node).name, (0.0, math.inf)), overlap(node))
        slope, offset = slope + size[0], offset + size[1]
        out = node.meta["val"]
        channels = out.shape[-1] if operator_name(node) == "linear" else out.shape[1]
        if any(member.role == "bias" for member in group.members):
            offset += math.sqrt(out.numel() / channels)
    return slope, offset


def _reason(model: Model, moved: dict[fx.Node, Size]) -> str:
    """The first operator without a slope that the change meets, or else that comes before."""
    for node, name in model.reasons.items():
        if node in moved:
            return f"no slope is known of {name}, which the change reaches"
    return f"no bound is known of {next(iter(model.reasons.values()), 'the input')}"
