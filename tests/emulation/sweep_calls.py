# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA sweeps of product factors."""

import ctypes
from functools import partial

import emulated
import torch
from family import Call, Family, Tensors, structure, untouched

from symfast.reference.factor_sweep import factor_sweep

POINTERS = (
    "gram",
    "linear",
    "factored",
    "depth",
    "lr",
    "momentum",
    "lam",
    "schedule",
    "kind",
    "lr_schedule",
    "lr_kind",
    "group",
    "weight",
    "factors",
    "velocity",
    "steps_used",
    "residual",
    "status",
    "progress",
    "x",
    "y",
    "label_noise",
    "gradient_noise",
    "seed",
    "cell",
    "batch",
)
MOMENTS = ("second", "beta2", "eps")  # fmt: skip
#: Null pointers where there are no gates, and no random numbers.
GATES, RANDOM = ("group",), ("x", "y", "label_noise", "gradient_noise", "seed", "cell", "batch")
FIRST_STEP = 5
SHAPE = ("samples", "inputs", "outputs", "by_output", "first_step")  # by_output: a byte, padded
SIZES = ("kinds", "lr_kinds", "replicas", "d", "max_depth", "steps", "check_every")
WRITTEN = ("weight", "factors", "velocity", "steps_used", "residual", "status", "second")
SHARED = 48 * 1024


def problem(
    replicas: int, slots: int, d: int, dtype: torch.dtype, gated: bool = False, random: bool = False
) -> Tensors:
    """Random depths, rates and schedules of 200 steps; gated in groups of about three.

    If random, every third replica has no random numbers, the others minibatches, noise or both.
    """
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
    if random:
        x |= samples(replicas, d)
    x = {name: v.to(dtype) if v.is_floating_point() else v for name, v in x.items()}
    x["factored"] = torch.rand(d) > 0.3
    x["depth"] = torch.randint(1, slots + 1, (replicas,))
    x["schedule"] = torch.stack([torch.ones(200), torch.linspace(2, 0, 200)]).to(dtype)
    x["kind"] = torch.arange(replicas) % 2
    x["lr_schedule"] = torch.stack([torch.ones(200), torch.linspace(1, 0, 200)]).to(dtype)
    x["lr_kind"] = torch.arange(replicas) // 2 % 2
    x["group"] = torch.zeros(0, dtype=torch.int64)
    if gated:
        begins = torch.rand(d) < 0.3
        begins |= ~x["factored"] | ~x["factored"].roll(1) | (torch.arange(d) == 0)
        x["group"] = torch.where(begins, torch.arange(d), 0).cummax(0).values
        gates = x["factors"][:, 1:].index_select(2, x["group"])
        x["factors"] = torch.cat([x["factors"][:, :1], gates], 1)
        x["velocity"][:, 1:] = 0
    return x


