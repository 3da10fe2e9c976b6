# SPDX-License-Identifier: Apache-2.0
"""What a truth case is: claims with a source, an expectation, a measurement and a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Scale: TypeAlias = Literal["linear", "log"]


@dataclass(frozen=True)
class Check:
    """One claim, put to the test.

    Args:
        claim: what should hold, in words.
        source: the paper and section, or "derived".
        expected: the closed form or number that theory gives.
        measured: what came out, a number or a short text.
        tolerance: what the verdict rests on, e.g. "<= 1e-10".
        passed: the verdict.

    Example:
        >>> from symfast.verify.case import Check
        >>> Check("1 + 1 = 2", "arithmetic", "2", 2.0, "exact", True).passed
        True
    """

    claim: str
    source: str
    expected: str
    measured: float | str
    tolerance: str
    passed: bool


@dataclass(frozen=True)
class Series:
    """One curve of a figure: equally long x and y, drawn as a line, dashes or points.

    Without a name it is not in the legend; curves of one ``colour`` (a number; by default the
    place among the curves) look alike.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "dashes", "points"] = "line"
    colour: int | None = None


@dataclass(frozen=True)
class Curves:
    """The data of one figure; only the page writer draws it.

    Non-finite numbers leave gaps. On a log axis numbers <= 0 are drawn at ``floor``.
    """

    xlabel: str
    ylabel: str
    series: tuple[Series, ...]
    caption: str = ""
    xscale: Scale = "linear"
    yscale: Scale = "linear"
    vertical: tuple[tuple[float, str], ...] = ()  # marked abscissae: (x, label)
    floor: float = 1e-17


@dataclass(frozen=True)
class CaseResult:
    """What a case found: its checks, and the curves of one figure (None: no figure)."""

    checks: tuple[Check, ...]
    curves: Curves | None = None

    @property
    def passed(self) -> bool:
        """Whether there is a check and all of them hold."""
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Case:
    """A truth case: ``run(quick)`` measures it; quick sizes still prove the claims.

    Example:
        >>> from symfast.verify.case import Case, CaseResult, at_most
        >>> case = Case(0, "zero", "arithmetic",
        ...             lambda quick: CaseResult((at_most("0 is 0", "arithmetic", 0.0, 1e-9),)))
        >>> case.run(True).passed
        True
    """

    number: int
    name: str
    source: str
    run: Callable[[bool], CaseResult]


def at_most(claim: str, source: str, measured: float, limit: float, expected: str = "0") -> Check:
    """A check that holds if ``measured <= limit``; NaN fails.

    Example:
        >>> from symfast.verify.case import at_most
        >>> at_most("small", "derived", float("nan"), 1.0).passed
        False
    """
    return Check(claim, source, expected, measured, f"<= {limit:g}", measured <= limit)


def at_least(
    claim: str, source: str, measured: float, limit: float, expected: str = "large"
) -> Check:
    """A check that holds if ``measured >= limit``; NaN fails.

    Example:
        >>> from symfast.verify.case import at_least
        >>> at_least("large", "derived", 2.0, 1.0).passed
        True
    """
    return Check(claim, source, expected, measured, f">= {limit:g}", measured >= limit)


def near(
    claim: str,
    source: str,
    expected: float,
    measured: float,
    tolerance: float,
    relative: bool = False,
) -> Check:
    """A check that holds if ``|measured - expected| <= tolerance`` (``relative``: of |expected|).

    Example:
        >>> from symfast.verify.case import near
        >>> near("a third", "arithmetic", 1 / 3, 0.333, 1e-3).passed
        True
    """
    allowed = tolerance * abs(expected) if relative else tolerance
    words = f"{tolerance:.3g} relative" if relative else f"+- {tolerance:.3g}"
    passed = abs(measured - expected) <= allowed
    return Check(claim, source, f"{expected:.6g}", measured, words, passed)
