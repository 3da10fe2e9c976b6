# SPDX-License-Identifier: Apache-2.0
"""Plan verbs against memory and against the strongest torch code; every result is asserted.

``pytest -s benchmarks/bench_plan.py`` prints the tables of this run. Times are the best of many
runs; GB/s counts every byte a verb must read or write once. Problems larger than the last-level
cache are "out of cache"; smaller ones rotate through copies until they are.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from machine import best, read_bandwidth, stream_bandwidth
from tables import cost, point, tables

import symfast as sf

pytestmark = pytest.mark.filterwarnings("default")
BIG = 4096
LONG = 4 * BIG  # columns, or rows, of 256 MB: last-level caches of 96 MB keep much of 64 MB
OUT_OF_CACHE = 160e6  # bytes a rotation touches before it comes back
note, report = tables()


def frames(*shape: int) -> torch.Tensor:
    """Orthonormal frames (..., d, k)."""
    return torch.linalg.qr(torch.randn(*shape)).Q.contiguous()


def rotation(bytes_each: float, make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """Call copies of a problem in turn, so that each comes back out of cache."""
    count = max(1, round(OUT_OF_CACHE / bytes_each))
    turn = itertools.cycle([make() for _ in range(count)])
    return lambda: next(turn)()


def in_place_stream(w: torch.Tensor) -> float:
    """GB/s over as much memory. To be taken before a case and after: others share the memory."""
    return stream_bandwidth(w.numel() * 4 / 1e6, 0)


INDEX = {
    "SignFlip all": lambda m: sf.SignFlip(),
    "SignFlip random half": lambda m: sf.SignFlip(torch.randperm(m)[: m // 2].tolist()),
    "Swap halves": lambda m: sf.Swap(range(m // 2), range(m // 2, m)),
    "Swap neighbours": lambda m: sf.Swap(range(0, m, 2), range(1, m, 2)),
    "Swap random": lambda m: sf.Swap(*torch.randperm(m).view(2, -1).tolist()),
    "Cluster of 4": lambda m: sf.Cluster([i // 4 for i in range(m)]),
    "Cluster of 8, random": lambda m: sf.Cluster((torch.randperm(m) // 8).tolist()),
}


@pytest.mark.parametrize("units", [256, 1024, 2048])
@pytest.mark.parametrize("name", ["Swap random", "Cluster of 8, random"])
def test_scattered_units_last(benchmark: Any, name: str, units: int) -> None:
    w = torch.randn(BIG * LONG // units, units)
    plan = sf.Plan([(sf.Units([(w, 1)]), INDEX[name](units))])
    stream = in_place_stream(w)
    project = 8 * w.numel() / best(plan.project_) / 1e9
    assert float(plan.norms()) == 0.0
    reflect = 8 * w.numel() / best(plan.reflect_) / 1e9
    stream = max(stream, in_place_stream(w))
    note("Scattered units, unit dim last, 67 million numbers: GB/s",
         symmetry=name, units=units, project=f"{project:.1f} ({project / stream:.0%})",
         reflect=f"{reflect:.1f} ({reflect / stream:.0%})", stream=f"{stream:.1f}")  # fmt: skip
    benchmark.extra_info["fraction_of_stream"] = project / stream
    benchmark.pedantic(plan.project_, rounds=3)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", INDEX)
def test_index_verbs(benchmark: Any, name: str, dim: int) -> None:
    w = torch.randn(*((BIG, LONG) if dim == 0 else (LONG, BIG)))
    symmetry = INDEX[name](BIG)
    plan = sf.Plan([(sf.Units([(w, dim)]), symmetry)])
    touched = w.numel() * (0.5 if "half" in name and dim == 0 else 1)
    stream = in_place_stream(w)
    project = 8 * touched / best(plan.project_) / 1e9
    assert float(plan.norms()) == 0.0
    reflect = 8 * touched / best(plan.reflect_) / 1e9
    stream = max(stream, in_place_stream(w))
    note("Index verbs, 4096 units of 16384 float32: GB/s and fraction of the in-place stream",
         symmetry=name, dim=dim, project=f"{project:.1f} ({project / stream:.0%})",
         reflect=f"{reflect:.1f} ({reflect / stream:.0%})", stream=f"{stream:.1f}")  # fmt: skip
    point(f"{name}, dim {dim}", flops=2 * touched, moved=8 * touched,
          seconds=8 * touched / project / 1e9)  # fmt: skip
    benchmark.extra_info["fraction_of_stream"] = project / stream
    benchmark.pedantic(plan.project_, rounds=3)


EQUAL = [(20_000, 64, 4), (2_000, 1024, 8), (100_000, 16, 1)]


@pytest.mark.parametrize(("groups", "d", "k"), EQUAL)
def test_equal_mirrors(benchmark: Any, groups: int, d: int, k: int) -> None:
    theta, o = torch.randn(groups, d), frames(groups, d, k)
    wanted = theta.double() - (o.double() @ (o.double().mT @ theta.double()[..., None]))[..., 0]
    moved = 4.0 * groups * (2 * d + d * k)

    def plan_call() -> Callable[[], object]:
        copy = theta.clone()
        plan = sf.Plan([(copy, sf.Mirror(o))])
        plan.project_()
        torch.testing.assert_close(copy.double(), wanted, rtol=0, atol=2e-5)
        return plan.project_

    def bmm_call() -> Callable[[], object]:
        x, frame = theta.clone()[..., None], o.clone()
        return lambda: torch.baddbmm(x, frame, torch.bmm(frame.mT, x), alpha=-1)

    def function_call() -> Callable[[], object]:
        x, frame = theta.clone(), o.clone()
        return lambda: sf.project(x, frame)

    ours = best(rotation(moved, plan_call))
    function = best(rotation(moved, function_call))
    bmm = best(rotation(moved, bmm_call), seconds=1.0)
    compiled = torch.compile(lambda x, f: torch.baddbmm(x, f, torch.bmm(f.mT, x), alpha=-1))
    x = theta.clone()[..., None]
    inductor = best(lambda: compiled(x, o), seconds=1.0)
    stream = stream_bandwidth(OUT_OF_CACHE / 1e6, k)
    note("Equal mirrors, project, out of cache", groups=f"{groups} x ({d}, {k})",
         ms=f"{ours * 1e3:.2f}", GB_per_s=f"{moved / ours / 1e9:.1f}",
         of_stream=f"{moved / ours / 1e9 / stream:.0%} of {stream:.1f}",
         over_bmm=f"{bmm / ours:.1f}x", over_compiled_bmm=f"{inductor / ours:.1f}x",
         function_ms=f"{function * 1e3:.2f}")  # fmt: skip
    point(f"Mirror {groups} x ({d}, {k})", flops=4.0 * groups * d * k, moved=moved, seconds=ours)
    benchmark.extra_info.update(speedup_bmm=bmm / ours, fraction=moved / ours / 1e9 / stream)
    benchmark.pedantic(plan_call(), rounds=3)


class Ragged:
    """1,000 vectors of 4 to 2048 numbers, mirrored in 1 to 8 directions each."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.sizes = torch.randint(4, 2049, (1000,), generator=draw).tolist()
        ranks = [min(int(torch.randint(1, 9, (1,), generator=draw)), d) for d in self.sizes]
        self.shapes = list(zip(self.sizes, ranks, strict=True))
        self.frames = [frames(d, k) for d, k in self.shapes]
        self.moved = 4.0 * sum(d * (2 + k) for d, k in self.shapes)
        self.reads = sum(d * k for d, k in self.shapes) / sum(self.sizes)

    def vectors(self) -> list[torch.Tensor]:
        return list(torch.randn(sum(self.sizes)).split(self.sizes))

    def plan(self) -> Callable[[], object]:
        parts = self.vectors()
        before = [p.double() for p in parts]
        plan = sf.Plan([(p, sf.Mirror(o)) for p, o in zip(parts, self.frames, strict=True)])
        plan.project_()
        for p, b, o in zip(parts, before, self.frames, strict=True):
            wanted = b - o.double() @ (o.double().T @ b)
            torch.testing.assert_close(p.double(), wanted, rtol=0, atol=2e-5)
        return plan.project_

    def loop(self) -> Callable[[], object]:
        parts = self.vectors()

        def loop() -> None:
            for p, o in zip(parts, self.frames, strict=True):
                p.addmv_(o, o.T @ p, alpha=-1)

        return loop

    def padded(self) -> Callable[[], object]:
        x = torch.zeros(1000, max(self.sizes), 1)
        o = torch.zeros(1000, max(self.sizes), 8)
        for i, (frame, (d, k)) in enumerate(zip(self.frames, self.shapes, strict=True)):
            o[i, :d, :k] = frame
        return lambda: torch.baddbmm(x, o, torch.bmm(o.mT, x), alpha=-1)


