# SPDX-License-Identifier: Apache-2.0
"""Laws of plan verbs over random ragged problems, against dense frames in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_problems import LAYOUTS, VERBS, expected, symmetries, unit_matrix

import symfast as sf


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=12, deadline=None)
@given(m=st.integers(1, 40), seed=st.integers(0, 1000), which=st.integers(0, 8))
def test_verbs_equal_the_dense_formula(
    layout: str, verb: str, m: int, seed: int, which: int
) -> None:
    torch.manual_seed(seed)
    units = sf.Units([LAYOUTS[layout](m, torch.float64), LAYOUTS["bias"](m, torch.float64)])
    symmetry = symmetries(m, seed)[which]
    plan = sf.Plan([(units, symmetry)])
    before = unit_matrix(units)
    frame = symmetry.frame(m)
    torch.testing.assert_close(plan.coefficients()[0], frame.T @ before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plan.norms()[0], (frame.T @ before).norm(), rtol=1e-12, atol=1e-12)
    wanted = expected(before, symmetry, verb)
    getattr(plan, verb)(*VERBS[verb])
    torch.testing.assert_close(unit_matrix(units), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("which", range(9))
def test_group_prox_scales_whole_mirrors(which: int) -> None:
    torch.manual_seed(which)
    units = sf.Units([LAYOUTS[name](12, torch.float64) for name in ("first", "last", "conv")])
    symmetry = symmetries(12, which)[which]
    wanted = expected(unit_matrix(units), symmetry, "prox_", "group")
    sf.Plan([(units, symmetry)]).prox_(0.2, mode="group")
    torch.testing.assert_close(unit_matrix(units), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_index_projection_is_bitwise_idempotent_and_exact(
    layout: str, which: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(which)
    units = sf.Units([LAYOUTS[layout](37, dtype)])
    plan = sf.Plan([(units, symmetries(37, which)[which])])
    plan.project_()
    once = units.members[0][0].clone()
    assert float(plan.norms().max()) == 0.0
    assert all(float(c.abs().max()) == 0.0 for c in plan.coefficients() if c.numel())
    plan.project_()
    assert torch.equal(units.members[0][0], once)
    plan.reflect_()
    assert torch.equal(units.members[0][0], once)  # R P = P


@pytest.mark.parametrize("which", range(8))
def test_reflect_twice_is_the_identity(which: int) -> None:
    torch.manual_seed(0)
    units = sf.Units([LAYOUTS["first"](24, torch.float64), LAYOUTS["last"](24, torch.float64)])
    before = unit_matrix(units)
    plan = sf.Plan([(units, symmetries(24, 3)[which])])
    plan.reflect_()
    changed = unit_matrix(units)
    plan.reflect_()
    if which < 4:  # sign flips and swaps move bits
        assert torch.equal(unit_matrix(units), before)
    torch.testing.assert_close(unit_matrix(units), before, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(changed, before)
    plan.project_()
    torch.testing.assert_close(unit_matrix(units), (changed + before) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("which", range(8))
@pytest.mark.parametrize("layout", ["first", "last", "conv", "slice"])
def test_half_types_accumulate_in_float32(layout: str, which: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    units = sf.Units([LAYOUTS[layout](33, dtype)])
    symmetry = symmetries(33, 5)[which]
    wanted = expected(unit_matrix(units), symmetry, "shrink_")
    sf.Plan([(units, symmetry)]).shrink_(0.3)
    # one rounding to the parameter's type, plus float32 sums of 33 terms
    tolerance = torch.finfo(dtype).eps if dtype != torch.float32 else 2e-6
    torch.testing.assert_close(unit_matrix(units), wanted, rtol=tolerance, atol=tolerance)


def test_wide_frames_on_half_types_round_once() -> None:
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(40, 30, dtype=torch.float64)).Q
    for name in ("first", "last"):
        units = sf.Units([LAYOUTS[name](40, torch.bfloat16)])
        wanted = unit_matrix(units) - q @ (q.T @ unit_matrix(units))
        sf.Plan([(units, sf.Direction(q))]).project_()
        error = (unit_matrix(units) - wanted).abs()
        assert bool((error <= 2**-8 * wanted.abs() + 1e-5).all())


def test_groups_of_a_batched_mirror_are_independent() -> None:
    torch.manual_seed(0)
    theta = torch.randn(6, 5, 9, dtype=torch.float64)
    frames = torch.linalg.qr(torch.randn(6, 5, 9, 3, dtype=torch.float64)).Q
    plan = sf.Plan([(theta, sf.Mirror(frames))])
    c = (frames.mT @ theta[..., None])[..., 0]
    assert len(plan) == plan.groups == 30
    torch.testing.assert_close(plan.norms(), c.norm(dim=-1).flatten())
    found = torch.stack(plan.coefficients())
    torch.testing.assert_close(found, c.reshape(30, 3, 1))
    amounts = torch.rand(30, dtype=torch.float64)
    wanted = theta - (frames @ (amounts.view(6, 5, 1, 1) * c[..., None]))[..., 0]
    plan.shrink_(amounts)
    torch.testing.assert_close(theta, wanted, rtol=1e-12, atol=1e-12)


def test_shared_mirror_and_whole_tensor_mirror() -> None:
    torch.manual_seed(0)
    rows = torch.randn(7, 6, dtype=torch.float64)
    whole = torch.randn(4, 3, dtype=torch.float64)
    q, p = (torch.linalg.qr(torch.randn(d, 2, dtype=torch.float64)).Q for d in (6, 12))
    before = rows.clone(), whole.clone()
    plan = sf.Plan([(rows, sf.Mirror(q)), (whole, sf.Mirror(p))])
    plan.project_()
    assert plan.groups == 8
    torch.testing.assert_close(rows, before[0] - before[0] @ q @ q.T)
    flat = before[1].flatten()
    torch.testing.assert_close(whole.flatten(), flat - p @ (p.T @ flat))


def test_amounts_by_group() -> None:
    a, b = torch.ones(4), torch.ones(2, 3)
    plan = sf.Plan([(a, sf.SignFlip()), (b, sf.SignFlip([1]))])
    plan.shrink_(torch.tensor([0.5, 0.25]))
    assert a.tolist() == [0.5] * 4
    assert b.tolist() == [[1.0] * 3, [0.75] * 3]
    plan.prox_(torch.tensor([0.25, 10.0]))
    assert a.tolist() == [0.25] * 4
    assert b[1].tolist() == [0.0] * 3


def test_replicas_equal_singles() -> None:
    torch.manual_seed(0)
    w = torch.randn(5, 8, 3, dtype=torch.float64)
    v = torch.randn(5, 2, 8, dtype=torch.float64)
    singles = [(w[r].clone(), v[r].clone()) for r in range(5)]
    units = sf.Units([(w, 0), (v, 1)], replicas=5)
    q = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64)).Q
    amounts = torch.rand(5, 1, dtype=torch.float64)
    for symmetry in (
        sf.Swap([0, 3], [1, 5]),
        sf.Direction(q),
        sf.Cluster([0, 0, 1, 1, 1, 0, 2, 2]),
    ):
        plan = sf.Plan([(units, symmetry)], replicas=5)
        plan.shrink_(amounts)
        assert plan.norms().shape == (5, 1)
        for r, (one, two) in enumerate(singles):
            single = sf.Plan([(sf.Units([(one, 0), (two, 1)]), symmetry)])
            single.shrink_(float(amounts[r, 0]))
            assert torch.equal(w[r], one)
            assert torch.equal(v[r], two)
            assert torch.equal(plan.norms()[r], single.norms())
            assert torch.equal(plan.coefficients()[0][r], single.coefficients()[0])
        plan.prox_(0.1, mode="group")
        for one, two in singles:
            sf.Plan([(sf.Units([(one, 0), (two, 1)]), symmetry)]).prox_(0.1, mode="group")


def test_order_of_groups_permutes_results() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(6, 4) for _ in range(4)]
    entries = [(t, sf.Swap([i], [5 - i])) for i, t in enumerate(tensors[:3])]
    forward, backward = sf.Plan(entries), sf.Plan(entries[::-1])
    assert torch.equal(forward.norms().flip(0), backward.norms())


def test_mixed_dtypes_in_one_plan() -> None:
    torch.manual_seed(0)
    low, high = torch.randn(6, 5).bfloat16(), torch.randn(3, 6, dtype=torch.float64)
    units = sf.Units([(low, 0), (high, 1)])
    symmetry = sf.Swap([0, 1], [2, 3])
    before = unit_matrix(units)
    plan = sf.Plan([(units, symmetry)])
    c = symmetry.frame(6).T @ before
    torch.testing.assert_close(plan.coefficients()[0], c, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plan.norms()[0], c.norm(), rtol=1e-6, atol=1e-6)
    plan.prox_(0.2, mode="group")
    wanted = expected(before, symmetry, "prox_", "group")
    torch.testing.assert_close(unit_matrix(units), wanted, rtol=1e-2, atol=1e-2)
