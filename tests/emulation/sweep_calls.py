# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA sweeps of product factors."""

import ctypes
from functools import partial

import emulated
import torch
from family import Call, Family, Tensors, structure, untouched

from symfast.reference.factor_sweep import factor_sweep

POINTERS = (
    "gram", "linear", "factored", "depth", "lr", "momentum", "lam", "schedule", "kind", "group",
    "weight", "factors", "velocity", "steps_used", "residual", "status", "progress",
)  # fmt: skip
SIZES = ("kinds", "replicas", "d", "max_depth", "steps", "check_every")
WRITTEN = ("weight", "factors", "velocity", "steps_used", "residual", "status")
SHARED = 48 * 1024


def problem(replicas: int, slots: int, d: int, dtype: torch.dtype, gated: bool = False) -> Tensors:
    """Random depths, rates and two schedules of 200 steps; gated in groups of about three."""
    X = torch.randn(4 * d + 1, d, dtype=torch.float64)
    x = {
        "gram": X.T @ X / len(X),
        "linear": torch.randn(d, dtype=torch.float64),
        "lr": 0.02 * torch.rand(replicas, dtype=torch.float64),
        "momentum": 0.9 * torch.rand(replicas, dtype=torch.float64),
        "lam": torch.rand(replicas, dtype=torch.float64),
        "factors": 0.5 + 0.5 * torch.randn(replicas, slots, d, dtype=torch.float64),
        "velocity": 0.01 * torch.randn(replicas, slots, d, dtype=torch.float64),
    }
    x = {name: value.to(dtype) for name, value in x.items()}
    x["factored"] = torch.rand(d) > 0.3
    x["depth"] = torch.randint(1, slots + 1, (replicas,))
    x["schedule"] = torch.stack([torch.ones(200), torch.linspace(2, 0, 200)]).to(dtype)
    x["kind"] = torch.arange(replicas) % 2
    x["group"] = torch.zeros(0, dtype=torch.int64)
    if gated:
        begins = torch.rand(d) < 0.3
        begins |= ~x["factored"] | ~x["factored"].roll(1) | (torch.arange(d) == 0)
        x["group"] = torch.where(begins, torch.arange(d), 0).cummax(0).values
        gates = x["factors"][:, 1:].index_select(2, x["group"])
        x["factors"] = torch.cat([x["factors"][:, :1], gates], 1)
        x["velocity"][:, 1:] = 0
    return x


def launch(x: Tensors, steps: int, tol: float, emulator: emulated.Emulator) -> None:
    """One sweep on the tensors given."""
    (replicas, slots, d), dtype = x["factors"].shape, x["factors"].dtype
    kind = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
    fields = [(name, ctypes.c_void_p) for name in POINTERS]
    fields += [(name, ctypes.c_int64) for name in SIZES]
    emulator.start()
    schedule = x["schedule"][:, :steps].contiguous()
    pointed = x | {"schedule": schedule}
    addresses = [emulator.allow(name, pointed[name]) for name in POINTERS]
    if len(x["group"]) == 0:
        addresses[POINTERS.index("group")] = 0
    sizes = len(schedule), replicas, d, slots, steps, 10
    call = structure([*fields, ("tol", kind)])(*addresses, *sizes, tol)
    emulator.call("emulated_factor_sweep", call, SHARED)


def run(
    x: Tensors, steps: int, tol: float, emulator: emulated.Emulator, cancel: bool = False
) -> Tensors:
    """One sweep on copies; outputs start as NaN."""
    replicas, _, d = x["factors"].shape
    x = {name: value.clone() for name, value in x.items()}
    x |= {"weight": x["lr"].new_full((replicas, d), torch.nan), "residual": x["lr"] * torch.nan}
    x |= {"steps_used": x["depth"] * 0 - 1, "status": x["depth"] * 0 - 1}
    x["progress"] = torch.tensor([0, int(cancel)])
    launch(x, steps, tol, emulator)
    return x


def expected(x: Tensors, steps: int, tol: float) -> Tensors:
    """The same by the reference."""
    order = ("gram", "linear", "factors", "velocity", "depth", "factored", "lr", "momentum", "lam")
    progress, schedule = torch.zeros(2, dtype=torch.int64), x["schedule"][:, :steps]
    tables = schedule, x["kind"], x["group"]
    found = factor_sweep(*(x[k] for k in order), *tables, tol, 10, progress)
    return dict(zip(WRITTEN, found, strict=True)) | {"progress": progress}


