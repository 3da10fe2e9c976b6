# SPDX-License-Identifier: Apache-2.0
"""Laws of the mirror functions: algebra, accuracy and the edges of their domain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from torch import Tensor
from torch.testing import assert_close

from symfast import mirror, reference
from symfast.codes import ACCUMULATE

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
#: A few roundings of numbers near 1.
TOLERANCE = dict(zip(DTYPES, (1e-13, 1e-5, 3e-2, 4e-3), strict=True))
few = settings(max_examples=60)


class Problem(NamedTuple):
    theta: Tensor
    O: Tensor
    batch: tuple[int, ...]

    def assert_close(self, actual: Tensor, expected: Tensor) -> None:
        atol = TOLERANCE[self.theta.dtype] * (1 + float(self.theta.abs().sum(-1).amax()))
        assert_close(actual, expected.to(actual.dtype), rtol=0, atol=atol)


def frame(*shape: int, seed: int = 0) -> Tensor:
    """Random orthonormal columns (..., d, k) in float64."""
    entries = torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))
    return torch.linalg.qr(entries).Q if entries.numel() else entries


@st.composite
def problems(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES, side: int = 0) -> Problem:
    """theta and O with batches that broadcast; k = 0 and empty batches unless side is 1."""
    d = draw(st.integers(1, 9))
    k = draw(st.integers(side, d))
    shapes = draw(
        mutually_broadcastable_shapes(num_shapes=2, min_side=side, max_dims=3, max_side=4)
    )
    rows, groups = shapes.input_shapes
    dtype, device = draw(st.sampled_from(dtypes)), draw(st.sampled_from(DEVICES))
    O = frame(*groups, d, k, seed=draw(st.integers(0, 1000)))
    theta = torch.randn(*rows, d, dtype=torch.float64)
    # float32 beside half: a frame rounded to half is not orthonormal enough for the laws.
    wide = ACCUMULATE[dtype]
    return Problem(theta.to(device, dtype), O.to(device, wide), tuple(shapes.result_shape))


def nonempty(**options: Any) -> st.SearchStrategy[Problem]:
    return problems(side=1, **options)


def amounts_for(problem: Problem) -> Tensor:
    return torch.rand(problem.batch, dtype=torch.float64).to(problem.theta.device)


# ---- algebra -------------------------------------------------------------------------------------


@few
@given(nonempty())
def test_project_and_reflect_form_a_mirror(p: Problem) -> None:
    once, image = mirror.project(p.theta, p.O), mirror.reflect(p.theta, p.O)
    p.assert_close(mirror.project(once, p.O), once)
    p.assert_close(mirror.reflect(image, p.O), p.theta.expand_as(image))
    p.assert_close(mirror.project(image, p.O), once)
    p.assert_close(mirror.reflect(once, p.O), once)
    residue = mirror.coefficients(once, p.O)
    p.assert_close(residue, torch.zeros_like(residue))


@few
@given(nonempty(dtypes=(torch.float64, torch.float32)), st.sampled_from(["reflect", "project"]))
def test_verbs_are_self_adjoint(p: Problem, verb: str) -> None:
    call = getattr(mirror, verb)
    x, y = p.theta.expand(*p.batch, -1), torch.randn_like(p.theta.expand(*p.batch, -1))
    left, right = (call(x, p.O) * y).sum(-1), (x * call(y, p.O)).sum(-1)
    assert_close(left, right, rtol=0, atol=100 * TOLERANCE[x.dtype])


@few
@given(problems())
def test_shrink_joins_identity_projection_and_reflection(p: Problem) -> None:
    assert torch.equal(mirror.shrink(p.theta, p.O, 0), p.theta.expand(*p.batch, -1))
    assert torch.equal(mirror.prox(p.theta, p.O, 0), p.theta.expand(*p.batch, -1))
    assert torch.equal(mirror.prox(p.theta, p.O, 0, "group"), p.theta.expand(*p.batch, -1))
    if p.theta.numel():
        p.assert_close(mirror.shrink(p.theta, p.O, 1.0), mirror.project(p.theta, p.O))
        p.assert_close(mirror.shrink(p.theta, p.O, 2.0), mirror.reflect(p.theta, p.O))
        ones = torch.ones(p.batch, device=p.theta.device)
        p.assert_close(mirror.shrink(p.theta, p.O, ones), mirror.project(p.theta, p.O))


@few
@given(nonempty())
def test_norms_measure_the_distance_to_the_plane(p: Problem) -> None:
    norms = mirror.norms(p.theta, p.O)
    assert norms.dtype == ACCUMULATE[p.theta.dtype]
    p.assert_close(norms, mirror.coefficients(p.theta, p.O).to(norms.dtype).norm(dim=-1))
    p.assert_close(norms, (p.theta - mirror.project(p.theta, p.O)).to(norms.dtype).norm(dim=-1))


@few
@given(nonempty(dtypes=(torch.float64,)))
def test_l1_prox_satisfies_the_subgradient_condition(p: Problem) -> None:
    threshold = amounts_for(p)
    x = mirror.prox(p.theta, p.O, threshold)
    step = p.theta - x  # must be O s with s in threshold * subdifferential of |.|_1 at O^T x
    p.assert_close(mirror.project(step, p.O), torch.zeros_like(step))
    at, s = mirror.coefficients(x, p.O), mirror.coefficients(step, p.O)
    t = threshold.unsqueeze(-1)
    assert ((s.abs() <= t + 1e-12) | (at.abs() > 1e-12)).all()
    assert_close(torch.where(at.abs() > 1e-12, s - t * at.sign(), 0), torch.zeros_like(s))


@few
@given(nonempty(dtypes=(torch.float64,)))
def test_group_prox_has_its_closed_form(p: Problem) -> None:
    threshold = amounts_for(p)
    got = mirror.coefficients(mirror.prox(p.theta, p.O, threshold, mode="group"), p.O)
    factor = (1 - threshold / mirror.norms(p.theta, p.O)).clamp_min(0).unsqueeze(-1)
    p.assert_close(got, factor * mirror.coefficients(p.theta, p.O))


@few
@given(st.integers(1, 6), st.integers(0, 100))
def test_permuted_groups_give_permuted_results(groups: int, seed: int) -> None:
    theta, O = torch.randn(groups, 7, dtype=torch.float64), frame(groups, 7, 3, seed=seed)
    amount, order = torch.rand(groups), torch.randperm(groups)
    whole = mirror.prox(theta, O, amount)
    assert torch.equal(mirror.prox(theta[order], O[order], amount[order]), whole[order])


# ---- accuracy ------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any, Problem], Tensor]] = {
    "coefficients": lambda f, p: f.coefficients(p.theta, p.O),
    "norms": lambda f, p: f.norms(p.theta, p.O),
    "reflect": lambda f, p: f.reflect(p.theta, p.O),
    "project": lambda f, p: f.project(p.theta, p.O),
    "shrink": lambda f, p: f.shrink(p.theta, p.O, 0.3),
    "prox-l1": lambda f, p: f.prox(p.theta, p.O, 0.5),
    "prox-group": lambda f, p: f.prox(p.theta, p.O, 0.5, mode="group"),
}


@few
@given(problems(dtypes=(torch.float64,)), st.sampled_from(sorted(CALLS)))
def test_functions_equal_the_reference(p: Problem, name: str) -> None:
    got, wanted = CALLS[name](mirror, p), CALLS[name](reference, p)
    assert got.shape == wanted.shape
    assert got.shape[: len(p.batch)] == p.batch
    assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@few
@given(problems(dtypes=(torch.float64,)), st.data())
def test_amounts_broadcast_to_the_batch(p: Problem, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(p.batch)))
    shape = [data.draw(st.sampled_from([1, n])) for n in p.batch[len(p.batch) - keep :]]
    amount = torch.rand(shape, dtype=torch.float64).to(p.theta.device)
    for call in (mirror.shrink, mirror.prox):
        each = amount.expand(p.batch).unsqueeze(-1)
        c = reference.coefficients(p.theta, p.O)
        target = c * (1 - each) if call is mirror.shrink else c.sign() * (c.abs() - each).relu()
        wanted = p.theta + ((target - c).unsqueeze(-2) @ p.O.mT).squeeze(-2)
        assert_close(call(p.theta, p.O, amount), wanted, rtol=1e-12, atol=1e-12)


# ---- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_nan_in_theta_propagates_and_stays_in_its_row(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    theta = torch.randn(4, 6).to(device, dtype)
    theta[2, 3] = torch.nan
    O = frame(6, 2).to(device, ACCUMULATE[dtype])
    out = CALLS[name](mirror, Problem(theta, O, (4,)))
    bad = out.isnan() if out.dim() == 1 else out.isnan().all(-1)
    assert bad.tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", CALLS)
def test_strides_do_not_matter_and_nothing_is_aliased(name: str, device: torch.device) -> None:
    theta, O = torch.randn(4, 3, 6, device=device), frame(3, 6, 2).float().to(device)
    before = theta.clone(), O.clone()
    out = CALLS[name](mirror, Problem(theta, O, (4, 3)))
    turned = theta.mT.contiguous().mT, O.mT.contiguous().mT
    assert_close(CALLS[name](mirror, Problem(*turned, (4, 3))), out, rtol=0, atol=1e-6)
    if out.numel():
        out.fill_(7)
    assert torch.equal(theta, before[0])
    assert torch.equal(O, before[1])


def test_no_columns_move_nothing(dtype: torch.dtype, device: torch.device) -> None:
    theta, O = torch.randn(3, 5).to(device, dtype), torch.empty(5, 0).to(device, dtype)
    for verb in (mirror.reflect, mirror.project):
        assert torch.equal(verb(theta, O), theta)
    assert mirror.coefficients(theta, O).shape == (3, 0)
    assert torch.equal(
        mirror.norms(theta, O).cpu(), torch.zeros(3).to(mirror.norms(theta, O).cpu())
    )
