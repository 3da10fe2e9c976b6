# SPDX-License-Identifier: Apache-2.0
"""Group prox of plans: norms of mirrors and shrinkage, fused."""

import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import symfast as sf
from symfast.codes import PER_MIRROR, SHRINK
from symfast.reference import plan as reference

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
import prox_calls  # noqa: E402
from emulated import NORMS  # noqa: E402
from families import FAMILIES  # noqa: E402
from recording import Recording  # noqa: E402

needs_compiler = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")
SOURCE = FAMILIES["plan_prox_group"].source
NAMES = ["sign_flip", "swap", "cluster", "direction", "mirror", "long", "alone", "alone_dense"]


@lru_cache
def library(edit: str = "") -> emulated.ctypes.CDLL:
    return emulated.load(source=SOURCE, edit=edit).library


def fused(name: str, elements: int, emulator: emulated.Emulator) -> list[torch.Tensor]:
    """The parameters after the verb."""
    case = prox_calls.made(name, torch.float32, 0, elements)
    prox_calls.launch(emulator, case.part, case.plan.mirrors, prox_calls.thresholds_of(case))
    emulator.check()
    return case.tensors()


def two_passes(name: str, elements: int, threads: int) -> list[torch.Tensor]:
    """The same by the kernels of norms and of shrinkage, and torch between them."""
    case = prox_calls.made(name, torch.float32, 0, elements)
    emulator = emulated.load(threads=threads)
    norms = emulator.plan(case.part, NORMS, mirrors=case.plan.mirrors, root=True)
    t = case.plan._compiled.by_mirror(prox_calls.thresholds_of(case)[None])[0]
    amounts = torch.where(norms <= t, 1.0, t / norms).float()
    emulator.plan(case.part, SHRINK, amounts=amounts, per=PER_MIRROR)
    emulator.check()
    return case.tensors()


def equal(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))


#: Orders of blocks, and how many are on the device at once.
TURNS = (("forward", 1), ("reverse", 1), ("random", 2), ("random", 8))


@needs_compiler
@pytest.mark.parametrize("elements", [0, 64])
@pytest.mark.parametrize("name", NAMES)
def test_any_order_of_blocks_gives_the_bits_of_norms_and_shrinkage(
    name: str, elements: int
) -> None:
    wanted = two_passes(name, elements, 64)
    for seed, (order, resident) in enumerate(TURNS):
        emulator = emulated.Emulator(library(), order, seed, 100, threads=64, resident=resident)
        assert equal(fused(name, elements, emulator), wanted)
        assert emulator.totals()["launches"] == 1


@needs_compiler
def test_many_groups_are_one_launch() -> None:
    w = torch.randn(3000, 8)
    plan = sf.Plan([(w, sf.SignFlip([3 * i, 3 * i + 2])) for i in range(1000)])
    emulator = emulated.Emulator(library())
    prox_calls.launch(emulator, plan._compiled.parts[0], plan.mirrors, None, 1.0)
    emulator.check()
    assert emulator.totals()["launches"] == 1


