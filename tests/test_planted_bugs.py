# SPDX-License-Identifier: Apache-2.0
"""The test of the emulator: every kind of bug, planted, is found by what is there to find it."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
import problems  # noqa: E402
from emulated import PROX  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

PLANTED = [
    "sound", "missing_barrier", "missing_second_barrier", "divergent_barrier",
    "barrier_after_return", "unwritten_shared", "load_behind_end", "misaligned_pack",
    "shared_overrun", "shuffle_in_branch", "missing_warp_sync", "blocks_race",
]  # fmt: skip


def planted_program(sanitizer: str) -> Path:
    return emulated.Build(
        ("planted.cpp", "planted_program.cpp"), sanitizer=sanitizer, program=True
    ).make()


@pytest.mark.parametrize(("bug", "words"), [
    ("divergent_barrier", "divergent barrier"),
    ("barrier_after_return", "threads never reach"),
    ("load_behind_end", "out of bounds: 16-byte load"),
    ("misaligned_pack", "misaligned 16-byte"),
    ("shared_overrun", "shared memory overrun"),
    ("shuffle_in_branch", "deadlock"),
])  # fmt: skip
def test_plain_emulator_finds(bug: str, words: str) -> None:
    argument = {"misaligned_pack": 1}.get(bug, 0)
    emulator = planted_emulator()
    emulator.start()
    source, out = torch.ones(257)[argument:], torch.zeros(256)
    emulator.allow("in", source)
    emulator.allow("out", out)
    emulator.library.run_planted(PLANTED.index(bug), source.data_ptr(), out.data_ptr(), 256, 1)
    assert words in " ".join(emulator.messages())


def planted_emulator(**settings: object) -> emulated.Emulator:
    library = ctypes.CDLL(str(emulated.Build(("planted.cpp",)).make()))
    number, address = ctypes.c_int, ctypes.c_void_p
    library.run_planted.argtypes = [number, address, address, number, number]
    return emulated.Emulator(library, **settings)


def test_orders_and_poison_find() -> None:
    def results(bug: str) -> list[torch.Tensor]:
        found = []
        for order in emulated.ORDERS:
            emulator = planted_emulator(order=order)
            emulator.start()
            source, out = torch.arange(256.0), torch.zeros(256)
            emulator.allow("in", source)
            emulator.allow("out", out)
            emulator.library.run_planted(
                PLANTED.index(bug), source.data_ptr(), out.data_ptr(), 256, 2
            )
            found.append(out)
        return found

    assert all(torch.equal(out, torch.arange(256.0).flip(0)) for out in results("sound"))
    for bug in ("missing_barrier", "blocks_race"):
        first, *others = results(bug)
        assert not all(torch.equal(first, out) for out in others)
    assert results("unwritten_shared")[0].isnan().any()


@pytest.mark.parametrize(("sanitizer", "bugs"), [
    ("thread", ["missing_barrier", "missing_second_barrier", "missing_warp_sync", "blocks_race"]),
    ("address", ["shared_overrun"]),
])  # fmt: skip
def test_sanitizers_find(sanitizer: str, bugs: list[str]) -> None:
    program = planted_program(sanitizer)
    code, words = emulated.run_program(program, PLANTED.index("sound"), 0, 1)
    assert code == 0, words
    for bug in bugs:
        blocks = 2 if bug == "blocks_race" else 1
        code, words = emulated.run_program(program, PLANTED.index(bug), 0, blocks)
        assert code != 0
        assert "Sanitizer" in words, bug


@pytest.mark.parametrize(("name", "edit"), [
    ("mirror", "dense_frames.cuh:one_frame ? 1 : outers, pitch);\n      __syncthreads();=>"
               "one_frame ? 1 : outers, pitch);"),
    ("swap", "plan_index.cuh:(line.b) == head;=>(line.b) < 99;"),
    ("cluster", "plan_cluster.cuh:kept[i * blockDim.x + threadIdx.x] = pack=>"
                "kept[i * blockDim.x] = pack"),
    ("gathered", "plan_gathered.cuh:__syncthreads();\n    if constexpr (verb == kNorms) {=>"
                 "if constexpr (verb == kNorms) {"),
    ("gathered", "plan_gathered.cuh:__syncthreads();\n    if (tile.packs) {\n      store_rows=>"
                 "if (tile.packs) {\n      store_rows"),
    ("gathered", "plan_staged.cuh:< batch.rows && place=><= batch.rows && place"),
])  # fmt: skip
def test_bugs_planted_in_the_kernels_are_found(name: str, edit: str) -> None:
    """Missing barriers, packs at odd addresses, threads that share a place, a row too many."""
    wanted = problems.expected(problems.problem(name, torch.float32), PROX)
    library = ctypes.CDLL(str(emulated.Build(edit=edit, verbs=(PROX,)).make()))
    found = False
    for order in emulated.ORDERS:
        case = problems.problem(name, torch.float32)
        broken = emulated.Emulator(library, order=order)
        broken.plan(case.part, PROX, amounts=case.amounts(), per=1)
        found |= bool(broken.messages())
        found |= any(
            not (got - want).abs().max() < 1e-3
            for got, want in zip(case.tensors(), wanted, strict=True)
        )
    assert found
