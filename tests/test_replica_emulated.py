# SPDX-License-Identifier: Apache-2.0
"""The CUDA replica sweep, run on the CPU by tests/emulation, against the reference."""

import ctypes
import sys
from functools import cache, lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from symfast.reference import replica as reference
from symfast.symmetry import Cluster, Direction, SignFlip, Swap, Symmetry

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
from replica_problems import ACTIVATIONS, RULES, WRITTEN, Call, problem, run_reference  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

POINTERS = (
    "x", "y", "theta", "first", "second", "rates", "schedule", "kind", "seed", "cell", "batch",
    "constraint", "status", "taken", "gradient", "progress", "offsets", "members", "directions",
)  # fmt: skip
#: Sizes of UnitMirrors, ReplicaModel and the sizes behind the pointers: csrc/replica.h.
FIELDS = (
    ("groups", ctypes.c_int64), ("size", ctypes.c_int64), ("rows", ctypes.c_int64),
    ("inputs", ctypes.c_int64), ("hidden", ctypes.c_int64), ("outputs", ctypes.c_int64),
    ("bias", ctypes.c_bool), ("activation", ctypes.c_int64), ("loss", ctypes.c_int64),
    ("rule", ctypes.c_int64), ("samples", ctypes.c_int64), ("kinds", ctypes.c_int64),
    ("replicas", ctypes.c_int64), ("first_step", ctypes.c_int64), ("steps", ctypes.c_int64),
)  # fmt: skip
SHARED, GLOBAL = 100 * 1024, 16 * 1024  # most shared memory: weights fit, or do not


@lru_cache
def library(dtype: torch.dtype, edit: str = "") -> ctypes.CDLL:
    build = emulated.Build(sources=("replica.cpp",), dtype=dtype, edit=edit)
    return ctypes.CDLL(str(build.make()))


def run(
    call: Call, emulator: emulated.Emulator, most_shared: int, cancel: bool = False
) -> dict[str, Tensor]:
    """One sweep in the emulator."""
    tensors: dict[str, Tensor] = {k: v.clone() for k, v in call.items() if isinstance(v, Tensor)}
    tensors["rates"] = torch.stack([call["rates"][name] for name in reference.RATES])
    tensors["gradient"] = torch.full_like(tensors["theta"], torch.nan)
    tensors["progress"] = torch.tensor([0, int(cancel)])
    mirrors = call["mirrors"].to(call["theta"])
    tensors |= {"offsets": mirrors.offsets, "members": mirrors.members}
    tensors |= {"directions": mirrors.directions}
    structure = type(
        "Arguments", (ctypes.Structure,),
        {"_fields_": [*((name, ctypes.c_void_p) for name in POINTERS), *FIELDS]},
    )  # fmt: skip
    emulator.start()
    addresses = [emulator.allow(name, tensors[name]) for name in POINTERS]
    codes = ACTIVATIONS.index(call["activation"]), ("mse", "cross_entropy").index(call["loss"])
    arguments = structure(
        *addresses, len(mirrors.offsets) - 1, len(mirrors.members), len(mirrors.directions),
        call["x"].shape[1], call["hidden"], call["y"].shape[1], call["bias"], *codes,
        RULES.index(call["rule"]), len(call["x"]), len(call["schedule"]), len(call["theta"]), 0,
        call["schedule"].shape[1],
    )  # fmt: skip
    emulator.library.emulated_replica_sweep(ctypes.byref(arguments), ctypes.c_int64(most_shared))
    emulator.check()
    return {name: tensors[name] for name in (*WRITTEN, "progress")}


@cache
def expected(
    sizes: tuple[int, int, int], rule: str, loss: str, activation: str, dtype: torch.dtype
) -> tuple[Call, dict[str, Tensor]]:
    torch.manual_seed(2)
    hidden = sizes[1]
    symmetries: list[Symmetry] = [SignFlip([0])]
    if hidden > 8:
        direction = Direction(torch.randn(hidden, 2, dtype=torch.float64), orthonormalize=True)
        symmetries = [Swap([1], [4]), SignFlip([2]), Cluster([0] * (hidden - 5) + [1] * 5)]
        symmetries += [direction]
    call = problem(3, sizes, dtype, 3, rule, loss, activation, symmetries=symmetries)
    call["batch"] = torch.tensor([8, 21, 0])  # one tile of samples, two, and all 40 in three
    call["constraint"] = torch.tensor([1, 2, 3])
    return call, run_reference(call)


@pytest.mark.parametrize("most_shared", [SHARED, GLOBAL])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("sizes", "rule", "loss", "activation"),
    [
        ((5, 11, 3), "sgd", "mse", "relu"),
        ((1, 1, 1), "adam", "mse", "tanh"),
        ((3, 40, 5), "adamw", "cross_entropy", "identity"),
    ],
)
def test_equals_reference(
    sizes: tuple[int, int, int], rule: str, loss: str, activation: str, dtype: torch.dtype,
    most_shared: int,
) -> None:  # fmt: skip
    """Batches of one and of several tiles, with noise, in every order of threads."""
    call, want = expected(sizes, rule, loss, activation, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for order in emulated.ORDERS:
        got = run(call, emulated.Emulator(library(dtype), order=order), most_shared)
        for name in WRITTEN:
            torch.testing.assert_close(
                got[name], want[name], atol=tolerance, rtol=tolerance, msg=name
            )
        assert got["progress"].tolist() == [9, 0]


def test_diverged_and_cancelled() -> None:
    call = problem(3, (2, 3, 1), torch.float32, 65, noise=False)
    call["batch"] = call["batch"] * 0 + 4
    call["rates"]["lr"][1] = 1e30
    got = run(call, emulated.Emulator(library(torch.float32)), SHARED)
    assert got["status"].tolist() == [0, reference.DIVERGED, 0]
    assert got["taken"].tolist() == [65, 64, 65]
    assert got["theta"][1].isnan().all()
    assert got["theta"][::2].isfinite().all()
    stopped = run(call, emulated.Emulator(library(torch.float32)), SHARED, cancel=True)
    assert stopped["status"].tolist() == [reference.CANCELLED] * 3
    assert torch.equal(stopped["theta"], call["theta"])


@pytest.mark.parametrize(
    "edit",
    [
        "replica.cuh:      m.delta[j * kTileStride + s] =>      m.delta[j * kTileSamples + s] ",
        "replica.cuh:] = target;\n    });\n    __syncthreads();=>] = target;\n    });",
        "replica.cuh:fresh ? T(0)=>!fresh ? T(0)",
        "replica.cuh:start == 0);=>true);",
    ],
)
def test_planted_errors_are_found(edit: str) -> None:
    """A wrong stride, a lost barrier, a sum not begun and one begun twice each show."""
    call, want = expected((5, 11, 3), "sgd", "mse", "relu", torch.float64)
    found = False
    for order in emulated.ORDERS:
        emulator = emulated.Emulator(library(torch.float64, edit), order=order)
        try:
            got = run(call, emulator, SHARED)
        except AssertionError:
            found = True
        else:
            found |= not torch.allclose(got["theta"], want["theta"], atol=1e-9, rtol=0)
    assert found
