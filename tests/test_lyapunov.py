# SPDX-License-Identifier: Apache-2.0
"""Exponents and critical rates against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symfast.lyapunov import critical_rate, exact_critical_rate, lyapunov_exponent


@given(low=st.floats(-5, -0.5), share=st.floats(0.3, 0.95))
def test_two_points(low: float, share: float) -> None:
    h = torch.tensor([low, -share * low], dtype=torch.float64)  # mean < 0
    root = float(h.sum() / h.prod())
    found = exact_critical_rate(h)
    assert found == pytest.approx(root, rel=1e-6)
    assert float(lyapunov_exponent(h, 0.9 * root)) > 0 > float(lyapunov_exponent(h, 1.1 * root))


def test_decay_shifts_curvature() -> None:
    h = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(lyapunov_exponent(h, 0.1, 0.5), lyapunov_exponent(h + 0.5, 0.1))
    assert critical_rate(h[:, 0], 100.0) == 0.0
    assert exact_critical_rate(h[:, 0], 100.0) == 0.0


def test_edges() -> None:
    assert float(lyapunov_exponent(torch.ones(1), 1.0)) == -math.inf
    assert exact_critical_rate(torch.tensor([-1.0])) is None  # without noise never
    for empty in (torch.ones(0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="one row per minibatch"):
            lyapunov_exponent(empty, 0.1)
