# SPDX-License-Identifier: Apache-2.0
"""lr, momentum and decay of FactorSGD's groups where its kernels read them, and their checks."""

import math
from typing import Any

import torch
from torch import Tensor

from symfast.codes import ACCUMULATE
from symfast.optim.roster import rewritten
from symfast.reference import factor as factored
from symfast.reference import update as plain
from symfast.reference.factor import MAX_DEPTH

Group = dict[str, Any]


class FactorSettings:
    """A row of float64 numbers for every group, on one device.

    Numbers are copied there when one has changed, always to the same memory; one-element tensors
    on a device other than the CPU are copied on it at every call. So a captured graph that has
    recorded the call follows them.

    Args:
        device: where the parameters are.
        plain: of groups with depth 1, as ``symfast::update_`` reads them; else of factors.

    Example:
        >>> import torch
        >>> from symfast.factor_settings import FactorSettings
        >>> settings = FactorSettings(torch.device("cpu"), plain=False)
        >>> settings.write([{"lr": 0.5, "momentum": 0.0, "lam": 1.0, "depth": 4}]).tolist()
        [[0.5, 0.0, 0.5]]
    """

    def __init__(self, device: torch.device, plain: bool) -> None:
        self._device, self._plain = device, plain
        self._decay = "plain_decay" if plain else "lam"
        self._rows: list[tuple[float, ...]] = []
        self._row_of: list[int] = []
        self._table = torch.zeros(0, dtype=torch.float64)
        self._keys = torch.zeros(0, dtype=torch.int64)

    def write(self, groups: list[Group]) -> Tensor:
        """The settings of these groups as they are now."""
        rows = [self._row(group) for group in groups]
        if rows != self._rows:
            self._table = rewritten(self._table, rows, torch.float64, self._device)
            self._rows = rows
        for number, group in enumerate(groups):
            if _on_device(group["lr"]) or _on_device(group[self._decay]):
                self._write_tensors(self._table.select(0, number), group)
        return self._table

    def _write_tensors(self, row: Tensor, group: Group) -> None:
        """What lies on the device of a group's settings."""
        formula = plain if self._plain else factored
        if _on_device(group["lr"]):
            row.select(0, formula.LR).copy_(group["lr"].reshape(()))
        if _on_device(group[self._decay]):
            rate = row.select(0, formula.DECAY).copy_(group[self._decay].reshape(()))
            if not self._plain:
                rate.mul_(2 / group["depth"])

    def keys(self, row_of: list[int]) -> Tensor:
        """What ``symfast::update_`` asks for every parameter, here only its row."""
        if row_of != self._row_of:
            keys = [(row, 0, 0, number) for number, row in enumerate(row_of)]
            self._keys = rewritten(self._keys, keys, torch.int64, self._device)
            self._row_of = row_of
        return self._keys

    def _row(self, group: Group) -> tuple[float, ...]:
        lr, momentum = _number(group["lr"]), float(group["momentum"])
        if not self._plain:
            return lr, momentum, 2 * _number(group["lam"]) / group["depth"]
        row = [0.0] * plain.SETTINGS
        row[plain.LR], row[plain.FIRST] = lr, momentum
        row[plain.DECAY] = _number(group["plain_decay"])
        row[plain.SECOND] = row[plain.SIGN] = 1.0  # no dampening, downwards
        row[plain.SIGMA] = -1.0  # no anchor
        return tuple(row)


def _on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _number(value: Any) -> float:
    """A number of the host; 0 for one that stays on its device."""
    return 0.0 if _on_device(value) else float(value)


def check_group(group: Group, explicit: bool) -> None:
    """Refuse impossible options of one group; ``explicit``: it says its depth itself.

    Raises:
        ValueError: in words.
    """
    for name in ("momentum", "beta"):
        group[name] = float(group[name])
    for name in ("lr", "lam", "momentum", "beta", "plain_decay"):
        if isinstance(group[name], Tensor) and group[name].numel() != 1:
            raise ValueError(f"Invalid {name}: a tensor must have one element")
        if not 0 <= _number(group[name]) < math.inf:
            raise ValueError(f"Invalid {name}: {group[name]}; it must be finite and not negative")
    depth = group["depth"]
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"Invalid depth: {depth}; choose 2 to {MAX_DEPTH}, or 1 for plain SGD")
    for p in group["params"]:
        if p.dtype not in ACCUMULATE or p.layout != torch.strided:
            raise ValueError(
                f"FactorSGD takes dense floating parameters, got {p.dtype}, {p.layout}"
            )
        if depth > 1 and p.ndim < 2 and not explicit:
            raise ValueError(
                f"a parameter of shape {tuple(p.shape)} looks like a bias or a norm gain, which "
                "should not be factored: put it into a group with depth=1 (sf.plain_groups does), "
                "or say depth in its group"
            )