def replays(edit: str, word: int = 0) -> None:
    """Calls that bring the same memory and the same tag again, as those of a captured graph do."""
    case = prox_calls.made("sign_flip", torch.float32, 0, 64)
    workspace = prox_calls.workspace_of(case.part, case.plan.mirrors)
    workspace.view(torch.int64).fill_(word)
    for seed in range(6):
        wanted = prox_calls.expected(case)
        emulator = emulated.Emulator(library(edit), "random", seed, 100, threads=64, resident=3)
        thresholds = prox_calls.thresholds_of(case)
        prox_calls.launch(emulator, case.part, case.plan.mirrors, thresholds, workspace=workspace)
        emulator.check()
        for got, want in zip(case.tensors(), wanted, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("word", [0, -1, emulated.TAG - 1, emulated.TAG + 10**6, 2**63 - 1])
def test_what_was_in_the_workspace_does_not_matter(word: int) -> None:
    replays("", word)


COUNTED = "    count_up(counter_of(a, 1));\n  }\n  __syncthreads();"
TURN = "count_up(counter_of(a, 0))"
BUGS = {
    "swap is a store": "turns.cuh:compare_and_swap(counter.word, found=>store_signal(counter.word",
    "turns by number": f"plan_prox_group.cuh:{TURN}=>a.counters ? blockIdx.x : 0",
    "who waited does not count": f"plan_prox_group.cuh:{COUNTED}=>  }}\n  __syncthreads();",
}


@needs_compiler
@pytest.mark.parametrize("edit", BUGS.values(), ids=list(BUGS))
def test_bugs_planted_in_counts_are_found(edit: str) -> None:
    with pytest.raises(AssertionError):
        replays(edit)


SEEN = "back_off();\n  __threadfence();\n"
SENT = "    __threadfence();\n    count_up"


@needs_compiler
def test_bugs_planted_in_waiting_are_found() -> None:
    """Shrinking before all norms are there."""
    for less in ("count / 2", "count - 1"):
        edit = f"turns.cuh:< count) back_off=>< {less}) back_off"
        wrong = 0
        for seed in range(8):
            wanted = two_passes("swap", 64, 64)
            emulator = emulated.Emulator(library(edit), "random", seed, 100, threads=64, resident=8)
            wrong += not equal(fused("swap", 64, emulator), wanted)
        assert wrong


@needs_compiler
@pytest.mark.parametrize("lost", ["", SEEN, SENT])
def test_a_lost_fence_is_found(lost: str, tmp_path: Path) -> None:
    """By ThreadSanitizer, before a block counts up and after it has waited."""
    edit = f"turns.cuh:{lost}=>{lost.replace('__threadfence();', '')}" if lost else ""
    program = emulated.Build(
        (SOURCE, "program.cpp"), sanitizer="thread", program=True, edit=edit
    ).make()
    calls = tmp_path / "calls"
    with calls.open("wb") as file:
        emulator = emulated.Emulator(library(), recording=Recording(file))
        FAMILIES["plan_prox_group"].calls["sign_flip, cut"](torch.float32, 0).run(emulator)
        emulator.recording.end()
    code, words = emulated.run_program(program, calls, emulated.ORDERS["random"], 1)
    assert (code != 0) == bool(lost), words[:3000]
    assert ("data race" in words) == bool(lost)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_operator_equals_its_reference(name: str, by_group: bool, dtype: torch.dtype) -> None:
    """Where every mirror is in one chunk of a thread, and where not."""
    for elements in (0, 64):
        case, twin = (prox_calls.made(name, dtype, 0, elements) for _ in range(2))
        thresholds = prox_calls.thresholds_of(case) if by_group else None
        torch.ops.symfast.plan_prox_group_(case.tensors(), case.part.key, 0.7, thresholds)
        reference.plan_prox_group_(twin.tensors(), twin.part.tables, 0.7, thresholds)
        eps = 32 * torch.finfo(dtype).eps if dtype != torch.bfloat16 else 0.01
        for got, want in zip(case.tensors(), twin.tensors(), strict=True):
            torch.testing.assert_close(got, want, rtol=eps, atol=eps)


def test_stages_follow_each_other() -> None:
    """The norms of a later entry are those that the entries before have left."""
    w = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    plan = sf.Plan([(w, sf.SignFlip([0])), (w, sf.SignFlip([0]))], overlap="order")
    plan.prox_(1.0, mode="group")
    torch.testing.assert_close(w[0], torch.tensor([3.0, 4.0]) * 3 / 5)
    plan.prox_(2.0, mode="group")
    assert torch.equal(w, torch.zeros(2, 2))


def test_only_parts_that_share_mirrors_take_two_passes() -> None:
    low, high, other = torch.randn(4, 3).bfloat16(), torch.randn(4), torch.randn(4).double()
    plan = sf.Plan([(sf.Units([(low, 0), (high, 0)]), sf.SignFlip()), (other, sf.SignFlip())])
    assert sorted(len(parts) for parts in plan._compiled.sharing) == [1, 2]
    norms = (low.double().square().sum(1) + high.double().square()).sqrt()
    wanted = high.double() * (1 - 0.5 / norms).clamp(min=0)
    plan.prox_(0.5, mode="group")
    torch.testing.assert_close(high.double(), wanted, rtol=1e-6, atol=1e-6)


def test_wrong_thresholds_are_refused() -> None:
    plan = sf.Plan([(torch.ones(3), sf.SignFlip()), (torch.ones(2), sf.SignFlip())])
    part = plan._compiled.parts[0]
    for thresholds in (torch.ones(2), torch.ones(1, dtype=torch.float64)):
        with pytest.raises((RuntimeError, IndexError)):
            torch.ops.symfast.plan_prox_group_(part.tensors, part.key, 0.0, thresholds)
