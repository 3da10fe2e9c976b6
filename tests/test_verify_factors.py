# SPDX-License-Identifier: Apache-2.0
"""The slower truth cases, at quick and full size, at their tolerances."""

import pytest

import symfast as sf

# torch's forward mode compiles its decompositions with it where it is used first
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
NUMBERS = (1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 20, 21, 23, 24, 25)


@pytest.mark.slow  # seconds to a minute each on an idle machine
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("quick", [True, False], ids=("quick", "full"))
@pytest.mark.parametrize("number", NUMBERS)
def test_case(number: int, quick: bool) -> None:
    (outcome,) = sf.verify(only=number, quick=quick).outcomes
    assert not outcome.error
    assert outcome.result is not None
    assert outcome.result.checks
    assert outcome.result.curves is not None
    assert all(len(series.x) == len(series.y) > 0 for series in outcome.result.curves.series)
    failed = [
        f"{c.claim}: {c.measured}, wanted {c.tolerance}"
        for c in outcome.result.checks
        if not c.passed
    ]
    assert not failed
