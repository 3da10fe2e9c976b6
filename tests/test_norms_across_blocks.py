# SPDX-License-Identifier: Apache-2.0
"""Norms of mirrors that lie in several blocks: one launch, whatever the order of the blocks."""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import symfast as sf
from symfast import chunks
from symfast.codes import PER_GROUP
from symfast.reference import plan as reference

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
import problems  # noqa: E402
from emulated import NORMS, TAG  # noqa: E402
from recording import Recording  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

#: Runs of mirrors are added up by warps, or by whole blocks, as plan_sums.h finds it best, or all
#: but the smallest by blocks.
EDITS = {"as it is": "", "by blocks": "plan_sums.h:kWide = 4096=>kWide = 8"}
NAMES = [*problems.PROBLEMS, "long", "one mirror"]
WORDS = {"nan": float("nan"), "zero": 0.0, "one": 1.0}


@pytest.fixture(autouse=True)
def _many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    grain = chunks.GRAINS["cuda"]._replace(elements=64, columns=8)
    monkeypatch.setitem(chunks.GRAINS, "cpu", grain)


@lru_cache
def library(edit: str) -> emulated.ctypes.CDLL:
    return emulated.load(edit=edit).library


def plan_of(name: str) -> sf.Plan:
    """Mirrors in one view or in several, in few chunks or in many."""
    torch.manual_seed(len(name))
    if name == "long":
        units = sf.Units([(torch.randn(640, 128), 1), (torch.randn(128, 3), 0)])
        return sf.Plan([(units, sf.SignFlip()), (torch.randn(3, 5), sf.SignFlip([1]))])
    if name == "one mirror":
        direction = sf.Direction(problems._frames(1, 48, 1)[0])
        return sf.Plan([(sf.Units([(torch.randn(48, 700), 0)]), direction)])
    return problems.problem(name, torch.float32, 1).plan


def norms(plan: sf.Plan, emulator: emulated.Emulator, workspace: torch.Tensor | None = None,
          tag: int = TAG, **how: Any) -> torch.Tensor:  # fmt: skip
    part = plan._compiled.parts[0]
    found = emulator.plan(part, NORMS, mirrors=plan.mirrors, workspace=workspace, tag=tag, **how)
    emulator.check()
    assert emulator.totals()["launches"] == 1
    return found


