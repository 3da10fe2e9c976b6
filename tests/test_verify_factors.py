# SPDX-License-Identifier: Apache-2.0
"""The slower truth cases, at their tolerances."""

import pytest

from symfast.verify import cases

NUMBERS = [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 20, 21, 23, 24, 25]


@pytest.mark.slow  # seconds to half a minute each on an idle machine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", NUMBERS)
def test_case(number: int) -> None:
    case = next(case for case in cases() if case.number == number)
    result = case.run(True)
    assert result.checks
    assert result.curves is not None
    assert all(len(series.x) == len(series.y) > 0 for series in result.curves.series)
    failed = [
        f"{c.claim}: {c.measured}, wanted {c.tolerance}" for c in result.checks if not c.passed
    ]
    assert not failed
