# SPDX-License-Identifier: Apache-2.0
"""Optimizers by the names that files and the command line have for them."""

from typing import Any

from symfast.replica import Rule

#: Name, the problem's rule, and the axes that the name alone decides.
NAMES: dict[str, tuple[Rule, dict[str, float]]] = {
    "sgd": ("sgd", {"momentum": 0.0}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "adam": ("adam", {"momentum": 0.9}),
    "adamw": ("adamw", {"momentum": 0.9}),
}


def by_name(name: Any) -> tuple[Rule, dict[str, float]]:
    """Return the ``optimizer`` of a problem and its axes, unless they are given otherwise.

    Raises:
        ValueError: if there is no such name.

    Example:
        >>> from symfast.sweep.optimizers import by_name
        >>> by_name("momentum")
        ('sgd', {'momentum': 0.9})
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"optimizer must be one of {', '.join(NAMES)}, not {name!r}")
    rule, axes = NAMES[name]
    return rule, dict(axes)