def samples(replicas: int, d: int) -> Tensors:
    """Data of as many outputs as divide d, at most three, and the draws of every replica."""
    outputs = max(o for o in (1, 2, 3) if d % o == 0)
    number = torch.arange(replicas)
    return {
        "x": torch.randn(37, d // outputs, dtype=torch.float64),
        "y": torch.randn(37, outputs, dtype=torch.float64),
        "label_noise": torch.tensor([0.0, 0.5], dtype=torch.float64)[number // 3 % 2],
        "gradient_noise": torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)[number % 3],
        "seed": number % 4 + 2**40,
        "cell": number * 11,
        "batch": torch.tensor([0, 7, 0, 0, 40, 3])[number % 6],
    }


def moments_of(x: Tensors, rule: int) -> Tensors:
    """Second moments and rates of Adam; of no random numbers where there are no samples."""
    replicas = len(x["lr"])
    found = {
        "rule": torch.tensor(rule),
        "second": 0.1 + torch.rand_like(x["factors"]),
        "beta2": 0.9 + 0.09 * torch.rand_like(x["lr"]),
        "eps": torch.full_like(x["lr"], 1e-3),
    }
    if len(x["group"]):
        found["second"][:, 1:] = found["second"][:, 1:].index_select(2, x["group"])
    if "x" not in x:
        none = {
            name: torch.zeros(replicas, dtype=torch.int64) for name in ("seed", "cell", "batch")
        }
        found |= none | {name: 0 * x["lr"] for name in ("label_noise", "gradient_noise")}
        found |= {"x": x["gram"][:0], "y": x["linear"][:0, None]}
    return found


def launch(x: Tensors, steps: int, tol: float, emulator: emulated.Emulator) -> None:
    """One sweep on the tensors given."""
    (replicas, slots, d), dtype = x["factors"].shape, x["factors"].dtype
    kind = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
    fields = [(name, ctypes.c_void_p) for name in POINTERS]
    fields += [(name, ctypes.c_int64) for name in SHAPE]
    emulator.start()
    pointed = x | {k: x[k][:, :steps].contiguous() for k in ("schedule", "lr_schedule")}
    absent = (() if len(x["group"]) else GATES) + (() if "x" in x else RANDOM)
    addresses = [0 if name in absent else emulator.allow(name, pointed[name]) for name in POINTERS]
    shape = (len(x["x"]), x["x"].shape[1], x["y"].shape[1]) if "x" in x else (0, 0, 0)
    shape += (int("by_output" in x), FIRST_STEP)
    moments = [emulator.allow(name, x[name]) if "second" in x else 0 for name in MOMENTS]
    fields += [("rule", ctypes.c_int64), *((name, ctypes.c_void_p) for name in MOMENTS)]
    fields += [(name, ctypes.c_int64) for name in SIZES]
    sizes = len(x["schedule"]), len(x["lr_schedule"]), replicas, d, slots, steps, 10
    rule = int(x["rule"]) if "second" in x else 0
    numbers = *shape, rule, *moments, *sizes, tol
    call = structure([*fields, ("tol", kind)])(*addresses, *numbers)
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
    order = "gram", "linear", "factors", "velocity"
    rates = "depth", "factored", "lr", "momentum", "lam"
    progress, schedule = torch.zeros(2, dtype=torch.int64), x["schedule"][:, :steps]
    tables = schedule, x["kind"], x["lr_schedule"][:, :steps], x["lr_kind"], x["group"]
    if "x" in x:
        noise = torch.stack([x["label_noise"], x["gradient_noise"]])
        random = x["x"], x["y"], noise, torch.stack([x["seed"], x["cell"], x["batch"]])
    else:
        none = x["gram"].new_zeros(2, 0), torch.zeros(3, 0, dtype=torch.int64)
        random = x["gram"], x["linear"][:, None], *none
    second, moments = x["factors"][:, :0], x["gram"].new_zeros(2, 0)
    if "second" in x:
        second, moments = x["second"], torch.stack([x["beta2"], x["eps"]])
    numbers = "by_output" in x, int(x.get("rule", torch.zeros(()))), FIRST_STEP, tol, 10
    taken = [*(x[k] for k in order), second, *(x[k] for k in rates), moments]
    found = dict(
        zip(WRITTEN, factor_sweep(*taken, *tables, *random, *numbers, progress), strict=True)
    )
    if "second" not in x:
        del found["second"]
    return found | {"progress": progress}


def widened(x: Tensors) -> Tensors:
    """The same numbers in float64."""
    return {k: v.double() if v.is_floating_point() else v for k, v in x.items()}


def call(
    shape: tuple[int, int, int], steps: int, dtype: torch.dtype, offset: int, lr: float = 0,
    gated: bool = False, random: bool = False, by_output: bool = False, rule: int = 0,
) -> Call:  # fmt: skip
    """Replicas, slots and weights of each; a large ``lr`` for the third replica, which diverges."""
    torch.manual_seed(sum(shape))
    x = problem(*shape, dtype, gated, random)
    if rule:
        x |= moments_of(x, rule)
    if by_output:
        x["by_output"] = torch.ones(1)
    if lr:
        x["lr"][2], x["depth"][2] = lr, 2
    for name in (*POINTERS, *MOMENTS):
        if offset and name in x and x[name].numel():
            x[name] = torch.cat([x[name].reshape(-1)[:1], x[name].reshape(-1)])[1:].view_as(x[name])
    tol = 0.0 if lr else 1e-2
    wanted = WRITTEN if not lr else ("status", "steps_used")
    return Call(
        partial(run, x, steps, tol),
        lambda: {k: v for k, v in expected(widened(x), steps, tol).items() if k in wanted},
        3 if random and not rule else 2,
    )


def huge() -> Call:
    """So many replicas that their factors are 2^31 numbers; the last block's are looked at."""
    slots, d = 6, 32
    replicas = 2**31 // (slots * d) + 9
    some = problem(4, slots, d, torch.float32)  # a block holds four

    def launched(emulator: emulated.Emulator) -> Tensors:
        shared = ("gram", "linear", "factored", "schedule", "lr_schedule", "group")
        x = {k: some[k] for k in shared}
        whole_numbers = ("depth", "kind", "lr_kind", "steps_used", "status")
        for name in ("lr", "momentum", "lam", "residual", *whole_numbers):
            whole = name in whole_numbers
            x[name] = untouched(replicas, dtype=torch.int64 if whole else torch.float32)
        x["weight"] = untouched(replicas, d, dtype=torch.float32)
        for name in ("factors", "velocity"):
            x[name] = untouched(replicas, slots, d, dtype=torch.float32)
        first = (replicas - 1) // 4 * 4
        per = "lr", "momentum", "lam", "depth", "kind", "lr_kind", "factors", "velocity"
        for name in per:
            x[name][first:] = some[name][: replicas - first]
        x["progress"] = torch.zeros(2, dtype=torch.int64)
        launch(x, 10, 0.0, emulator)
        return {k: x[k][first:] for k in WRITTEN if k in x}

    count = replicas - (replicas - 1) // 4 * 4
    return Call(launched, lambda: {
        k: v[:count] for k, v in expected(widened(some), 10, 0.0).items() if k in WRITTEN
    })  # fmt: skip


FEW = [(9, 4, 13), (5, 3, 32), (5, 1, 8), (2, 4, 100)]
GATED = [(5, 2, 1), (3, 4, 13), (2, 6, 40), (2, 2, 271)]
RANDOM_SHAPES = [(1, 2, 1), (13, 4, 13), (9, 3, 32), (6, 5, 40), (6, 2, 270)]
RANDOM_FEW = [(9, 4, 13), (6, 2, 100)]
SHAPES = [(1, 2, 1), (33, 4, 13), (7, 6, 3), (9, 3, 32), (5, 1, 8), (3, 2, 40), (2, 4, 270)]
FAMILY = Family(
    source="factor_sweep.cpp",
    dtypes=(torch.float64, torch.float32),
    calls={str(s): partial(call, s, 15 if s[2] > 100 else 45) for s in SHAPES}
    | {f"gated {s}": partial(call, s, 15 if s[2] > 100 else 45, gated=True) for s in GATED}
    | {f"few steps {s}": partial(call, s, 3) for s in FEW}
    | {"few steps, gated": partial(call, (2, 2, 100), 3, gated=True)}
    | {f"random {s}": partial(call, s, 15, random=True) for s in RANDOM_SHAPES}
    | {f"random {s} by output": partial(call, s, 15, random=True, by_output=True)
       for s in RANDOM_SHAPES[3:]}
    | {f"random, gated {s}": partial(call, s, 15, random=True, gated=True) for s in GATED}
    | {f"random, few steps {s}": partial(call, s, 3, random=True) for s in RANDOM_FEW}
    | {"random, few steps, gated": partial(call, (6, 2, 100), 3, random=True, gated=True)}
    | {f"{name} {s}": partial(call, s, 15, random=True, rule=rule)
       for rule, name in ((1, "adam"), (2, "adamw")) for s in RANDOM_SHAPES}
    | {f"adam, gated {s}": partial(call, s, 15, random=True, gated=True, rule=1) for s in GATED}
    | {f"adamw, plain {s}": partial(call, s, 15, rule=2) for s in SHAPES[1:3]}
    | {"adam, few steps": partial(call, (6, 2, 100), 3, random=True, rule=1)}
    | {"adamw, few steps, gated": partial(call, (6, 2, 100), 3, random=True, gated=True, rule=2)}
    | {f"diverging, d = {d}": partial(call, (5, 2, d), 40, lr=1e3) for d in (10, 40)},
    tolerance={torch.float64: 5000, torch.float32: 300},
    planted=(
        ("factor_sweep.cuh:__syncthreads();\n      w.swap()=>w.swap()", "(2, 4, 270)"),
        ("factor_sweep.cuh:w);\n    __syncthreads();\n    step_gates=>w);\n    step_gates",
         "gated (2, 2, 271)"),
        ("factor_samples.cuh:__syncthreads();\n      add_tile=>add_tile", "random (6, 2, 270)"),
        ("factor_samples.cuh:rows[s] * inputs=>rows[0] * inputs", "random (13, 4, 13)"),
        ("factor_samples.cuh:start * shape.outputs + i=>i", "random (6, 2, 270)"),
        ("factor_moments.cuh:__syncthreads();\n    for=>for", "adam, gated (2, 2, 271)"),
        ("factor_moments.cuh:lr * factors.lr=>lr", "adam (13, 4, 13)"),
        ("factor_moments.cuh:rates.shrink = T(1)=>rates.decay = T(0)", "adamw (13, 4, 13)"),
        ("factor_sweep.cuh:lane < a.d;=>true;", "(33, 4, 13)"),
        ("factor_sweep.cuh:lane ^ j;=>j;", "(33, 4, 13)"),
    ),
    huge=huge,
    sanitized=(
        *(f"few steps {s}" for s in FEW), "few steps, gated",
        *(f"random, few steps {s}" for s in RANDOM_FEW), "random, few steps, gated",
        "adam, few steps", "adamw, few steps, gated",
    ),
    threads=(128, 256),  # the grid of teams is made for at least 128
)  # fmt: skip
