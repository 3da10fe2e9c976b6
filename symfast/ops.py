# SPDX-License-Identifier: Apache-2.0
"""Where symfast operators are declared: Python owns schemas and references, C++ adds kernels."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

#: Keeps every registration alive; operators vanish when their library is collected.
LIBRARY = torch.library.Library("symfast", "FRAGMENT")


def define(name: str, schema: str, reference: Callable[..., Any]) -> None:
    """Declare ``symfast::name`` and register its pure-Python reference for every device.

    The reference sits at ``CompositeExplicitAutograd``, so a compiled kernel for one device
    overrides it there and nowhere else: nothing above this module asks which one runs.

    Raises:
        RuntimeError: if the schema is malformed or the operator exists already.

    Example:
        >>> from symfast import ops
        >>> ops.define("twice_example", "(Tensor x) -> Tensor", lambda x: 2 * x)
        >>> torch.ops.symfast.twice_example(torch.ones(2))
        tensor([2., 2.])
    """
    LIBRARY.define(name + schema)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")


def _load_kernels() -> str | None:
    """Import the compiled module; the reason is kept, not raised, if there is none."""
    try:
        import_module("symfast._C")
    except ImportError as error:  # a pure-Python install, or a binary that does not fit
        return str(error)
    return None


#: Why the compiled kernels are absent, or None when they are loaded.
KERNEL_ERROR: str | None = _load_kernels()


def has_kernels() -> bool:
    """Whether the compiled kernels are loaded in this process.

    Example:
        >>> from symfast import ops
        >>> isinstance(ops.has_kernels(), bool)
        True
    """
    return KERNEL_ERROR is None
