# SPDX-License-Identifier: Apache-2.0
"""The CUDA sweep kernels, run on the CPU by tests/emulation, against the reference."""

import ctypes
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from symfast.reference.factor_sweep import CANCELLED, DIVERGED, factor_sweep

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
from sweep_calls import problem, run  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")


@lru_cache
def library(dtype: torch.dtype, edit: str = "") -> ctypes.CDLL:
    build = emulated.Build(sources=("factor_sweep.cpp",), dtype=dtype, edit=edit)
    return ctypes.CDLL(str(build.make()))


def expected(x: dict[str, Tensor], steps: int, tol: float) -> dict[str, Tensor]:
    order = ("gram", "linear", "factors", "velocity", "depth", "factored", "lr", "momentum", "lam")
    progress, schedule = torch.zeros(2, dtype=torch.int64), x["schedule"][:, :steps]
    tables = schedule, x["kind"], x["group"]
    found = factor_sweep(*(x[k] for k in order), *tables, tol, 10, progress)
    names = ("weight", "factors", "velocity", "steps_used", "residual", "status")
    return dict(zip(names, found, strict=True)) | {"progress": progress}


@pytest.mark.parametrize("order", list(emulated.ORDERS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("replicas", "slots", "d"),
    [(1, 2, 1), (33, 4, 13), (7, 6, 3), (9, 3, 32), (5, 1, 8), (3, 2, 40), (2, 4, 270)],
)
def test_equals_reference(
    replicas: int, slots: int, d: int, dtype: torch.dtype, order: str
) -> None:
    """Teams of every size and whole blocks, some converging early, one with d of two strides."""
    x, steps = problem(replicas, slots, d, dtype), 15 if d > 100 else 45
    got = run(x, steps, 1e-2, emulated.Emulator(library(dtype), order=order))
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    for name, want in expected(x, steps, 1e-2).items():
        torch.testing.assert_close(got[name], want, atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("replicas", "slots", "d"), [(5, 2, 1), (3, 4, 13), (2, 6, 40), (2, 2, 270)]
)
def test_gates_equal_reference(replicas: int, slots: int, d: int, dtype: torch.dtype) -> None:
    x, steps = problem(replicas, slots, d, dtype, gated=True), 15 if d > 100 else 45
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    for order in emulated.ORDERS:
        got = run(x, steps, 1e-2, emulated.Emulator(library(dtype), order=order))
        for name, want in expected(x, steps, 1e-2).items():
            torch.testing.assert_close(got[name], want, atol=tolerance, rtol=tolerance, msg=name)
    gates = got["factors"][:, 1:]
    assert torch.equal(gates, gates.index_select(2, x["group"]))


@pytest.mark.parametrize("d", [10, 40])
def test_diverged_and_cancelled(d: int) -> None:
    x, emulator = problem(5, 2, d, torch.float32), emulated.Emulator(library(torch.float32))
    x["lr"][2], x["depth"][2] = 1e3, 2
    got, want = run(x, 40, 0.0, emulator), expected(x, 40, 0.0)
    assert got["status"].tolist() == want["status"].tolist()
    assert got["status"][2] == DIVERGED
    keep = torch.arange(5) != 2
    torch.testing.assert_close(got["weight"][keep], want["weight"][keep], atol=3e-5, rtol=3e-5)
    stopped = run(x, 40, 0.0, emulator, cancel=True)
    assert set(stopped["status"].tolist()) == {CANCELLED}
    assert stopped["steps_used"].tolist() == [0] * 5
    assert torch.equal(stopped["factors"], x["factors"])
    assert stopped["progress"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("edit", "d"),
    [
        ("factor_sweep.cuh:__syncthreads();\n      T* const swapped=>T* const swapped", 270),
        ("factor_sweep.cuh:lane < a.d;=>true;", 10),
        ("factor_sweep.cuh:  }\n  __syncthreads();\n  for=>  }\n  for", 271),
        ("factor_sweep.cuh:lane ^ j;=>j;", 10),
    ],
)
def test_planted_errors_are_found(edit: str, d: int) -> None:
    """A lost barrier, an overrun and a wrong partner each show."""
    x = problem(3, 2, d, torch.float64, gated=d == 271)
    want = expected(x, 15, 0.0)
    found = False
    for order in emulated.ORDERS:
        emulator = emulated.Emulator(library(torch.float64, edit), order=order)
        try:
            got = run(x, 15, 0.0, emulator)
        except AssertionError:
            found = True
        else:
            found |= not torch.allclose(got["weight"], want["weight"], atol=1e-9, rtol=0)
    assert found
