# SPDX-License-Identifier: Apache-2.0
"""Memory stays flat over random work; `make soak` does the same for half an hour."""

from soak import ALLOWED, soak


def test_memory_stays_flat() -> None:
    found = soak(seconds=15)
    assert found.growth < ALLOWED
