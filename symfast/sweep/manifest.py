# SPDX-License-Identifier: Apache-2.0
"""What identifies a sweep on disk, and the sentence for two that differ."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from symfast.build import build_info


class SweepMismatchError(ValueError):
    """A directory already holds a different sweep; it is never overwritten."""

    def __init__(self, directory: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
        names = sorted(set(stored) | set(wanted))
        changed = [name for name in names if stored.get(name) != wanted.get(name)]
        details = "; ".join(
            f"{name}: stored {_short(stored.get(name))}, asked for {_short(wanted.get(name))}"
            for name in changed
        )
        super().__init__(
            f"{directory} holds another sweep ({details}). "
            "Choose another directory, or delete this one to compute anew."
        )


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON would give it back.

    Example:
        >>> from symfast.sweep.manifest import plain
        >>> plain({"lr": (0.1,)})
        {'lr': [0.1]}
    """
    return dict(json.loads(json.dumps(config)))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys joined by dots, so that a mismatch can be named.

    Example:
        >>> from symfast.sweep.manifest import flat
        >>> flat({"grid": {"lr": 1}})
        {'grid.lr': 1}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def versions() -> dict[str, str]:
    """Return what produces the numbers.

    Example:
        >>> from symfast.sweep.manifest import versions
        >>> sorted(versions())
        ['cpu_capability', 'kernels', 'python', 'symfast', 'torch']
    """
    info = build_info()
    return {
        "symfast": str(info.get("version", info.get("symfast", "unknown"))),
        "kernels": str(info.get("kernels")),
        "cpu_capability": str(info.get("cpu_capability")),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _short(value: Any) -> str:
    """At most 40 characters of a value."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
