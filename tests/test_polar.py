# SPDX-License-Identifier: Apache-2.0
"""Polar factors: orthogonal, nearest, equivariant, idempotent, whatever the input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import symfast as sf
from symfast.reference.polar import polar_iterate

ORTHOGONAL = {torch.float64: 1e-12, torch.float32: 1e-5}
NEAREST = {torch.float64: 1e-13, torch.float32: 1e-6}


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def wide(request: pytest.FixtureRequest) -> torch.dtype:
    found = request.param
    assert isinstance(found, torch.dtype)
    return found


def defect(Q: Tensor) -> float:
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    return float(torch.linalg.matrix_norm(Q.mT @ Q - eye).max())


def shortfall(Q: Tensor, A: Tensor) -> float:
    """1 - <Q, A> / nuclear norm, in float64: 0 for the nearest orthogonal matrix."""
    best = torch.linalg.svdvals(A.double()).sum(-1)
    return float((1 - (Q.double() * A.double()).sum((-1, -2)) / best).abs().max())


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 16, 31, 64, 100, 256])
def test_nearest_orthogonal(d: int, wide: torch.dtype, capability: str) -> None:
    A = torch.randn(40 if d < 100 else 3, d, d, dtype=wide)
    Q = sf.polar(A)
    assert defect(Q) <= ORTHOGONAL[wide]
    assert shortfall(Q, A) <= NEAREST[wide]
    H = Q.mT @ A  # symmetric: the other factor
    assert float((H - H.mT).abs().max()) <= 100 * d * torch.finfo(wide).eps


def test_on_every_device(device: torch.device, wide: torch.dtype) -> None:
    A = torch.randn(20, 12, 12, dtype=wide)
    torch.testing.assert_close(sf.polar(A.to(device)).cpu(), sf.polar(A), atol=1e-4, rtol=0)


@given(batch=st.integers(1, 6), d=st.integers(1, 40), power=st.floats(-12, 12))
def test_equals_reference_at_any_scale(batch: int, d: int, power: float) -> None:
    A = torch.randn(batch, d, d, dtype=torch.float64)
    A = A + 2 * d**0.5 * torch.eye(d, dtype=torch.float64)  # well conditioned
    Q, converged = torch.ops.symfast.polar_iterate(10**power * A)
    want, also = polar_iterate(A)
    assert bool(converged.all())
    assert bool(also.all())
    torch.testing.assert_close(Q, want, atol=1e-12, rtol=0)


def test_equivariance_and_idempotence() -> None:
    A = torch.randn(30, 24, 24, dtype=torch.float64)
    R = torch.linalg.qr(torch.randn(30, 24, 24, dtype=torch.float64)).Q
    Q = sf.polar(A)
    torch.testing.assert_close(sf.polar(R @ A), R @ Q, atol=1e-9, rtol=0)
    torch.testing.assert_close(sf.polar(A @ R), Q @ R, atol=1e-9, rtol=0)
    torch.testing.assert_close(sf.polar(A.mT), Q.mT, atol=1e-9, rtol=0)
    torch.testing.assert_close(sf.polar(Q), Q, atol=1e-13, rtol=0)
    torch.testing.assert_close(sf.polar(-3 * A), -Q, atol=1e-9, rtol=0)


def test_reflections_are_reached() -> None:
    assert torch.equal(sf.polar(torch.diag(torch.tensor([2.0, -1.0]))).sign(), torch.tensor(
        [[1.0, 0.0], [0.0, -1.0]]
    ))  # fmt: skip


def test_singular_and_nearly_singular(wide: torch.dtype) -> None:
    A = torch.randn(6, 10, 10, dtype=wide)
    A[0] = 0
    A[1, 3] = 0  # an exact zero row: the iteration alone cannot turn it
    A[2] = torch.outer(A[2, 0], A[2, 1])  # rank 1
    A[3, 4] = A[3, 5] * (1 + 1e-6)
    A[4] *= 1e-30
    Q = sf.polar(A)
    assert defect(Q) <= ORTHOGONAL[wide]
    assert torch.equal(Q[0], torch.eye(10, dtype=wide))
    assert shortfall(Q[1:], A[1:]) <= 3 * NEAREST[wide]


def test_bad_entries_stay_in_their_matrix(wide: torch.dtype) -> None:
    A = torch.randn(5, 8, 8, dtype=wide)
    clean = sf.polar(A)
    A[1, 0, 0], A[3, 7, 2] = torch.nan, torch.inf
    Q = sf.polar(A)
    assert Q[[1, 3]].isnan().all()
    assert torch.equal(Q[[0, 2, 4]], clean[[0, 2, 4]])
    assert A[3, 7, 2] == torch.inf  # the input is not touched


def test_batch_threads_and_strides_do_not_matter() -> None:
    A = torch.randn(50, 33, 33)
    whole = sf.polar(A)
    assert torch.equal(whole[7], sf.polar(A[7]))
    assert torch.equal(sf.polar(A.mT.contiguous().mT), whole)
    assert torch.equal(sf.polar(A.view(5, 10, 33, 33)), whole.view(5, 10, 33, 33))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(sf.polar(A), whole)
    finally:
        torch.set_num_threads(before)


def test_edges_and_refusals() -> None:
    assert sf.polar(torch.empty(0, 4, 4)).shape == (0, 4, 4)
    assert sf.polar(torch.empty(3, 0, 0)).shape == (3, 0, 0)
    assert defect(sf.polar(torch.randn(4, 4, dtype=torch.bfloat16)).double()) < 0.1
    for wrong in (torch.ones(3), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="square"):
            sf.polar(wrong)
    for odd in (torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="floating"):
            sf.polar(odd)
    with pytest.raises(RuntimeError, match="batch, d, d"):
        torch.ops.symfast.polar_iterate(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="float64 or float32"):
        torch.ops.symfast.polar_iterate(torch.ones(1, 2, 2, dtype=torch.float16))


def test_opcheck_and_compile() -> None:
    A = torch.randn(3, 5, 5)
    torch.library.opcheck(torch.ops.symfast.polar_iterate.default, (A,))
    torch.library.opcheck(torch.ops.symfast.polar.default, (A,))
    A[1] = 0  # needs the decomposition inside
    compiled = torch.compile(lambda x: sf.polar(x) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(A), sf.polar(A) * 2)
