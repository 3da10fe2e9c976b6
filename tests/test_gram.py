# SPDX-License-Identifier: Apache-2.0
"""Laws of the unit Gram and of what is read off it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import symfast as sf
from symfast.band import eigenvalues_, reduce_
from symfast.gram import dual_gram, gram, pair_distances, spectrum
from symfast.measure import measure
from symfast.rank import (
    effective_rank,
    numerical_rank,
    product_spectrum,
    rank_tolerance,
    stable_rank,
)
from symfast.symmetry_group import Member, SymmetryGroup
from symfast.triangle import Triangle

NEAR = {"rtol": 1e-12, "atol": 1e-12}


def members(m: int, dtype: torch.dtype) -> list[tuple[Tensor, int]]:
    """A linear layer, its bias, its reader, a convolution's channels and a strided view."""
    wide = torch.randn(2 * m, 3, dtype=dtype)
    return [
        (torch.randn(m, 4, dtype=dtype), 0),
        (torch.randn(m, dtype=dtype), 0),
        (torch.randn(3, m, dtype=dtype), 1),
        (torch.randn(2, m, 3, 3, dtype=dtype), 1),
        (wide[::2], 0),
    ]


def gathered(parts: list[tuple[Tensor, int]]) -> Tensor:
    return torch.cat([t.movedim(d, 0).reshape(t.shape[d], -1).double() for t, d in parts], 1)


def singular_values(parts: list[tuple[Tensor, int]]) -> Tensor:
    members = tuple(Member(tensor, dim, "", "in") for tensor, dim in parts)
    return measure([SymmetryGroup(members, ())], ("nothing",), 0.0, 0).values[0]


@given(st.integers(1, 17), st.integers(1, 40))
def test_equals_direct_computation(m: int, block: int) -> None:
    parts = members(m, torch.float64)
    U = gathered(parts)
    torch.testing.assert_close(gram(parts, block), U @ U.T, **NEAR)
    torch.testing.assert_close(dual_gram(parts, block), U.T @ U, **NEAR)
    G = gram(parts)
    torch.testing.assert_close(G.diagonal().sqrt(), U.norm(dim=1), **NEAR)
    torch.testing.assert_close(pair_distances(G), torch.cdist(U, U), rtol=1e-6, atol=1e-6)


def test_every_dtype_is_summed_in_float64(dtype: torch.dtype) -> None:
    parts = members(9, dtype)
    assert gram(parts).dtype == torch.float64
    U = gathered(parts)
    torch.testing.assert_close(gram(parts), U @ U.T, rtol=1e-14, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7), (1, 6), (6, 1)])
