# SPDX-License-Identifier: Apache-2.0
"""Gathered units that lie last: the CUDA kernels take whole rows through shared memory."""

import sys
from functools import lru_cache
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
VERBS = [REFLECT, PROJECT, SHRINK, PROX, COEFFICIENTS, NORMS]
STREAMS = list(problems.gathered_streams())
#: Straight access has whole sectors of float32 here, or what is touched of them.
IN_ORDER = ("every other unit", "runs of eight swapped")
#: The same kernels without a stage.
STRAIGHT = "plan.cuh:if (mirrors > 0) return=>if (mirrors < 0) return"


@pytest.fixture(autouse=True)
def _cut_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.GRAINS, "cpu", chunks.GRAINS["cuda"])


@lru_cache
def straight() -> emulated.Emulator:
    return emulated.load(edit=STRAIGHT, count_sectors=True)


def run(
    emulator: emulated.Emulator, w: torch.Tensor, symmetry: object, verb: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the verb returned, or left in a copy of w; and the same of the reference."""
    mine, wanted = w.clone(), w.clone()
    part, other = (
        sf.Plan([(sf.Units([(x, 1)]), symmetry)])._compiled.parts[0] for x in (mine, wanted)
    )
    mirrors = len(symmetry.mirrors(w.shape[1]))
    amounts = torch.linspace(0.1, 0.8, mirrors, dtype=torch.float64).to(part.accumulate)
    got = emulator.plan(part, verb, amounts=amounts, per=2, mirrors=mirrors)
    emulator.check()
    if verb == COEFFICIENTS:
        return got, reference.plan_coefficients(other.tensors, other.tables)
    if verb == NORMS:
        return got, reference.plan_norms(other.tensors, other.tables)
    reference.plan_apply_(other.tensors, other.tables, verb, 0.0, amounts, 2)
    return mine, wanted


def close(got: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    # a half type rounds what float32 has found; two ways to find it may round apart
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), wanted.double(), rtol=8 * eps, atol=16 * eps)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("shape", [(70, 64), (33, 61), (5, 4096)], ids=str)
@pytest.mark.parametrize("name", STREAMS)
def test_the_bits_are_those_of_straight_access(
    name: str, shape: tuple[int, int], verb: int
) -> None:
    """Norms too: sums have the same order."""
    w, (_, symmetry) = problems.gathered_streams(torch.float32, *shape)[name]
    got, _ = run(emulated.load(), w, symmetry, verb)
    want, _ = run(straight(), w, symmetry, verb)
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in IN_ORDER])
def test_straight_access_uses_parts_of_sectors(name: str) -> None:
    """What the stage is for, and that the edit above takes it away; units in order need none."""
    w, (_, symmetry) = problems.gathered_streams()[name]
    emulator = straight()
    run(emulator, w, symmetry, REFLECT)
    read, written = emulator.traffic("parameters")
    assert max(read.once, written.once) < 0.6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("verb", VERBS)
def test_rows_wider_than_shared_memory(verb: int, dtype: torch.dtype) -> None:
    """In tiles of mirrors where those lie close together, straight from memory elsewhere."""
    units = 48_000 // dtype.itemsize  # of more than 40 KB
    w = torch.randn(3, units, dtype=torch.float64).to(dtype)
    near = sf.Cluster([i // 4 for i in range(units)])
    apart = sf.Swap(range(0, units // 2, 3), range(units // 2, units, 3))
    for symmetry in (near, apart, sf.SignFlip(range(1, units, 2))):
        emulator = emulated.load(dtype, count_sectors=True)
        close(*run(emulator, w, symmetry, verb), dtype)
        if symmetry is not apart:
            assert emulator.traffic("parameters")[0].once >= 0.9