def test_ragged_mirrors(benchmark: Any) -> None:
    job = Ragged()
    ours = best(rotation(job.moved, job.plan))
    loop = best(rotation(job.moved, job.loop), seconds=1.0)
    padded = best(job.padded(), seconds=1.0)
    stream = stream_bandwidth(OUT_OF_CACHE / 1e6, job.reads)
    note("Ragged mirrors: 1,000 groups, d in 4..2048, k in 1..8, project, out of cache",
         ms=f"{ours * 1e3:.2f}", GB_per_s=f"{job.moved / ours / 1e9:.1f}",
         of_stream=f"{job.moved / ours / 1e9 / stream:.0%} of {stream:.1f}",
         over_loop=f"{loop / ours:.1f}x", over_padded_bmm=f"{padded / ours:.1f}x")  # fmt: skip
    benchmark.extra_info.update(speedup_loop=loop / ours, speedup_padded=padded / ours)
    benchmark.pedantic(job.plan(), rounds=3)


@pytest.mark.parametrize("columns", [BIG, LONG])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_directions(benchmark: Any, k: int, dim: int, columns: int) -> None:
    w, a = torch.randn(*((BIG, columns) if dim == 0 else (columns, BIG))), frames(BIG, k)
    plan = sf.Plan([(sf.Units([(w, dim)]), sf.Direction(a))])
    stream = in_place_stream(w)
    ours = best(plan.project_)
    assert float(plan.norms()) < 1e-2
    if dim == 0:
        theirs = best(lambda: w.addmm_(a, a.T @ w, alpha=-1))
    else:
        theirs = best(lambda: w.addmm_(w @ a, a.T, alpha=-1))
    stream = max(stream, in_place_stream(w))
    speed = 8 * w.numel() / ours / 1e9
    # what a pass that reads, then one that reads and writes, take out of cache
    two_passes = 8 / (4 / read_bandwidth(w.numel() * 4 / 1e6) + 8 / stream)
    limit = f"{speed / two_passes:.0%} of {two_passes:.1f}" if dim == 0 else ""
    note(f"Direction on 4096 units of {columns} float32, project", k=k, dim=dim,
         GB_per_s=f"{speed:.1f}", of_stream=f"{speed / stream:.0%} of {stream:.1f}",
         of_two_passes=limit, over_addmm=f"{theirs / ours:.2f}x")  # fmt: skip
    point(f"Direction k = {k}, dim {dim}, {columns}", flops=4.0 * k * w.numel(),
          moved=8.0 * w.numel(), seconds=ours)  # fmt: skip
    benchmark.extra_info["fraction_of_stream"] = speed / stream
    benchmark.pedantic(plan.project_, rounds=3)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("d", [4, 64, 512])
