# SPDX-License-Identifier: Apache-2.0
"""The real CUDA kernel bodies, run on the CPU by tests/emulation."""

import mmap
import sys
from pathlib import Path

import pytest
import torch

import symfast as sf
from symfast import chunks
from symfast.reference import plan as reference

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
import problems  # noqa: E402
from emulated import COEFFICIENTS, NORMS, PROJECT, PROX, REFLECT, SHRINK  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

DTYPES = list(emulated.TYPES)
VERBS = [REFLECT, PROJECT, SHRINK, PROX]
NAMES = list(problems.PROBLEMS)
UNITS, FRAME_ROW = (chunks.TASK_FIELDS.index(field) for field in ("units", "frame_row"))
#: Largest error in units of eps * (1 + |x|): sums of up to 2048 terms in the accumulate type.
TOLERANCE = {torch.float64: 16, torch.float32: 16, torch.bfloat16: 0.51, torch.float16: 0.51}


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within TOLERANCE; NaN, what nobody wrote, is an error."""
    error = ((got.double() - wanted).abs() / (1 + wanted.abs())).max().item() if got.numel() else 0
    assert error <= TOLERANCE[got.dtype] * torch.finfo(got.dtype).eps


def run_all(emulator: emulated.Emulator, case: problems.Problem) -> list[torch.Tensor]:
    """Every verb in turn; whatever came out of them."""
    results: list[torch.Tensor] = []
    for verb in [*VERBS, COEFFICIENTS, NORMS]:
        found = emulator.plan(
            case.part, verb, amounts=case.amounts(), per=1, mirrors=case.plan.mirrors
        )
        emulator.check()
        results += [t.clone() for t in case.tensors()] if found is None else [found]
    return results


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_verbs_equal_dense_float64(name: str, dtype: torch.dtype, offset: int) -> None:
    emulator = emulated.load(dtype)
    for verb in VERBS:
        case = problems.problem(name, dtype, offset)
        wanted = problems.expected(case, verb)
        emulator.plan(case.part, verb, amounts=case.amounts(), per=1)
        emulator.check()
        assert emulator.totals()["launches"] == 1
        for got, want in zip(case.tensors(), wanted, strict=True):
            close(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_coefficients_and_norms(name: str, dtype: torch.dtype) -> None:
    emulator = emulated.load(dtype)
    case = problems.problem(name, dtype, 1)
    part, mirrors = case.part, case.plan.mirrors
    c = emulator.plan(part, COEFFICIENTS)
    emulator.check()
    wanted = reference.plan_coefficients(part.tensors, part.tables)
    torch.testing.assert_close(c, wanted, rtol=1e-5, atol=2e-6)
    squares = emulator.plan(part, NORMS, mirrors=mirrors)
    emulator.check()
    assert emulator.totals()["launches"] == 1
    wanted = reference.plan_norms(part.tensors, part.tables)
    torch.testing.assert_close(squares, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_any_order_of_threads_gives_the_same_bits(name: str) -> None:
    emulator = emulated.load()
    wanted = run_all(emulator, problems.problem(name, torch.float32))
    for order, seed, preempt in (("reverse", 1, 0), ("random", 1, 100), ("random", 2, 300)):
        other = emulated.load(order=order, seed=seed, preempt=preempt)
        for got, want in zip(run_all(other, problems.problem(name, torch.float32)), wanted,
                             strict=True):  # fmt: skip
            assert torch.equal(got, want)


@pytest.mark.parametrize("threads", [64, 128])
@pytest.mark.parametrize("name", NAMES)
def test_block_sizes(name: str, threads: int) -> None:
    for verb in (PROJECT, PROX):
        case = problems.problem(name, torch.float64)
        wanted = problems.expected(case, verb)
        emulator = emulated.load(torch.float64, threads=threads)
        emulator.plan(case.part, verb, amounts=case.amounts(), per=1)
        emulator.check()
        for got, want in zip(case.tensors(), wanted, strict=True):
            close(got, want)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", [*NAMES, "large"])
def test_chunks_cut_for_a_gpu(name: str, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``large`` by the grain of a GPU, the others by one that cuts even them."""
    grain = chunks.GRAINS["cuda"]
    if name != "large":
        grain = grain._replace(elements=64, columns=8)
    monkeypatch.setitem(chunks.GRAINS, "cpu", grain)
    emulator = emulated.load()
    for verb in VERBS:
        case = problems.problem(name, torch.float32, offset)
        wanted = problems.expected(case, verb)
        tables = case.part.tables
        assert tables.chunks.shape[0] > tables.tasks.shape[0]
        assert name != "large" or (tables.tasks[:, FRAME_ROW] > tables.tasks[:, UNITS]).any()
        emulator.plan(case.part, verb, amounts=case.amounts(), per=1)
        emulator.check()
        for got, want in zip(case.tensors(), wanted, strict=True):
            close(got, want)
    part = case.part
    c = emulator.plan(part, COEFFICIENTS)
    squares = emulator.plan(part, NORMS, mirrors=case.plan.mirrors)
    emulator.check()
    wanted = reference.plan_coefficients(part.tensors, part.tables)
    torch.testing.assert_close(c, wanted, rtol=1e-5, atol=1e-5)
    wanted = reference.plan_norms(part.tensors, part.tables)
    torch.testing.assert_close(squares, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_amounts_for_all_and_per_mirror(name: str, per: int) -> None:
    case = problems.problem(name, torch.float64)
    part = case.part
    amounts = torch.linspace(0.1, 0.8, case.plan.mirrors, dtype=torch.float64) if per else None
    emulator = emulated.load(torch.float64)
    for verb in (SHRINK, PROX):
        before = [t.clone() for t in part.tensors]
        emulator.plan(part, verb, amounts=amounts, amount=0.3, per=per)
        emulator.check()
        after = [t.clone() for t in part.tensors]
        for t, b in zip(part.tensors, before, strict=True):
            t.copy_(b)
        reference.plan_apply_(part.tensors, part.tables, verb, 0.3, amounts, per)
        for got, want in zip(after, part.tensors, strict=True):
            close(got, want)


def test_swap_reflection_exchanges_bits() -> None:
    emulator = emulated.load(torch.bfloat16)
    bits = torch.arange(2 * 4096, dtype=torch.int32).mul(8).to(torch.int16)
    w = bits.view(torch.bfloat16).view(2, 4096).clone()  # NaNs with every payload among them
    emulator.plan(sf.Plan([(w, sf.Swap([0], [1]))])._compiled.parts[0], REFLECT)
    emulator.check()
    assert torch.equal(w.view(torch.int16), bits.view(2, 4096).flip(0))


def test_projection_of_equal_units_is_exact() -> None:
    row = torch.randn(33)
    w = row.expand(12, 33).contiguous()
    emulated.load().plan(sf.Plan([(w, sf.Cluster([0] * 12))])._compiled.parts[0], PROJECT)
    assert torch.equal(w, row.expand(12, 33))


def test_nan_and_infinity_show() -> None:
    for symmetry in (sf.SignFlip([0]), sf.Swap([0], [1]), sf.Cluster([0, 0, 0, 0]),
                     sf.Direction(torch.ones(4), orthonormalize=True)):  # fmt: skip
        for bad in (float("nan"), float("inf")):
            w = torch.ones(4, 8)
            w[0, 3] = bad
            emulated.load().plan(sf.Plan([(w, symmetry)])._compiled.parts[0], PROJECT)
            assert not w[0, 3].isfinite()
            assert w[:, :3].isfinite().all()


def test_replicas() -> None:
    w, b = torch.randn(3, 6, 8, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    plan = sf.Plan([(sf.Units([(w, 0), (b, 0)], replicas=3), sf.Swap([0, 1], [4, 3]))], replicas=3)
    emulator = emulated.load(torch.float64)
    squares = emulator.plan(plan._compiled.parts[0], NORMS, mirrors=3 * plan.mirrors)
    emulator.check()
    wanted = ((w[:, :2] - w[:, [4, 3]]) ** 2).sum(2) / 2 + (b[:, :2] - b[:, [4, 3]]) ** 2 / 2
    torch.testing.assert_close(squares.view(3, 2), wanted)


def test_more_tensors_than_arguments_hold() -> None:
    tensors = [torch.randn(5) for _ in range(1000)]
    wanted = [t * torch.tensor([1.0, -1, 1, 1, 1]) for t in tensors]
    emulator = emulated.load()
    emulator.plan(sf.Plan([(t, sf.SignFlip([1])) for t in tensors])._compiled.parts[0], REFLECT)
    emulator.check()
    assert emulator.totals()["launches"] == 1 + 3  # addresses travel in pieces of 472
    for got, want in zip(tensors, wanted, strict=True):
        assert torch.equal(got, want)


def test_offsets_beyond_32_bits() -> None:
    rows, width = 3, 2**31 + 24  # 13 GB of address space, hardly any of it touched
    try:
        memory = mmap.mmap(
            -1, rows * width * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        )
    except (OSError, ValueError):
        pytest.skip("no address space")
    w = torch.frombuffer(memory, dtype=torch.bfloat16).view(rows, width)
    tail = w[:, -8:]
    tail.copy_(torch.arange(24.0).view(3, 8))
    plan = sf.Plan([(tail, sf.Swap([0], [2]))])
    emulator = emulated.load(torch.bfloat16)
    emulator.plan(plan._compiled.parts[0], REFLECT)
    emulator.check()
    assert tail[:, 0].tolist() == [16.0, 8.0, 0.0]


MIRRORS = [
    (5, 3, 16, 2), (40, 1, 64, 4), (2, 7, 33, 5), (1, 50, 1024, 3), (3, 2, 4, 4),
    (2, 2, 700, 9), (1, 3, 9, 0), (0, 3, 9, 2), (2, 0, 9, 2),
]  # fmt: skip


@pytest.mark.parametrize("shape", MIRRORS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functional_verbs(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    groups, rows, d, k = shape
    emulator = emulated.load(dtype)
    theta = torch.randn(groups, rows, d, dtype=torch.float64).to(dtype)
    o = torch.linalg.qr(torch.randn(groups, d, max(k, 1), dtype=torch.float64)).Q[..., :k]
    half = dtype in (torch.bfloat16, torch.float16)
    o = o.to(torch.float32 if half else dtype).contiguous()
    a = torch.rand(groups, rows, dtype=torch.float64).to(torch.float32 if half else dtype)
    x, frame = theta.double(), o.double()
    c = x @ frame
    close(emulator.mirror(theta, o, COEFFICIENTS), c)
    emulator.check()
    for most_shared in (99 * 1024, 0):
        if k == 0:
            continue  # the caller has zeros
        close(emulator.mirror(theta, o, NORMS, most_shared=most_shared), c.norm(dim=2))
        emulator.check()
    t = a.double()[..., None]
    for verb, group, new in (
        (REFLECT, False, -c), (PROJECT, False, 0 * c), (SHRINK, False, (1 - t) * c),
        (PROX, False, c.sign() * (c.abs() - t).clamp(min=0)),
        (PROX, True, c * (1 - t / c.norm(dim=2, keepdim=True)).clamp(min=0)),
    ):  # fmt: skip
        if k == 0:
            continue  # the caller copies
        for most_shared in (99 * 1024, 0):  # frames in shared memory, or not
            got = emulator.mirror(theta, o, verb, amounts=a, group=group, most_shared=most_shared)
            emulator.check()
            close(got, x + (new - c) @ frame.mT)