def test_singular_values(shape: tuple[int, int]) -> None:
    U = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(singular_values([(U, 0)]), torch.linalg.svdvals(U), **NEAR)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices from 17 on are kept by blocks of 32 rows."""
    monkeypatch.setattr("symfast.triangle.WHOLE", 16)
    monkeypatch.setattr("symfast.triangle.HEIGHT", 32)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("m", [17, 32, 33, 64, 150, 161])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spectrum_in_the_memory_of_half_a_gram(m: int, dtype: torch.dtype) -> None:
    for shape in ((m, m + 7), (m + 7, m)):
        U = torch.randn(shape, dtype=dtype)
        wanted = torch.linalg.svdvals(U.double())
        torch.testing.assert_close(singular_values([(U, 0)]), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["zero", "diagonal", "rank 3", "graded", "equal", "band"])
def test_band_has_the_eigenvalues_of_the_matrix(kind: str) -> None:
    """Also where columns have nothing to annihilate, and over 30 decades."""
    m = 100
    U = torch.randn(m, m, dtype=torch.float64)
    G = {
        "zero": torch.zeros(m, m).double(),
        "diagonal": torch.diag(torch.randn(m).double()),
        "rank 3": U[:, :3] @ U[:, :3].T,
        "graded": (U * torch.logspace(0, -15, m).double()) @ U.T,
        "equal": torch.ones(m, m).double(),
        "band": torch.triu(torch.tril(U + U.T, 2), -2),
    }[kind]
    wanted = torch.linalg.eigvalsh(G)
    found = eigenvalues_(Triangle.of(torch.stack([G, G.flip(0, 1)])))
    limit = m * 2.3e-16 * float(G.norm())
    torch.testing.assert_close(found, wanted.expand(2, m), rtol=0, atol=limit)
    assert float(reduce_(Triangle.of(G[None])).norm()) <= 1.0001 * float(G.norm())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("m", [1, 16, 17, 64, 70])
def test_triangle_is_the_matrix(m: int) -> None:
    X, Y = torch.randn(2, 2, m, 5, dtype=torch.float64)
    T = Triangle(2, m)
    T.add_(X)
    T.add_(Y)
    G = X @ X.mT + Y @ Y.mT
    torch.testing.assert_close(T.full(), G, **NEAR)
    G = G.triu() + G.triu(1).mT  # not every BLAS gives both halves the same bits
    torch.testing.assert_close(Triangle.of(G).full(), G, rtol=0, atol=0)
    torch.testing.assert_close(T.diagonal(), G.diagonal(dim1=1, dim2=2), **NEAR)
    for a in (0, m // 2, m - 1):
        torch.testing.assert_close(T.row(1, a), G[1, a, a:], **NEAR)
    kept = sum(block.numel() for block in T.blocks)
    assert kept <= 2 * (m * m + 32 * m) / 2 or m <= 16


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_float64_values_below_the_resolution_of_the_gram(shape: tuple[int, int]) -> None:
    """Ten decades of singular values: the plain Gram loses the small half, the remeasure not."""
    k = min(shape)
    s = torch.logspace(0, -10, k, dtype=torch.float64)
    P = torch.linalg.qr(torch.randn(shape[0], k, dtype=torch.float64)).Q
    Q = torch.linalg.qr(torch.randn(shape[1], k, dtype=torch.float64)).Q
    U = (P * s) @ Q.T
    half = U.shape[1] // 2
    found = singular_values([(U[:, :half], 0), (U[:, half:], 0)])
    assert float((found - s).abs().max()) < 1e-12
    lost = spectrum(gram([(U, 0)]))[:k]
    assert float((lost - s).abs().max()) > 1e-10
    assert float((lost - s).abs().max()) < 1e-6  # what RESOLUTION promises


def test_permutation_equivariance_and_rotation_invariance() -> None:
    U = torch.randn(8, 11, dtype=torch.float64)
    p = torch.randperm(8)
    G = gram([(U, 0)])
    torch.testing.assert_close(gram([(U[p], 0)]), G[p][:, p], **NEAR)
    distances = pair_distances(G)
    torch.testing.assert_close(pair_distances(G[p][:, p]), distances[p][:, p], rtol=0, atol=0)
    R = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    S = torch.linalg.qr(torch.randn(11, 11, dtype=torch.float64)).Q
    torch.testing.assert_close(gram([(U @ S, 0)]), G, **NEAR)  # columns may turn: same Gram
    torch.testing.assert_close(spectrum(gram([(R @ U, 0)])), spectrum(G), **NEAR)


def test_product_spectrum_needs_only_two_small_grams() -> None:
    Q, K = torch.randn(2, 6, 50, dtype=torch.float64)
    K[3] = K[4]  # rank 5
    direct = torch.linalg.svdvals(Q.T @ K)[:6]
    found = product_spectrum(gram([(Q, 0)]), gram([(K, 0)]))
    torch.testing.assert_close(found[:5], direct[:5], rtol=1e-10, atol=0)
    assert float(found[5]) < 1e-7 * float(found[0])
    assert numerical_rank(found, 1e-7) == 5


def test_ranks_of_known_spectra() -> None:
    flat, one = torch.ones(7).double(), torch.eye(7)[0].double()
    assert stable_rank(flat) == pytest.approx(7)
    assert effective_rank(flat) == pytest.approx(7)
    assert stable_rank(one) == effective_rank(one) == numerical_rank(one, 1e-9) == 1
    s = torch.tensor([3.0, 1.0], dtype=torch.float64)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(s) == pytest.approx(math.exp(entropy))
    zero = torch.zeros(3)
    assert stable_rank(zero) == effective_rank(zero) == numerical_rank(zero, 1e-9) == 0


def test_rank_tolerance_is_numpys_for_the_coarsest_dtype() -> None:
    units = sf.Units([(torch.ones(4, 10).double(), 0), (torch.ones(4, dtype=torch.bfloat16), 0)])
    assert rank_tolerance(units) == 11 * torch.finfo(torch.bfloat16).eps


def test_members_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of units"):
        gram([(torch.ones(2, 2), 0), (torch.ones(3, 2), 0)])