@pytest.mark.parametrize("groups", [1, 10, 100, 1000])
def test_grid_is_never_slower(benchmark: Any, groups: int, d: int, k: int) -> None:
    # reflect, not project: repeated projection of 4 numbers onto 4 leaves subnormal ones
    theta, o = torch.randn(groups, d), frames(groups, d, k)
    plan = sf.Plan([(theta, sf.Mirror(o))])
    x, ot = theta.clone()[..., None], o.mT
    plan.reflect_()
    torch.testing.assert_close(
        theta, torch.baddbmm(x, o, torch.bmm(ot, x), alpha=-2)[..., 0], atol=1e-5, rtol=0
    )
    ours = best(plan.reflect_, 0.1, 50)
    theirs = best(lambda: x.baddbmm_(o, torch.bmm(ot, x), alpha=-2), 0.1, 50)
    one = best(lambda: x[0, :, 0].addmv_(o[0], ot[0] @ x[0, :, 0], alpha=-2), 0.1, 50)
    theirs = min(theirs, one) if groups == 1 else theirs
    note("Small grid, reflect: microseconds", groups=f"{groups} x ({d}, {k})",
         symfast=f"{ours * 1e6:.1f}", torch=f"{theirs * 1e6:.1f}",
         ratio=f"{theirs / ours:.2f}x")  # fmt: skip
    benchmark.extra_info["speedup"] = theirs / ours
    benchmark.pedantic(plan.reflect_, rounds=3)


