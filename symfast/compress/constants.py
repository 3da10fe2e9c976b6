# SPDX-License-Identifier: Apache-2.0
"""Units that nobody reads, that are zero, or that are constant."""

from typing import Any

import torch
from torch import Tensor, nn

from symfast.compress.units import HiddenUnits, padded, reader_modules, rows
from symfast.compress.workbench import Workbench
from symfast.find.graph import exact_arithmetic
from symfast.symmetry_group import AxisSlice

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def drop_unread(bench: Workbench, hidden: HiddenUnits) -> int:
    """Erase units whose reading weights are all zero."""
    if not hidden.readers:
        return 0
    unread = ~rows(hidden.readers, hidden.m).any(1) & ~hidden.gone
    return _erase(bench, hidden, unread, "unread")


def drop_zero(bench: Workbench, hidden: HiddenUnits) -> int:
    """Erase units whose free factor is zero: x = s x for every s > 0 leaves x = 0."""
    if not hidden.free or not hidden.scales:
        return 0
    zero = ~rows(hidden.free, hidden.m).any(1) & ~hidden.gone
    return _erase(bench, hidden, zero, "zero")


def _erase(bench: Workbench, hidden: HiddenUnits, units: Tensor, action: str) -> int:
    count = int(units.sum())
    if not count:
        return 0
    before = hidden.gone.clone()

    def rewrite() -> float:
        hidden.erase_(units)
        return 0.0

    if bench.attempt(action, [hidden.group], count, rewrite):
        return count
    hidden.gone = before
    return 0


def fold_constants(bench: Workbench, hidden: HiddenUnits) -> int:
    """Add ``W[:, j] c_j`` of units with constant activation c_j to the readers' biases.

    A unit counts as constant if no weight feeds it (or its gain is 0), and what its readers see
    is the same number at every position of every input.
    """
    candidates = _unfed(hidden) & ~hidden.gone
    pairs = reader_modules(hidden, bench.model)
    known = all(isinstance(module, (nn.Linear, *CONVOLUTIONS)) for _, module in pairs)
    if not bool(candidates.any()) or not pairs or not known:
        return 0
    shifts: list[tuple[nn.Module, Tensor]] = []
    for member, module in pairs:
        assert member.source is not None
        seen = _watch(bench, module, member.source)
        if seen is None:
            return 0
        value, constant = seen
        candidates &= constant
        if isinstance(module, CONVOLUTIONS) and padded(module):
            candidates &= (value == 0).all(1)  # zeros of the border are no constant
        shifts.append((module, value))
    count = int(candidates.sum())
    if not count:
        return 0
    before = hidden.gone.clone()

    def rewrite() -> float:
        for (member, module), (_, value) in zip(pairs, shifts, strict=True):
            weight = member.tensor.movedim(member.dim, 0)  # (m, [inner,] out, *kernel) or so
            assert member.source is not None
            shift_bias(module, _reading(weight, value, candidates, member.source.inner))
        hidden.erase_(candidates)
        return 0.0

    if bench.attempt("constant", [hidden.group], count, rewrite):
        return count
    hidden.gone = before
    return 0


def _unfed(hidden: HiddenUnits) -> Tensor:
    """Say which units have only zero weights before them, or a zero gain."""
    writers = [*hidden.free, *hidden.fixed]
    mixing = [w for w in writers if w.tensor.ndim > 1 and w.role == "in"]
    gains = [w for w in writers if w.role == "norm" and w.name.endswith("weight")]
    none = torch.zeros(hidden.m, dtype=torch.bool)
    unfed = ~rows(mixing, hidden.m).any(1) if mixing else none
    for gain in gains:
        unfed = unfed | ~rows([gain], hidden.m).any(1)
    return unfed


def _watch(bench: Workbench, module: nn.Module, part: AxisSlice) -> tuple[Tensor, Tensor] | None:
    """Return what ``module`` sees per unit, (m, inner), and which units never change."""
    low: list[Tensor] = []
    high: list[Tensor] = []
    channel = -1 if isinstance(module, nn.Linear) else 1 - module.get_parameter("weight").ndim

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        flat = x.movedim(channel, 0).flatten(1)  # (units, batch and positions)
        low.append(flat.amin(1))
        high.append(flat.amax(1))

    handle = module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with exact_arithmetic(), torch.no_grad():
            for args, kwargs in bench.inputs:
                bench.model(*args, **kwargs)
    finally:
        handle.remove()
    if not low:
        return None
    index = part.indices()
    lowest, highest = torch.stack(low).amin(0).cpu()[index], torch.stack(high).amax(0).cpu()[index]
    spread = highest - lowest
    constant = (spread <= 1e-13 * highest.abs().clamp_min(1e-300)).all(1)
    return lowest, constant


def _reading(weight: Tensor, value: Tensor, units: Tensor, inner: int) -> Tensor:
    """Return the sum over constant units of weight times value, per output (and sum kernels)."""
    chosen = weight.cpu()[units]
    if inner == 1:
        chosen = chosen.unsqueeze(-1) if chosen.ndim == 1 else chosen
        per = chosen.reshape(chosen.shape[0], chosen.shape[1], -1).sum(2)
        return (per * value[units]).sum(0)
    # the inner indices follow the unit dim of the weight: (out, m, inner) with m in front
    return torch.einsum("uoi,ui->o", chosen.reshape(chosen.shape[0], -1, inner), value[units])


def shift_bias(module: nn.Module, shift: Tensor) -> None:
    """Add to a layer's bias; make one if there is none."""
    bias = module.bias
    with torch.no_grad():
        if isinstance(bias, nn.Parameter):
            bias.add_(shift.to(bias.device))
        else:
            module.register_parameter(
                "bias",
                nn.Parameter(shift.to(module.get_parameter("weight").device), requires_grad=False),
            )
