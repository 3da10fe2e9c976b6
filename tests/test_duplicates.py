# SPDX-License-Identifier: Apache-2.0
"""Equal units: every planted one is found, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from symfast import duplicates
from symfast.duplicates import UpTo, equal_units


def brute_force(U: Tensor, up_to: UpTo, tol: float) -> list[int]:
    """Every pair by the definition."""
    labels = list(range(len(U)))
    norms = U.norm(dim=1)
    for a in range(len(U)):
        for b in range(a + 1, len(U)):
            if labels[a] != a or labels[b] != b or norms[a] == 0 or norms[b] == 0:
                continue
            x, y = (U[a] / norms[a], U[b] / norms[b]) if up_to == "scale" else (U[a], U[b])
            d = (x - y).norm()
            if up_to == "sign":
                d = min(d, (x + y).norm())
            if d <= tol * max(x.norm(), y.norm()):
                labels[b] = a
    return labels


@pytest.mark.parametrize("up_to", ["nothing", "sign", "scale"])
@given(data=st.data())
def test_equals_brute_force(up_to: UpTo, data: st.DataObject) -> None:
    m, n = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4))
    entries = st.lists(st.integers(-2, 2), min_size=m * n, max_size=m * n)
    U = torch.tensor(data.draw(entries), dtype=torch.float64).reshape(m, n)
    tol = data.draw(st.sampled_from([1e-9, 0.3, 0.7]))
    assert equal_units([(U, 0)], up_to, tol).tolist() == brute_force(U, up_to, tol)


@pytest.mark.parametrize("crowd", [False, True])
def test_planted_among_many(crowd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if crowd:  # the way taken when very many pairs lie close together on a line
        monkeypatch.setattr(duplicates, "PAIRS", 0)
    w, b = torch.randn(600, 30), torch.randn(600)
    w[500], b[500] = w[17], b[17]
    w[501], b[501] = -w[18], -b[18]
    w[502], b[502] = 3.7 * w[19], 3.7 * b[19]
    w[503] = w[20]  # another bias: not equal
    w[504], b[504] = w[17], b[17]
    own = torch.arange(600)
    for up_to, planted in {"nothing": {}, "sign": {501: 18}, "scale": {502: 19}}.items():
        wanted = own.clone()
        for unit, first in ({500: 17, 504: 17} | planted).items():
            wanted[unit] = first
        assert torch.equal(equal_units([(w, 0), (b, 0)], up_to), wanted)  # type: ignore[arg-type]


def test_all_equal_is_quick_and_one_class() -> None:
    assert equal_units([(torch.ones(3000, 5), 0)]).sum() == 0


def test_zero_units_are_left_alone() -> None:
    assert equal_units([(torch.zeros(4, 3), 0)], "scale").tolist() == [0, 1, 2, 3]


def test_size_of_numbers_does_not_matter() -> None:
    U = torch.randn(20, 6, dtype=torch.float64)
    U[9] = U[3] * (1 + 1e-13)
    for scale in (1e-150, 1.0, 1e150):
        assert equal_units([(U * scale, 0)], tol=1e-12)[9] == 3


@pytest.mark.parametrize(("up_to", "tol"), [("rotation", None), ("sign", -1.0), ("sign", 1.0)])
def test_bad_options_are_refused(up_to: UpTo, tol: float | None) -> None:
    with pytest.raises(ValueError, match="up_to is|tol is"):
        equal_units([(torch.ones(2, 2), 0)], up_to, tol)
