# SPDX-License-Identifier: Apache-2.0
"""Units that are adjacent in memory, against plain indexing in float64: partners near and far."""

import pytest
import torch

import symfast as sf
from symfast import plan_ops
from symfast.symmetry import Symmetry

DTYPES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
ROWS = [8, 9, 35]


def neighbours(m: int) -> list[list[int]]:
    return [[i, i + 1] for i in range(0, m - 1, 2)]


def strangers(m: int) -> list[list[int]]:
    order = torch.randperm(m).tolist()
    return [order[i : i + 2] for i in range(0, m - 1, 2)]


def a_few(m: int) -> list[list[int]]:
    return strangers(m)[: max(1, m // 6)]


PAIRS = {"neighbours": neighbours, "strangers": strangers, "a few": a_few}
SIZES = {
    "fours": [4] * 100,
    "threes": [3] * 100,
    "eights": [8] * 100,
    "ragged": [2, 3, 5, 2, 2, 4] * 60,
    "one large": [20] + [2] * 200,
}


def clusters(m: int, sizes: list[int], shuffled: bool) -> list[list[int]]:
    """Members of clusters of these sizes, as many as fit into m units."""
    order = torch.randperm(m).tolist() if shuffled else list(range(m))
    found = []
    for size in sizes:
        if size > len(order):
            break
        found.append(order[:size])
        order = order[size:]
    return found


def labels(m: int, groups: list[list[int]]) -> list[int]:
    """One number per unit; units without a cluster get one of their own."""
    numbers = list(range(len(groups), len(groups) + m))
    for number, members in enumerate(groups):
        for i in members:
            numbers[i] = number
    return numbers


def wanted(w: torch.Tensor, groups: list[list[int]], verb: str, amount: float) -> torch.Tensor:
    """Every verb by its formula: u <- mean + f(u - mean) within a group."""
    result = w.double().clone()
    for members in groups:
        u = result[:, members]
        mean = u.mean(1, keepdim=True)
        factor = {"reflect": -1.0, "project": 0.0, "shrink": 1 - amount}[verb]
        result[:, members] = mean + factor * (u - mean)
    return result


def run(plan: sf.Plan, verb: str, amount: float) -> None:
    if verb == "shrink":
        plan.shrink_(amount)
    else:
        getattr(plan, f"{verb}_")()


def check(
    symmetry: Symmetry, groups: list[list[int]], rows: int, m: int, dtype: torch.dtype
) -> None:
    untouched = sorted(set(range(m)) - {i for members in groups for i in members})
    for verb in ("reflect", "project", "shrink"):
        w = torch.randn(rows, m).to(dtype)
        w[:, untouched] = float("inf")  # what no mirror touches stays, bit for bit
        truth = wanted(w, groups, verb, 0.3)
        run(sf.Plan([(sf.Units([(w, 1)]), symmetry)]), verb, 0.3)
        assert torch.equal(w[:, untouched], torch.full_like(w[:, untouched], float("inf")))
        touched = [i for members in groups for i in members]
        torch.testing.assert_close(
            w[:, touched].double(), truth[:, touched], rtol=DTYPES[dtype], atol=DTYPES[dtype]
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("m", [2, 7, 16, 37, 64, 300])
@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_of_adjacent_units(kind: str, m: int, dtype: torch.dtype) -> None:
    for rows in ROWS:
        groups = PAIRS[kind](m)
        a, b = zip(*groups, strict=True)
        check(sf.Swap(list(a), list(b)), groups, rows, m, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("m", [9, 16, 64, 301])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("sizes", SIZES)
def test_clusters_of_adjacent_units(sizes: str, shuffled: bool, m: int, dtype: torch.dtype) -> None:
    groups = clusters(m, SIZES[sizes], shuffled)
    if not groups:
        groups = [list(range(m))]
    for rows in ROWS:
        check(sf.Cluster(labels(m, groups)), groups, rows, m, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("m", [1025, 2500, 32768])
def test_more_units_than_the_first_level_cache_holds(m: int, dtype: torch.dtype) -> None:
    for kind in ("strangers", "a few"):
        groups = PAIRS[kind](m)
        a, b = zip(*groups, strict=True)
        check_few_rows(sf.Swap(list(a), list(b)), groups, m, dtype)
    groups = clusters(m, [8] * (m // 8), True)
    check_few_rows(sf.Cluster(labels(m, groups)), groups, m, dtype)


def check_few_rows(symmetry: Symmetry, groups: list[list[int]], m: int, dtype: torch.dtype) -> None:
    """Against the same formula, all groups at once: units of a group side by side."""
    index = torch.tensor(groups)
    w = torch.randn(11, m).to(dtype)
    before = w.double()
    u = before[:, index]
    sf.Plan([(sf.Units([(w, 1)]), symmetry)]).shrink_(0.3)
    before[:, index] = u.mean(2, keepdim=True) + 0.7 * (u - u.mean(2, keepdim=True))
    torch.testing.assert_close(w.double(), before, rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("m", [16, 64, 1000, 1500])
@pytest.mark.parametrize("kind", PAIRS)
def test_a_swap_is_exact(kind: str, m: int) -> None:
    groups = PAIRS[kind](m)
    a, b = (list(side) for side in zip(*groups, strict=True))
    w = torch.randn(33, m)
    w[3, a[0]], w[5, b[0]] = float("nan"), float("inf")
    before = w.clone()
    plan = sf.Plan([(sf.Units([(w, 1)]), sf.Swap(a, b))])
    plan.reflect_()
    assert torch.equal(w[:, a].view(torch.int32), before[:, b].view(torch.int32))
    assert torch.equal(w[:, b].view(torch.int32), before[:, a].view(torch.int32))
    plan.project_()
    once = w.clone()
    plan.project_()
    assert torch.equal(w.view(torch.int32), once.view(torch.int32))
    assert torch.equal(w[:, a].view(torch.int32), w[:, b].view(torch.int32))


@pytest.mark.parametrize("sizes", SIZES)
def test_clusters_project_to_equal_bits_once(sizes: str) -> None:
    m = 640
    groups = clusters(m, SIZES[sizes], True)
    w = torch.randn(50, m)
    plan = sf.Plan([(sf.Units([(w, 1)]), sf.Cluster(labels(m, groups)))])
    plan.project_()
    once = w.clone()
    for members in groups:
        assert torch.equal(w[:, members], w[:, members[:1]].expand(-1, len(members)))
    plan.project_()
    assert torch.equal(w, once)


@pytest.mark.parametrize("kind", PAIRS)
def test_large_numbers_of_untouched_units_do_not_overflow(kind: str) -> None:
    m = 65
    groups = PAIRS[kind](m)
    a, b = (list(side) for side in zip(*groups, strict=True))
    rest = sorted(set(range(m)) - {*a, *b})
    w = torch.full((9, m), 1.0)
    w[:, rest] = 3e38
    sf.Plan([(sf.Units([(w, 1)]), sf.Swap(a, b))]).project_()
    assert torch.equal(w[:, rest], torch.full((9, len(rest)), 3e38))


def test_chunks_of_some_mirrors_between_chunks_of_all() -> None:
    """The operator takes any chunks: those of some pairs work where the others' tables lie."""
    groups, m = strangers(64), 64
    a, b = (list(side) for side in zip(*groups, strict=True))
    w = torch.randn(24, m)
    truth = wanted(w, groups, "project", 0.0)
    tables = sf.Plan([(sf.Units([(w, 1)]), sf.Swap(a, b))])._compiled.parts[0].tables
    rows = [(0, 32, 0, 8), (0, 16, 8, 16), (16, 32, 8, 16), (0, 32, 16, 24)]
    sizes = [k1 - k0 for k0, k1, _, _ in rows]
    chunks = [[0, 0, *row, 0, 1, sum(sizes[:i])] for i, row in enumerate(rows)]
    key = 77
    torch.ops.symfast.plan_store(
        key, tables.layout, tables.tasks, torch.tensor(chunks), tables.index, tables.frames,
        tables.mirrors, tables.numel, tables.groups,
    )  # fmt: skip
    try:
        torch.ops.symfast.plan_apply_([w], key, 1)
    finally:
        plan_ops.drop(key)
    torch.testing.assert_close(w.double(), truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("shape", [(1500, 37), (70, 1024), (40, 515), (1024, 1100), (9, 3)])
@pytest.mark.parametrize("dim", [0, 1])
def test_directions_larger_than_a_tile(
    dim: int, shape: tuple[int, int], k: int, dtype: torch.dtype
) -> None:
    m = shape[dim]
    if k > m:
        k = m
    a = torch.linalg.qr(torch.randn(m, k, dtype=torch.float64)).Q
    w = torch.randn(shape).to(dtype)
    u = w.double() if dim == 0 else w.double().T
    truth = u - 2 * a @ (a.T @ u)
    sf.Plan([(sf.Units([(w, dim)]), sf.Direction(a))]).reflect_()
    found = w.double() if dim == 0 else w.double().T
    tolerance = max(DTYPES[dtype], 1e-13) * 4
    torch.testing.assert_close(found, truth, rtol=tolerance, atol=tolerance)
