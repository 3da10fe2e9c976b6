# SPDX-License-Identifier: Apache-2.0
"""A plan as a value: what it was made of, moved, described and printed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from symfast.compiled import Compiled
from symfast.symmetry import Symmetry
from symfast.units import Units

Target: TypeAlias = Units | torch.Tensor


def describe(target: Target) -> list[list[Any]]:
    """Shapes and unit dims of a target as plain lists."""
    if isinstance(target, Units):
        return [[list(tensor.shape), dim] for tensor, dim in target]
    return [[list(target.shape), None]]


def with_tensors(
    given: Iterable[tuple[Target, Symmetry]], change: Callable[[torch.Tensor], torch.Tensor]
) -> list[tuple[Target, Symmetry]]:
    """The same entries on other tensors."""
    return [
        (
            Units([(change(tensor), dim) for tensor, dim in target], target.replicas)
            if isinstance(target, Units)
            else change(target),
            symmetry,
        )
        for target, symmetry in given
    ]


def move(
    given: Sequence[tuple[Target, Symmetry]], device: torch.device
) -> list[tuple[Target, Symmetry]]:
    """The same entries on a device; a tensor that is there stays the same object."""
    moved: dict[int, torch.Tensor] = {}

    def there(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in moved:
            # an index-free device ("cuda") takes its index from where the copy lands
            copy = tensor.detach().to(device)
            moved[id(tensor)] = tensor if copy.device == tensor.device else copy
        return moved[id(tensor)]

    return with_tensors(given, there)


def summary(compiled: Compiled) -> str:
    """What a plan prints: groups by kind, then one line per launch."""
    kinds: dict[str, int] = {}
    for entry in compiled.entries:
        kinds[entry.symmetry.kind] = kinds.get(entry.symmetry.kind, 0) + entry.batch
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "empty"
    replicas = f"; {compiled.copies} replicas" if compiled.stacked else ""
    lines = [f"Plan({compiled.groups} groups: {listed}; {compiled.mirrors} mirrors{replicas})"]
    lines += [
        f"  stage {p.stage} {p.device} {str(p.dtype).removeprefix('torch.')}: "
        f"{len(p.tensors)} tensors, {len(p.tables.tasks)} tasks, {len(p.tables.chunks)} chunks"
        for p in compiled.parts
    ]
    return "\n".join(lines)


def signature(compiled: Compiled, state: Mapping[str, Any]) -> str:
    """One line that tells plans apart: groups by kind, and a hash of the plan's state dict."""
    told = json.dumps(state, sort_keys=True).encode()
    return f"{summary(compiled).splitlines()[0]} {hashlib.sha256(told).hexdigest()[:16]}"
