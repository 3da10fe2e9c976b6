# SPDX-License-Identifier: Apache-2.0
"""The CUDA step kernels, run on the CPU by tests/emulation, against the reference."""

import ctypes
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from update_problems import STEPS, arguments, changed, expected

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

UNITS = {torch.float64: 60, torch.float32: 60, torch.bfloat16: 1.01, torch.float16: 1.01}
SHAPES = [(3, 5), (1,), (40, 30), (0,), (129,)]
WORDS = 7


@lru_cache
def library(dtype: torch.dtype, edit: str = "") -> ctypes.CDLL:
    return ctypes.CDLL(str(emulated.Build(sources=("update.cpp",), dtype=dtype, edit=edit).make()))


def shifted(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """A copy that starts ``by`` elements into its storage."""
    store = torch.full((tensor.numel() + by,), torch.nan, dtype=tensor.dtype)
    return store[by:].view(tensor.shape).copy_(tensor)


def run(
    given: list[Any], emulator: emulated.Emulator, offset: int = 0, inf: float | None = None
) -> list[Any]:
    rule, *lists, settings, keys = given
    lists = [[shifted(t, offset) for t in x] for x in lists[:4]] + [[t.clone() for t in lists[4]]]
    params, n = lists[0], len(lists[0])
    emulator.start()
    words: list[int] = []
    names = ("params", "grads", "first", "second", "steps")
    for t in range(n):
        for name, x in zip(names, lists, strict=True):
            words.append(emulator.allow(name, x[t]) if x and x[t].numel() else 0)
        words += [params[t].numel(), 0]
    found = None if inf is None else torch.tensor(inf)
    table = torch.zeros(n * WORDS, dtype=torch.int64)
    pointers = [emulator.allow("settings", settings), emulator.allow("keys", keys), 0,
                emulator.allow("found_inf", found)]  # fmt: skip
    emulator.library.emulated_update(
        *map(ctypes.c_int64, (rule, len(lists[4]), len(settings))),
        *map(ctypes.c_void_p, pointers), (ctypes.c_int64 * len(words))(*words), ctypes.c_int64(n),
        ctypes.c_void_p(emulator.allow("table", table)),
    )  # fmt: skip
    return [rule, *lists, settings, keys]


def close(got: list[Any], wanted: list[Any]) -> bool:
    for g, w in zip(changed(got), changed(wanted), strict=True):
        error = (g.double() - w.double()).abs() / (1 + w.double().abs())
        if not bool((error <= UNITS.get(g.dtype, 0) * torch.finfo(g.dtype).eps).all()):
            return False
    return True


@pytest.mark.parametrize(
    ("dtype", "offset"), [*((dtype, 0) for dtype in emulated.TYPES), (torch.float32, 1)]
)
@pytest.mark.parametrize("name", list(STEPS))
def test_equals_reference(name: str, dtype: torch.dtype, offset: int) -> None:
    given = arguments(name, dtype, SHAPES)
    emulator = emulated.Emulator(library(dtype))
    got = run(given, emulator, offset)
    emulator.check()
    assert close(got, expected(given))


def test_many_tensors_in_a_device_table() -> None:
    given = arguments("adamw", torch.float32, [(5, 3)] * 70 + [(9000,)])
    emulator = emulated.Emulator(library(torch.float32), order="reverse")
    got = run(given, emulator)
    emulator.check()
    assert close(got, expected(given))


def test_skips_on_the_device() -> None:
    given = arguments("adamw", torch.float32, SHAPES)
    emulator = emulated.Emulator(library(torch.float32))
    got = run(given, emulator, inf=1.0)
    emulator.check()
    for g, w in zip(changed(got), changed(given), strict=True):
        assert torch.equal(g, w)


def test_moves_only_what_it_must() -> None:
    """AdamW: 28 bytes a float32 weight, whole sectors, two launches."""
    given = arguments("adamw", torch.float32, [(64, 1024)])
    emulator = emulated.Emulator(library(torch.float32), count_sectors=True)
    run(given, emulator)
    emulator.check()
    assert emulator.totals()["launches"] == 2
    ideal = 4 * 64 * 1024
    for name, stores in (("params", ideal), ("grads", 0), ("first", ideal), ("second", ideal)):
        loaded, stored = emulator.traffic(name)
        assert (loaded.bytes, stored.bytes) == (ideal, stores)
        assert loaded.sectors * 32 == ideal


@pytest.mark.parametrize(
    "edit",
    [
        "update.cuh:  __syncthreads();\n  const StepScalars s=>  const StepScalars s",
        "update.cuh:if (element < at.end)=>if (true)",
        "update.cuh:i < at.end; i += kBlock=>i <= at.end; i += kBlock",
        "update.cuh:r.step}, uint64_t(b));=>r.step}, uint64_t(b / 2));",
        "update.cuh:A(anchor_of(r, i)), A(0)=>A(anchor_of(r, i + 1)), A(0)",
    ],
)
def test_planted_errors_are_found(edit: str) -> None:
    """A lost barrier, two overruns, a wrong block and a wrong element each show."""
    given = arguments("adamw anchor noise", torch.float32, SHAPES)
    if "i <=" in edit:
        given = arguments("adamw", torch.float32, SHAPES)
    if "i + 1" in edit:
        given = arguments("sgd anchor", torch.float32, SHAPES)
    found = False
    for order in emulated.ORDERS:
        emulator = emulated.Emulator(library(torch.float32, edit), order=order)
        got = run(given, emulator)
        found |= bool(emulator.messages()) or not close(got, expected(given))
    assert found
