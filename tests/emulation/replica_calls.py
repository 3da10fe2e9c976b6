# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA replica sweep."""

import ctypes
from functools import partial
from typing import Any

import emulated
import torch
from family import Call, Family, Tensors, structure, untouched
from replica_problems import ACTIVATIONS, RULES, WRITTEN, problem, run_reference
from torch import Tensor

from symfast.reference import replica as reference
from symfast.symmetry import Cluster, Direction, SignFlip, Swap, Symmetry

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
Arguments = structure([*((name, ctypes.c_void_p) for name in POINTERS), *FIELDS])
SHARED, GLOBAL = 100 * 1024, 16 * 1024  # most shared memory: weights fit, or do not


def launch(call: dict[str, Any], tensors: Tensors, emulator: emulated.Emulator, most: int) -> None:
    """One sweep on the tensors given; the rest of the call are numbers and words."""
    emulator.start()
    codes = ACTIVATIONS.index(call["activation"]), ("mse", "cross_entropy").index(call["loss"])
    arguments = Arguments(
        *(emulator.allow(name, tensors[name]) for name in POINTERS),
        len(tensors["offsets"]) - 1, len(tensors["members"]), len(tensors["directions"]),
        call["x"].shape[1], call["hidden"], call["y"].shape[1], call["bias"], *codes,
        RULES.index(call["rule"]), len(call["x"]), len(call["schedule"]), len(tensors["theta"]), 0,
        call["schedule"].shape[1],
    )  # fmt: skip
    emulator.call("emulated_replica_sweep", arguments, most)


def operands(call: dict[str, Any]) -> Tensors:
    """Copies of what the kernel gets, scratch memory and a counter of progress."""
    tensors: Tensors = {k: v.clone() for k, v in call.items() if isinstance(v, Tensor)}
    tensors["rates"] = torch.stack([call["rates"][name] for name in reference.RATES])
    tensors["gradient"] = torch.full_like(tensors["theta"], torch.nan)
    tensors["progress"] = torch.zeros(2, dtype=torch.int64)
    mirrors = call["mirrors"].to(call["theta"])
    tensors |= {"offsets": mirrors.offsets, "members": mirrors.members}
    tensors["directions"] = mirrors.directions
    return tensors


def widened(call: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in float64."""

    def wide(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: wide(v) for k, v in x.items()}
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    return {name: wide(x) for name, x in call.items()}


def call(
    sizes: tuple[int, int, int], rule: str, loss: str, activation: str, most: int,
    dtype: torch.dtype, offset: int,
) -> Call:  # fmt: skip
    """Three replicas for three steps, with noise and mirrors: batches of one, two, three tiles."""
    torch.manual_seed(2)
    hidden = sizes[1]
    symmetries: list[Symmetry] = [SignFlip([0])]
    if hidden > 8:
        direction = Direction(torch.randn(hidden, 2, dtype=torch.float64), orthonormalize=True)
        symmetries = [Swap([1], [4]), SignFlip([2]), Cluster([0] * (hidden - 5) + [1] * 5)]
        symmetries += [direction]
    given = problem(3, sizes, dtype, 3, rule, loss, activation, symmetries=symmetries)
    given["batch"] = torch.tensor([8, 21, 0])
    given["constraint"] = torch.tensor([1, 2, 3])

    def run(emulator: emulated.Emulator) -> Tensors:
        tensors = operands(given)
        if offset:
            tensors = {k: torch.cat([v.reshape(-1)[:1], v.reshape(-1)])[1:].view_as(v)
                       if v.numel() else v for k, v in tensors.items()}  # fmt: skip
        launch(given, tensors, emulator, most)
        return {name: tensors[name] for name in (*WRITTEN, "progress")}

    return Call(run, lambda: run_reference(widened(given)) | {"progress": torch.tensor([9, 0])}, 2)


def huge() -> Call:
    """So many replicas that their weights are 2^31 numbers; the last one's are looked at."""
    torch.manual_seed(2)
    given = problem(1, (64, 250, 1), torch.float32, 1)
    given["batch"] = torch.tensor([4])
    rows = 2**31 // given["theta"].shape[1] + 2

    def run(emulator: emulated.Emulator) -> Tensors:
        one = operands(given)
        alone = ("x", "y", "schedule", "progress", "offsets", "members", "directions")
        tensors = {name: one[name] for name in alone}
        tensors["rates"] = untouched(len(one["rates"]), rows, dtype=torch.float32)
        tensors["rates"][:, -1:] = one["rates"]
        for name in POINTERS:
            if name not in tensors:
                shape = (rows, *one[name].shape[1:])
                tensors[name] = untouched(*shape, dtype=one[name].dtype)
                tensors[name][-1:] = one[name]
        launch(given, tensors, emulator, GLOBAL)
        return {name: tensors[name][-1:] for name in WRITTEN}

    return Call(run, lambda: run_reference(widened(given)))


NETWORKS = (
    ((5, 11, 3), "sgd", "mse", "relu"),
    ((1, 1, 1), "adam", "mse", "tanh"),
    ((3, 40, 5), "adamw", "cross_entropy", "identity"),
)
FAMILY = Family(
    source="replica.cpp",
    dtypes=(torch.float64, torch.float32),
    calls={
        f"{' '.join(map(str, n[1:]))}, {where}": partial(call, *n, most)
        for n in NETWORKS
        for where, most in (("shared", SHARED), ("global", GLOBAL))
    },
    tolerance={torch.float64: 5000, torch.float32: 100},
    planted=(
        ("replica.cuh:      m.delta[j * kTileStride + s] =>"
         "      m.delta[j * kTileSamples + s] ", "sgd mse relu, shared"),
        ("replica.cuh:] = target;\n    });\n    __syncthreads();=>] = target;\n    });",
         "sgd mse relu, shared"),
        ("replica.cuh:fresh ? T(0)=>!fresh ? T(0)", "sgd mse relu, shared"),
        ("replica.cuh:start == 0);=>true);", "sgd mse relu, global"),
    ),
    huge=huge,
    sanitized=("sgd mse relu, shared", "adam mse tanh, shared",
               "adamw cross_entropy identity, shared", "sgd mse relu, global"),
)  # fmt: skip