def flags(workspace: torch.Tensor) -> torch.Tensor:
    return workspace[workspace.numel() // 2 :].view(torch.int64)


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
@pytest.mark.parametrize("name", NAMES)
def test_any_order_of_blocks_gives_the_same_bits(name: str, edit: str) -> None:
    """One after another in every order, and in turns with threads that lose theirs at accesses."""
    plan = plan_of(name)
    part = plan._compiled.parts[0]
    wanted = norms(plan, emulated.Emulator(library(edit)))
    expected = reference.plan_norms(part.tensors, part.tables)
    torch.testing.assert_close(wanted, expected, rtol=1e-5, atol=1e-6)
    for order in emulated.ORDERS:
        assert torch.equal(norms(plan, emulated.Emulator(library(edit), order, seed=3)), wanted)
    wanted = norms(plan, emulated.Emulator(library(edit), threads=64))
    for seed, resident in ((1, 2), (2, 3), (3, 8), (4, 3)):
        emulator = emulated.Emulator(
            library(edit), "random", seed, preempt=100 * seed, threads=64, resident=resident
        )
        assert torch.equal(norms(plan, emulator), wanted)


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
@pytest.mark.parametrize("name", NAMES)
def test_the_launch_finishes_norms_of_groups(name: str, edit: str) -> None:
    """It adds up blocks, mirrors and other launches, and takes the root: the same bits always."""
    plan = plan_of(name)
    part = plan._compiled.parts[0]
    before = torch.rand(plan.groups, dtype=torch.float64)
    how: dict[str, Any] = {"groups": plan.groups, "before": before, "root": True}
    wanted = norms(plan, emulated.Emulator(library(edit)), **how)
    expected = reference.plan_norms(part.tensors, part.tables, before, PER_GROUP, True)
    torch.testing.assert_close(wanted, expected, rtol=1e-5, atol=1e-6)
    for order in emulated.ORDERS:
        assert torch.equal(norms(plan, emulated.Emulator(library(edit), order, 3), **how), wanted)
    wanted = norms(plan, emulated.Emulator(library(edit), threads=64), **how)
    for seed, resident in ((1, 2), (2, 8)):
        emulator = emulated.Emulator(
            library(edit), "random", seed, preempt=100 * seed, threads=64, resident=resident
        )
        assert torch.equal(norms(plan, emulator, **how), wanted)


@pytest.mark.parametrize("name", ["sign_flip", "mirror", "one mirror"])
def test_roots_of_mirrors_and_of_sums_that_went_before(name: str) -> None:
    """Also where the partial sums are the norms already."""
    plan = plan_of(name)
    part = plan._compiled.parts[0]
    before = torch.rand(plan.mirrors, dtype=torch.float64)
    got = norms(plan, emulated.Emulator(library("")), before=before, root=True)
    expected = reference.plan_norms(part.tensors, part.tables, before, root=True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("word", WORDS.values(), ids=list(WORDS))
@pytest.mark.parametrize("name", ["swap", "long", "one mirror"])
def test_what_was_in_the_workspace_does_not_matter(name: str, word: float) -> None:
    """Nor do the flags of another call, nor a replay, which brings the same tag again."""
    plan = plan_of(name)
    part = plan._compiled.parts[0]
    emulator = emulated.Emulator(library(""), "random", preempt=100, resident=3)
    wanted = norms(plan, emulator)
    workspace = emulated.workspace_of(part).fill_(word)
    assert torch.equal(norms(plan, emulator, workspace), wanted)
    flags(workspace).fill_(TAG - 2)
    for seed in range(3):
        emulator.seed = seed
        part.tensors[0].mul_(-1)  # what a replay finds there has changed
        part.tensors[0].view(-1)[seed] += 1
        got = norms(plan, emulator, workspace)
        expected = reference.plan_norms(part.tensors, part.tables)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        assert not (flags(workspace) == TAG).any()


def wrong_answers(edit: str, replays: int = 1) -> int:
    """Of many orders of the blocks, those that leave a wrong norm, or none, or a flag."""
    plan = plan_of("one mirror")
    part = plan._compiled.parts[0]
    wrong = 0
    for seed in range(12):
        workspace = emulated.workspace_of(part)
        for replay in range(replays):
            emulator = emulated.Emulator(
                library(edit), "random", 5 * seed + replay, 100, threads=32, resident=4
            )
            part.tensors[0].add_(1)
            got = norms(plan, emulator, workspace)
            expected = reference.plan_norms(part.tensors, part.tables)
            right = torch.allclose(got, expected, rtol=1e-5)
            wrong += not right or bool((flags(workspace) == TAG).any())
    return wrong


STORED = "a.tag);\n  }\n  __threadfence();"
LOOKED = "if (missing[0] > 0) return false;\n  __threadfence();\n"
ANNOUNCED = "if (first >= end) return;\n  __threadfence();\n"
CLEARED = "store_signal(a.flags + part, int64_t{0});"
ALL = "load_signal(a.flags + part) != a.tag};"


def test_bugs_planted_in_the_protocol_are_found() -> None:
    """Flags that are stored late, read in part or left behind."""
    assert wrong_answers("", replays=2) == 0
    assert wrong_answers(f"plan_sums.cuh:{STORED}=>a.tag);\n  }}") > 0
    assert wrong_answers(f"plan_sums.cuh:{ALL}=>false}};") > 0
    assert wrong_answers(f"plan_sums.cuh:{CLEARED}=>(void)part;") > 0


@pytest.mark.parametrize("lost", ["", LOOKED, ANNOUNCED])
def test_a_lost_fence_is_found(lost: str, tmp_path: Path) -> None:
    """By ThreadSanitizer: parts are read that nothing says are there."""
    edit = f"plan_sums.cuh:{lost}=>{lost.replace('__threadfence();', '')}" if lost else ""
    program = emulated.Build(
        ("kernels.cpp", "program.cpp"), sanitizer="thread", program=True, edit=edit, verbs=(NORMS,)
    ).make()
    calls = tmp_path / "calls"
    with calls.open("wb") as file:
        emulator = emulated.load(recording=Recording(file))
        for name in ("swap", "one mirror"):
            plan = plan_of(name)
            emulator.plan(plan._compiled.parts[0], NORMS, mirrors=plan.mirrors)
            emulator.plan(plan._compiled.parts[0], NORMS, groups=plan.groups, root=True)
        emulator.recording.end()
    code, words = emulated.run_program(program, calls, emulated.ORDERS["random"], 1)
    assert (code != 0) == bool(lost), words[:3000]
    assert ("data race" in words) == bool(lost)
