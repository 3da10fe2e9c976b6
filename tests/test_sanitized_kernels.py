# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel body under ThreadSanitizer and AddressSanitizer, in a random order of threads.

The calls are recorded here and run by a program: sanitized code cannot be loaded into Python.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
import problems  # noqa: E402
from emulated import COEFFICIENTS, NORMS, PROX  # noqa: E402
from families import FAMILIES  # noqa: E402
from recording import Recording  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

#: prox walks every path that the other verbs walk; they differ in one formula.
VERBS = (PROX, COEFFICIENTS, NORMS)
RANDOM = 2
Run = Callable[[emulated.Emulator, torch.dtype], int]


def record_plans(emulator: emulated.Emulator, dtype: torch.dtype) -> int:
    """Every kind of symmetry, aligned and not; how many calls."""
    for name in problems.PROBLEMS:
        for offset, verb in enumerate(VERBS):
            case = problems.problem(name, dtype, offset % 2)
            emulator.plan(case.part, verb, amounts=case.amounts(), per=1, mirrors=case.plan.mirrors)
        emulator.plan(case.part, NORMS, groups=case.plan.groups, root=True)
    return len(problems.PROBLEMS) * (len(VERBS) + 1)


def record_mirrors(emulator: emulated.Emulator, dtype: torch.dtype) -> int:
    """Functional verbs, frames in shared memory or not, of theta's type or float."""
    shapes = [(5, 3, 16, 2), (40, 1, 64, 4), (2, 7, 33, 5), (1, 20, 1024, 3), (2, 2, 700, 9)]
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    calls = 0
    for groups, rows, d, k in shapes:
        theta = torch.randn(groups, rows, d).to(dtype)
        frames = torch.linalg.qr(torch.randn(groups, d, k)).Q.contiguous()
        amounts = torch.rand(groups, rows).to(wide)
        for of in {dtype, wide}:
            for verb, group, shared in ((PROX, False, 99 * 1024), (PROX, True, 0),
                                        (COEFFICIENTS, False, 99 * 1024),
                                        (NORMS, False, 0)):  # fmt: skip
                emulator.mirror(theta, frames.to(of), verb, amounts=amounts, group=group,
                                most_shared=shared)  # fmt: skip
                calls += 1
    return calls


def record_family(name: str, emulator: emulated.Emulator, dtype: torch.dtype) -> int:
    """Calls of a family, aligned and not in turn."""
    family = FAMILIES[name]
    names = family.sanitized or tuple(family.calls)
    for n, call in enumerate(names):
        family.calls[call](dtype, n % 2).run(emulator)
    return emulator.recording.calls


RECORDS: dict[str, tuple[str, tuple[Run, ...]]] = {
    "plans and mirrors": ("kernels.cpp", (record_plans, record_mirrors)),
} | {name: (f.source, (partial(record_family, name),)) for name, f in FAMILIES.items()}
CASES = [("plans and mirrors", dtype) for dtype in emulated.TYPES]
CASES += [(name, dtype) for name, family in FAMILIES.items() for dtype in family.dtypes]


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize(("family", "dtype"), CASES, ids=str)
def test_kernels_are_clean_under(
    sanitizer: str, family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    source, records = RECORDS[family]
    verbs = VERBS if source == "kernels.cpp" else tuple(range(6))
    program = emulated.Build(
        (source, "program.cpp"), dtype=dtype, sanitizer=sanitizer, program=True, verbs=verbs
    ).make()
    calls = tmp_path / "calls"
    with calls.open("wb") as file:
        emulator = emulated.load(dtype, recording=Recording(file))
        wanted = sum(record(emulator, dtype) for record in records)
        emulator.recording.end()
    code, words = emulated.run_program(program, calls, RANDOM, 1)
    assert code == 0, words[:3000]
    assert f"{wanted} calls" in words


def test_a_lost_barrier_in_a_recorded_call_is_found(tmp_path: Path) -> None:
    """What keeps the tests above from passing for want of looking."""
    edit = "factor_sweep.cuh:__syncthreads();\n      w.swap()=>w.swap()"
    program = emulated.Build(
        ("factor_sweep.cpp", "program.cpp"), sanitizer="thread", program=True, edit=edit
    ).make()
    calls = tmp_path / "calls"
    with calls.open("wb") as file:
        emulator = emulated.load(recording=Recording(file))
        FAMILIES["factor_sweep"].calls["(2, 4, 270)"](torch.float32, 0).run(emulator)
        emulator.recording.end()
    code, words = emulated.run_program(program, calls, RANDOM, 1)
    assert code != 0
    assert "data race" in words
