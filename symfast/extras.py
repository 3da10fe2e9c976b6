# SPDX-License-Identifier: Apache-2.0
"""Packages that only some features need, asked for before any work is done."""

from importlib.util import find_spec


def need(feature: str, extra: str, *packages: str) -> None:
    """Raise now, in words, if a feature lacks its packages.

    Args:
        feature: what needs them, the subject of the sentence.
        extra: the extra of symfast that brings them.
        packages: their import names.

    Raises:
        ModuleNotFoundError: naming the missing package and the command that installs it.

    Example:
        >>> from symfast.extras import need
        >>> need("a sweep", "demo", "json")
        >>> need("a sweep", "demo", "no_such_package")
        Traceback (most recent call last):
        ModuleNotFoundError: a sweep needs no_such_package: pip install 'symfast[demo]'
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{feature} needs {', '.join(missing)}: pip install 'symfast[{extra}]'"
        )