def widened(x: Tensors) -> Tensors:
    """The same numbers in float64."""
    return {k: v.double() if v.is_floating_point() else v for k, v in x.items()}


def call(
    shape: tuple[int, int, int], steps: int, dtype: torch.dtype, offset: int, lr: float = 0,
    gated: bool = False,
) -> Call:  # fmt: skip
    """Replicas, slots and weights of each; a large ``lr`` for the third replica, which diverges."""
    torch.manual_seed(sum(shape))
    x = problem(*shape, dtype, gated)
    if lr:
        x["lr"][2], x["depth"][2] = lr, 2
    for name in POINTERS:
        if offset and name in x and x[name].numel():
            x[name] = torch.cat([x[name].reshape(-1)[:1], x[name].reshape(-1)])[1:].view_as(x[name])
    tol = 0.0 if lr else 1e-2
    wanted = WRITTEN if not lr else ("status", "steps_used")
    return Call(
        partial(run, x, steps, tol),
        lambda: {k: v for k, v in expected(widened(x), steps, tol).items() if k in wanted},
        2,
    )


def huge() -> Call:
    """So many replicas that their factors are 2^31 numbers; the last block's are looked at."""
    slots, d = 6, 32
    replicas = 2**31 // (slots * d) + 9
    some = problem(4, slots, d, torch.float32)  # a block holds four

    def launched(emulator: emulated.Emulator) -> Tensors:
        x = {k: some[k] for k in ("gram", "linear", "factored", "schedule", "group")}
        whole_numbers = ("depth", "kind", "steps_used", "status")
        for name in ("lr", "momentum", "lam", "residual", *whole_numbers):
            whole = name in whole_numbers
            x[name] = untouched(replicas, dtype=torch.int64 if whole else torch.float32)
        x["weight"] = untouched(replicas, d, dtype=torch.float32)
        for name in ("factors", "velocity"):
            x[name] = untouched(replicas, slots, d, dtype=torch.float32)
        first = (replicas - 1) // 4 * 4
        for name in ("lr", "momentum", "lam", "depth", "kind", "factors", "velocity"):
            x[name][first:] = some[name][: replicas - first]
        x["progress"] = torch.zeros(2, dtype=torch.int64)
        launch(x, 10, 0.0, emulator)
        return {k: x[k][first:] for k in WRITTEN}

    count = replicas - (replicas - 1) // 4 * 4
    return Call(launched, lambda: {
        k: v[:count] for k, v in expected(widened(some), 10, 0.0).items() if k in WRITTEN
    })  # fmt: skip


FEW = [(9, 4, 13), (5, 3, 32), (5, 1, 8), (2, 4, 100)]
GATED = [(5, 2, 1), (3, 4, 13), (2, 6, 40), (2, 2, 271)]
SHAPES = [(1, 2, 1), (33, 4, 13), (7, 6, 3), (9, 3, 32), (5, 1, 8), (3, 2, 40), (2, 4, 270)]
FAMILY = Family(
    source="factor_sweep.cpp",
    dtypes=(torch.float64, torch.float32),
    calls={str(s): partial(call, s, 15 if s[2] > 100 else 45) for s in SHAPES}
    | {f"gated {s}": partial(call, s, 15 if s[2] > 100 else 45, gated=True) for s in GATED}
    | {f"few steps {s}": partial(call, s, 3) for s in FEW}
    | {"few steps, gated": partial(call, (2, 2, 100), 3, gated=True)}
    | {f"diverging, d = {d}": partial(call, (5, 2, d), 40, lr=1e3) for d in (10, 40)},
    tolerance={torch.float64: 5000, torch.float32: 300},
    planted=(
        ("factor_sweep.cuh:__syncthreads();\n      T* const swapped=>T* const swapped",
         "(2, 4, 270)"),
        ("factor_sweep.cuh:  }\n  __syncthreads();\n  for=>  }\n  for", "gated (2, 2, 271)"),
        ("factor_sweep.cuh:lane < a.d;=>true;", "(33, 4, 13)"),
        ("factor_sweep.cuh:lane ^ j;=>j;", "(33, 4, 13)"),
    ),
    huge=huge,
    sanitized=(*(f"few steps {s}" for s in FEW), "few steps, gated"),
    threads=(128, 256),  # the grid of teams is made for at least 128
)  # fmt: skip
