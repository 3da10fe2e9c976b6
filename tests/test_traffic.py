# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels move, counted by the emulator: every byte once, whole sectors."""

import sys
from pathlib import Path

import pytest
import torch

import symfast as sf
from symfast import chunks

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
import problems  # noqa: E402
from emulated import COEFFICIENTS, NORMS, PROX, REFLECT  # noqa: E402
from families import FAMILIES, STREAMS  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _cut_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU's plans are cut into says nothing of a GPU's blocks."""
    monkeypatch.setitem(chunks.GRAINS, "cpu", chunks.GRAINS["cuda"])


@pytest.mark.parametrize("dtype", list(emulated.TYPES), ids=str)
@pytest.mark.parametrize("verb", [REFLECT, PROX])
@pytest.mark.parametrize("name", list(problems.streaming()))
def test_memory_is_read_once_and_written_once(name: str, verb: int, dtype: torch.dtype) -> None:
    w, entry = problems.streaming(dtype)[name]
    emulator = emulated.load(dtype, count_sectors=True)
    emulator.plan(sf.Plan([entry])._compiled.parts[0], verb, amount=0.3)
    emulator.check()
    assert emulator.totals()["launches"] == 1
    for traffic in emulator.traffic("parameters"):
        assert traffic.bytes <= 1.05 * w.nbytes
        assert traffic.efficiency >= 0.9
        assert traffic.widest == 16


@pytest.mark.parametrize("dtype", list(emulated.TYPES), ids=str)
@pytest.mark.parametrize("verb", [COEFFICIENTS, NORMS])
@pytest.mark.parametrize("name", list(problems.streaming()))
def test_memory_is_read_once(name: str, verb: int, dtype: torch.dtype) -> None:
    w, entry = problems.streaming(dtype)[name]
    emulator = emulated.load(dtype, count_sectors=True)
    plan = sf.Plan([entry])
    part = plan._compiled.parts[0]
    emulator.plan(part, verb, mirrors=plan.mirrors)
    emulator.check()
    assert emulator.totals()["launches"] == 1
    read, _ = emulator.traffic("parameters")
    assert read.bytes <= 1.05 * w.nbytes
    assert read.efficiency >= 0.9
    if verb == COEFFICIENTS:
        _, written = emulator.traffic("out")
        assert written.bytes == part.tables.numel * part.tables.frames.element_size()
        assert written.efficiency >= 0.9


@pytest.mark.parametrize("dtype", list(emulated.TYPES), ids=str)
@pytest.mark.parametrize("verb", range(NORMS + 1))
@pytest.mark.parametrize("name", list(problems.gathered_streams()))
def test_gathered_units_last_ask_for_every_sector_once(
    name: str, verb: int, dtype: torch.dtype
) -> None:
    """Every touched byte once. Where units in between are not touched, sectors hold foreign bytes.

    Then the least is a request of every sector that holds a touched byte.
    """
    w, entry = problems.gathered_streams(dtype)[name]
    plan = sf.Plan([entry])
    part = plan._compiled.parts[0]
    touched = int(part.extent[0, 1]) * w.shape[0] * w.element_size()
    emulator = emulated.load(dtype, count_sectors=True)
    emulator.plan(part, verb, amount=0.3, mirrors=plan.mirrors)
    emulator.check()
    assert emulator.totals()["launches"] == 1
    changed = emulator.traffic("parameters")[: 2 if verb <= PROX else 1]
    for traffic in changed:
        assert traffic.bytes == traffic.distinct == touched
        assert traffic.once >= 0.9
        if touched == w.nbytes:
            assert traffic.efficiency >= 0.9
            assert traffic.widest == 16
    if verb == COEFFICIENTS:
        _, written = emulator.traffic("out")
        assert written.bytes == part.tables.numel * part.tables.frames.element_size()
        assert written.efficiency >= 0.9


@pytest.mark.parametrize("verb", [REFLECT, NORMS])
@pytest.mark.parametrize("name", ["clusters of any four", "any pairs swapped"])
def test_gathered_rows_of_4096_units(name: str, verb: int) -> None:
    w, entry = problems.gathered_streams(torch.float32, 8, 4096)[name]
    plan = sf.Plan([entry])
    emulator = emulated.load(count_sectors=True)
    emulator.plan(plan._compiled.parts[0], verb, mirrors=plan.mirrors)
    emulator.check()
    for traffic in emulator.traffic("parameters")[: 2 if verb == REFLECT else 1]:
        assert traffic.bytes == w.nbytes
        assert traffic.efficiency >= 0.9


def test_norms_of_mirrors_in_several_blocks_take_one_launch() -> None:
    w = torch.randn(2, 200_000)
    plan = sf.Plan([(w, sf.SignFlip())])
    emulator = emulated.load()
    squares = emulator.plan(plan._compiled.parts[0], NORMS, mirrors=plan.mirrors)
    emulator.check()
    assert emulator.totals()["blocks"] > plan.mirrors
    assert emulator.totals()["launches"] == 1
    torch.testing.assert_close(squares, w.double().square().sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("groups", [1, 1000])
def test_one_launch_whatever_the_number_of_groups(groups: int) -> None:
    """Every verb that changes parameters, and norms and coefficients."""
    w = torch.randn(groups * 3, 8)
    plan = sf.Plan([(w, sf.SignFlip([3 * i, 3 * i + 2])) for i in range(groups)])
    emulator = emulated.load()
    for verb in range(NORMS + 1):
        emulator.plan(plan._compiled.parts[0], verb, amount=0.3, mirrors=plan.mirrors)
        emulator.check()
        assert emulator.totals()["launches"] == 1
    norms = emulator.plan(plan._compiled.parts[0], NORMS, groups=groups, root=True)
    emulator.check()
    assert emulator.totals()["launches"] == 1  # sums over groups and roots among it
    torch.testing.assert_close(norms, plan.norms(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("verb", [REFLECT, PROX, COEFFICIENTS, NORMS])
@pytest.mark.parametrize("shape", [(64, 1, 64, 4), (16, 32, 128, 8), (8, 8, 2048, 1)], ids=str)
def test_functional_verbs_read_once_and_write_once(shape: tuple[int, ...], verb: int) -> None:
    groups, rows, d, k = shape
    theta, o = torch.randn(groups, rows, d), problems._frames(groups, d, k).contiguous()
    emulator = emulated.load(count_sectors=True)
    out = emulator.mirror(theta, o, verb, amounts=torch.full((1, 1), 0.3))
    emulator.check()
    assert emulator.totals()["launches"] == 1
    for what, tensor, way in (("theta", theta, 0), ("frames", o, 0), ("out", out, 1)):
        traffic = emulator.traffic(what)[way]
        assert 0 < traffic.bytes <= 1.05 * tensor.numel() * 4, what
        assert traffic.efficiency >= 0.9, what


def test_frames_of_their_own_are_read_once() -> None:
    w = torch.randn(64, 64)
    emulator = emulated.load(count_sectors=True)
    frames = problems._frames(64, 64, 4)
    emulator.plan(sf.Plan([(w, sf.Mirror(frames))])._compiled.parts[0], REFLECT)
    read, _ = emulator.traffic("frames")
    assert read.bytes <= 1.05 * frames.numel() * 4
    assert read.efficiency >= 0.9


@pytest.mark.parametrize(("family", "name"), STREAMS)
def test_families_read_once_and_write_once(family: str, name: str) -> None:
    entry = FAMILIES[family]
    stream = entry.streams[name]()
    emulator = emulated.load(stream.dtype, entry.source, count_sectors=True)
    stream.call.run(emulator)
    emulator.check()
    assert emulator.totals()["launches"] == stream.call.launches
    for way, ideal in enumerate((stream.read, stream.written)):
        for tensors in emulator.names:
            traffic = emulator.traffic(tensors)[way]
            if tensors in ideal:
                assert ideal[tensors] <= traffic.bytes <= 1.05 * ideal[tensors], tensors
                assert traffic.efficiency >= 0.9, tensors
                assert traffic.widest == (8 if tensors in stream.narrow else 16), tensors
            else:  # settings, counters, tables
                assert traffic.distinct <= 4096, tensors
