# SPDX-License-Identifier: Apache-2.0
"""Inspect a model or a checkpoint file: one Gram per group, and what it tells."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from symfast.activity import measure_activity
from symfast.charges import present_groups
from symfast.checkpoint import (
    CheckpointError,
    Heads,
    attention_layers,
    open_checkpoint,
    read_heads,
)
from symfast.codes import ACCUMULATE
from symfast.diagnosis import PAIRS_UP_TO, Diagnosis
from symfast.inspect_jobs import (
    Progress,
    diagnose_each,
    matrix_group,
    pending_groups,
    pending_heads,
    pending_matrix,
)
from symfast.inspect_report import InspectReport
from symfast.symmetry_group import SymmetryGroup


def inspect(
    model: nn.Module | str | Path,
    example_input: Any = None,
    groups: Iterable[SymmetryGroup] | None = None,
    *,
    tol: float | None = None,
    pairs_up_to: int = PAIRS_UP_TO,
    heads: int | tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> InspectReport:
    """Say what collapsed: zero, constant and equal units, ranks, charges, distance to mirrors.

    Each group's unit matrix U (m, n) is read once and summed to one Gram matrix in float64;
    parameters are never changed. Singular values s come from the smaller of ``U U^T`` and
    ``U^T U``: an error of about ``1e-16 m s_max^2 / s``, so below ``1e-6 s_max`` they are noise
    (float64 members are measured again there). The rank counts ``s > max(m, n) eps s_max``, eps
    of the members' dtype. docs/inspect.md defines every column.

    Args:
        model: a live module, or the path of a ``.safetensors`` or ``torch.save`` file, which is
            read tensor by tensor (pickles with ``weights_only=True``).
        example_input: a tensor, tuple of arguments or dict of keywords. With it the symmetry
            groups are found and proved first, and dormant units are counted.
        groups: groups to inspect, instead of finding them; with neither, every weight of at
            least two dims is a unit matrix of its own, its rows (dim 0) the units.
        tol: relative distance at which units count as zero or equal; None: 4 eps of the coarsest
            dtype, and for zero at most 1e-6.
        pairs_up_to: largest m for which the nearest pair is searched (m^2 n multiplications).
        heads: for a file, the number of heads, or (query, key-value) heads, so that QK and VO
            are measured per head; None: from ``config.json`` beside the file, if there is one.
        progress: called with (numbers done, numbers in all).

    Returns:
        a report with ``table`` (pandas), ``str()``, ``to_json()`` and ``to_html(path)``.

    Raises:
        FileNotFoundError: if the path is no file.
        CheckpointError: (a ValueError) if the file is damaged, no checkpoint, or without a matrix.
        ValueError: if groups do not belong to the model, or options do not fit.

    Example:
        >>> import symfast as sf, torch
        >>> layer = torch.nn.Linear(4, 3, bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight[2].copy_(layer.weight[0])
        >>> sf.inspect(layer).table[["m", "n", "duplicates", "rank"]].values.tolist()
        [[3, 4, 1, 2]]
    """
    start = time.perf_counter()
    options: dict[str, Any] = {"tol": tol, "pairs_up_to": pairs_up_to}
    if isinstance(model, nn.Module):
        found, notes = _inspect_module(model, example_input, groups, options, progress)
        title = type(model).__name__
    elif isinstance(model, str | Path):
        if example_input is not None or groups is not None:
            raise ValueError("a file has no forward pass: give a live model with inputs or groups")
        found, notes = _inspect_file(Path(model), _heads(heads), options, progress)
        title = str(model)
    else:
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module or a path")
    return InspectReport(title, found, time.perf_counter() - start, notes)


def _inspect_module(
    model: nn.Module,
    example_input: Any,
    groups: Iterable[SymmetryGroup] | None,
    options: dict[str, Any],
    progress: Progress | None,
) -> tuple[list[Diagnosis], list[str]]:
    notes: list[str] = []
    if groups is None and example_input is not None:
        from symfast.find import find_symmetries

        groups = find_symmetries(model, example_input)
        notes = groups.notes
    chosen = list(_matrices(model)) if groups is None else present_groups(groups, model)
    places = Counter(group.where for group in chosen)
    # the heads of a layer: tell them apart by their rows
    named = [
        replace(g, where=f"{g.where} [{g.members[0].name}]") if places[g.where] > 1 else g
        for g in chosen
    ]
    found = diagnose_each(pending_groups(named), progress, **options)
    if example_input is not None:
        _add_activity(model, chosen, example_input, found)
    return found, notes if found else [*notes, "there is no group to inspect"]


def _matrices(model: nn.Module) -> Iterator[SymmetryGroup]:
    """Every weight as its own unit matrix; nothing is known of its symmetries."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and parameter.numel() and parameter.dtype in ACCUMULATE:
            yield matrix_group(name, parameter)


def _add_activity(
    model: nn.Module,
    groups: Sequence[SymmetryGroup],
    example_input: Any,
    found: list[Diagnosis],
) -> None:
    for number, activity in measure_activity(model, groups, example_input).items():
        units = {"dormant": activity.dormant(), "still": activity.still()}
        found[number].units.update(units)
        found[number].row.update({name: len(numbers) for name, numbers in units.items()})


def _heads(heads: int | tuple[int, int] | None) -> Heads | None:
    if heads is None:
        return None
    query, key_value = (heads, heads) if isinstance(heads, int) else heads
    if query < 1 or key_value < 1 or query % key_value:
        raise ValueError(
            f"heads is {heads!r}; wanted a positive number, or (query, key-value) heads with the "
            "second dividing the first"
        )
    return Heads(query, key_value)


def _inspect_file(
    path: Path, heads: Heads | None, options: dict[str, Any], progress: Progress | None
) -> tuple[list[Diagnosis], list[str]]:
    heads = heads or read_heads(path)
    with open_checkpoint(path) as checkpoint:
        names = [n for n, shape in checkpoint.shapes.items() if len(shape) >= 2 and 0 not in shape]
        if not names:
            raise CheckpointError(path, "holds no floating tensor of two dims or more to inspect")
        pending = [pending_matrix(checkpoint, name) for name in names]
        layers = attention_layers(names) if heads else {}
        for layer, weights in layers.items():
            assert heads is not None
            pending += pending_heads(checkpoint, layer, weights, heads)
        found = diagnose_each(pending, progress, **options)
        notes = [f"skipped {name}: {reason}" for name, reason in checkpoint.skipped.items()]
        flat = sum(len(shape) < 2 for shape in checkpoint.shapes.values())
        notes += [f"{flat} tensors of one dim (biases, gains) have no rows to compare"] * bool(flat)
    return found, notes
