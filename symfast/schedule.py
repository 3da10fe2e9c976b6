# SPDX-License-Identifier: Apache-2.0
"""Schedules of a penalty: strong regularisation first, none at the end (PILoT)."""

import math
from collections.abc import Callable
from typing import Any

import torch

from symfast.errors import ArtificialError


def constant(step: int) -> float:
    """1 at every step.

    Example:
        >>> from symfast.schedule import constant
        >>> constant(5)
        1.0
    """
    return 1.0


def harmonic(step: int) -> float:
    """``1 / (1 + step)``.

    Example:
        >>> from symfast.schedule import harmonic
        >>> harmonic(1)
        0.5
    """
    return 1.0 / (1 + step)


def quadratic(step: int) -> float:
    """``1 / (1 + step)^2``.

    Example:
        >>> from symfast.schedule import quadratic
        >>> quadratic(1)
        0.25
    """
    return 1.0 / (1 + step) ** 2


def geometric(ratio: float = 0.95) -> Callable[[int], float]:
    """Return the schedule ``ratio^step``.

    Args:
        ratio: 0 <= ratio <= 1.

    Raises:
        ArtificialError: (a ValueError) if ratio is out of range.

    Example:
        >>> from symfast.schedule import geometric
        >>> geometric(0.5)(3)
        0.125
    """
    if not 0 <= ratio <= 1:
        raise ArtificialError(f"ratio is {ratio}; it must lie between 0 and 1")

    def schedule(step: int) -> float:
        return float(ratio**step)

    return schedule


class PenaltySchedule:
    """Multiply the penalty lam of an optimizer's factors by a schedule, step by step.

    A penalty that is a tensor is written in place, so that a captured CUDA graph follows it.
    With factors that start unbalanced (beta > 0) and a penalty that fades, the bias of the penalty
    fades too while its sparsity stays: "Mask in the Mirror" (PILoT, Jacobs & Burkholz, ICLR 2025),
    whose ``alpha_t (||m||^2 + ||w||^2)`` is ``lam = 2 alpha_t`` here. Call `step` once an epoch, or
    once a step, like a learning-rate scheduler.

    Args:
        optimizer: with groups from `symfast.factor_groups`, or a `symfast.FactorSGD`.
        schedule: from the number of calls so far, 0 at first, to a factor >= 0.

    Raises:
        ArtificialError: (a ValueError) if no group of the optimizer has a penalty "lam".

    Example:
        >>> import symfast as sf, torch
        >>> model = sf.factorize(torch.nn.Linear(3, 2), "weight")
        >>> optimizer = torch.optim.SGD(sf.factor_groups(model, lam=0.5), lr=0.1)
        >>> penalty = sf.PenaltySchedule(optimizer, sf.schedule.geometric(0.1))
        >>> penalty.step()
        >>> optimizer.param_groups[0]["weight_decay"]
        0.05
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Callable[[int], float]) -> None:
        self.optimizer, self.schedule, self.count = optimizer, schedule, 0
        groups = [group for group in optimizer.param_groups if "lam" in group]
        if not groups:
            raise ArtificialError(
                "no group of the optimizer has a penalty lam: make it of "
                "sf.factor_groups(model, lam)"
            )
        self.base = [_kept(group.get("lam")) for group in optimizer.param_groups]
        self._apply()

    def step(self) -> None:
        """Go to the next value of the schedule."""
        self.count += 1
        self._apply()

    def _apply(self) -> None:
        factor = float(self.schedule(self.count))
        if not 0 <= factor < math.inf:
            raise ArtificialError(f"the schedule gave {factor} at step {self.count}")
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            if base is None:
                continue
            _put(group, "lam", base * factor)
            if "weight_decay" in group:
                _put(group, "weight_decay", 2 * group["lam"] / group["depth"])

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, as plain data."""
        return {"count": self.count, "base": [_kept(base) for base in self.base]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved schedule stood.

        Raises:
            ArtificialError: (a ValueError) if it was for another number of groups.
        """
        if len(state["base"]) != len(self.optimizer.param_groups):
            raise ArtificialError(
                f"the saved schedule is for {len(state['base'])} groups, the optimizer has "
                f"{len(self.optimizer.param_groups)}"
            )
        self.count, self.base = state["count"], [_kept(base) for base in state["base"]]
        self._apply()


def _kept(value: Any) -> Any:
    """The value now: a tensor is written in place later."""
    return value.clone() if isinstance(value, torch.Tensor) else value


def _put(group: dict[str, Any], name: str, value: Any) -> None:
    """Set an option; one that is a tensor in place, where a captured graph reads it."""
    if isinstance(group[name], torch.Tensor):
        group[name].copy_(value) if isinstance(value, torch.Tensor) else group[name].fill_(value)
    else:
        group[name] = value
