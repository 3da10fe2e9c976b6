# SPDX-License-Identifier: Apache-2.0
"""Truth cases: every system of the field, measured against its closed form.

A case module of this package holds ``CASES``, a tuple of `symfast.verify.case.Case`; its name
stands in ``MODULES`` below. Modules are imported when cases are asked for.
"""

from importlib import import_module

from symfast.verify.case import Case as Case
from symfast.verify.case import CaseResult as CaseResult
from symfast.verify.case import Check as Check
from symfast.verify.case import Curves as Curves
from symfast.verify.case import Series as Series

#: Case modules of this package, one a line so that additions merge.
MODULES: tuple[str, ...] = (
    "dcs",
    "gating",
    "identities",
    "lasso",
    "low_rank",
    "pilot",
    "plasticity",
    "removal",
    "scalar_law",
    "tucker",
    "theorem",
    "escape",
    "noise",
    "heads",
    "saddle",
    "representation",
    "conservation",
    "collapse",
    "width",
    "layers",
    "pricing",
    "sgd_verdict",
)


def cases() -> tuple[Case, ...]:
    """Return all truth cases by number.

    Raises:
        RuntimeError: if two cases have the same number.

    Example:
        >>> from symfast.verify import cases
        >>> all(case.number >= 1 for case in cases())
        True
    """
    found: list[Case] = []
    for name in MODULES:
        found += import_module(f"symfast.verify.{name}").CASES
    found.sort(key=lambda case: case.number)
    for a, b in zip(found, found[1:], strict=False):
        if a.number == b.number:
            raise RuntimeError(f"truth cases {a.name!r} and {b.name!r} have the number {a.number}")
    return tuple(found)