def test_pairs_against_index_copy(benchmark: Any) -> None:
    w = torch.randn(BIG, BIG)
    a, b = torch.randperm(BIG).view(2, -1)
    plan = sf.Plan([(w, sf.Swap(a.tolist(), b.tolist()))])

    def torch_way(x: torch.Tensor) -> torch.Tensor:
        mean = (x.index_select(0, a) + x.index_select(0, b)) * 0.5
        return x.index_copy_(0, a, mean).index_copy_(0, b, mean)

    compiled = torch.compile(torch_way)
    ours, eager = best(plan.project_), best(lambda: torch_way(w))
    inductor = best(lambda: compiled(w))
    assert torch.equal(w[a], w[b])
    note("Swap of 2,048 random pairs of rows of 4096 numbers, project", ms=f"{ours * 1e3:.2f}",
         over_index_copy=f"{eager / ours:.1f}x",
         over_compiled=f"{inductor / ours:.1f}x")  # fmt: skip
    benchmark.pedantic(plan.project_, rounds=3)


def test_overhead(benchmark: Any) -> None:
    flat = torch.randn(16_000)
    one = sf.Plan([(flat.view(1000, 16), sf.Mirror(frames(1000, 16, 1)))])
    entries = [(flat[16 * i : 16 * i + 16], sf.SignFlip([0])) for i in range(1000)]
    many = sf.Plan(entries)
    separate = sf.Plan([(torch.randn(16), sf.SignFlip([0])) for _ in range(1000)])
    single = sf.Plan([(torch.randn(16), sf.SignFlip([0]))])
    times = [best(p.project_, 0.3, 200) * 1e6 for p in (single, one, many, separate)]
    note("Call overhead, microseconds", one_group=f"{times[0]:.1f}",
         batched_mirror_of_1000=f"{times[1]:.1f}", entries_in_one_tensor_1000=f"{times[2]:.1f}",
         tensors_1000=f"{times[3]:.1f} ({(times[3] - times[2]) / 1000:.3f} per tensor)",
         )  # fmt: skip
    benchmark.pedantic(one.project_, rounds=20)


def test_linear_in_elements(benchmark: Any) -> None:
    for exponent in range(3, 9):
        w = torch.randn(10**exponent // 100, 100)
        plan = sf.Plan([(sf.Units([(w, 1)]), sf.Swap(range(50), range(50, 100)))])
        seconds = best(plan.project_, 0.3, 3)
        stream = in_place_stream(w)
        note("Swap project, cost with work", elements=f"10^{exponent}", ms=f"{seconds * 1e3:.4f}",
             ns_per_element=f"{seconds / w.numel() * 1e9:.3f}",
             of_stream=f"{8 * w.numel() / seconds / 1e9 / stream:.0%} of {stream:.1f}")  # fmt: skip
        cost("Plan.project_ of swaps", "elements", w.numel(), seconds)
    benchmark.pedantic(plan.project_, rounds=1)


def test_construction(benchmark: Any) -> None:
    o = frames(100_000, 16, 1)
    theta = torch.randn(100_000, 16)
    batched = best(lambda: sf.Plan([(theta, sf.Mirror(o, check=False))]), 0.1, 2)
    flat = theta.view(-1)
    mirrors = [sf.Mirror(o[i], check=False) for i in range(100_000)]
    entries = [(flat[16 * i : 16 * i + 16], m) for i, m in enumerate(mirrors)]
    single = best(lambda: sf.Plan(entries), 0.1, 1)
    note("Plan construction, 100,000 groups",
         one_batched_mirror_s=f"{batched:.3f}", entries_s=f"{single:.2f}")  # fmt: skip
    benchmark.pedantic(lambda: sf.Plan([(theta, sf.Mirror(o, check=False))]), rounds=1)
