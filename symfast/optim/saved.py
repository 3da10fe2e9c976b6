# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of options and plan, looked at before anything of it is loaded."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from symfast.optim.check import check_group
from symfast.optim.constraint import Constraint

#: A schedule that ends at zero may leave as much below it.
ROUNDING = 1e-12


def check_saved(groups: Iterable[dict[str, Any]]) -> None:
    """Refuse groups that construction would have refused.

    Raises:
        ValueError, RuntimeError, TypeError: in words, with the number of the group.

    Example:
        >>> from symfast.optim.check import EXTRAS
        >>> from symfast.optim.saved import check_saved
        >>> check_saved([{"lr": 0.1, "weight_decay": 0.0, **EXTRAS}])
    """
    for number, group in enumerate(groups):
        lr = group["lr"]
        rounded = not isinstance(lr, torch.Tensor) and -ROUNDING < lr < 0
        checked = {**group, "lr": 0.0} if rounded else group
        try:
            check_group(checked)
        except (ValueError, RuntimeError, TypeError) as error:
            words = f"group {number} of the checkpoint cannot be loaded: {error}"
            raise type(error)(words) from None
        group["anchor"] = checked["anchor"]


def counter_device(param: torch.Tensor) -> torch.device:
    """Where the kernels read the counter of a parameter."""
    return param.device if param.device.type == "cuda" else torch.device("cpu")


def place_counters(states: Mapping[torch.Tensor, dict[str, Any]]) -> None:
    """Make the counters of loaded states what the kernels read, wherever they were saved."""
    for param, state in states.items():
        if "step" in state:
            state["step"] = torch.as_tensor(
                state["step"], dtype=torch.float32, device=counter_device(param)
            ).reshape(())


def warn_of_plan(groups: Iterable[Mapping[str, Any]], constraint: Constraint | None) -> None:
    """Say that a checkpoint was made with a plan and this optimizer has none, or another one.

    Example:
        >>> from symfast.optim.saved import warn_of_plan
        >>> warn_of_plan([{"lr": 0.1, "symmetry": None}], None)
    """
    saved = next((g["symmetry"] for g in groups if g.get("symmetry") is not None), None)
    own = None if saved is None or constraint is None else constraint.description
    if saved == own:
        return
    words = "this optimizer has none: it trains unconstrained; construct it with plan=..."
    if own is not None:
        words = f"this optimizer's is {own}: it goes on with its own"
    warnings.warn(
        f"the checkpoint was made with the plan {saved}, and {words}", UserWarning, stacklevel=3
    )
