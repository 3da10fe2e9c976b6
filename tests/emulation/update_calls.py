# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA optimizer steps."""

import ctypes
from functools import partial
from typing import Any

import emulated
import torch
from family import HALF, Call, Family, Stream, Tensors, addresses, shifted, structure, untouched
from torch import Tensor
from update_problems import STEPS, arguments, expected

from symfast.reference import update as formula

SHAPES = [(3, 5), (1,), (40, 30), (0,), (129,)]
LISTS = ("params", "grads", "first", "second", "steps")
TABLE_WORDS, WORDS, INLINE = 472, 7, 64  # csrc/device_table.h, csrc/update.cuh
FIELDS = [("rule", ctypes.c_int64), ("rows", ctypes.c_int64)]
FIELDS += [(n, ctypes.c_void_p) for n in ("settings", "keys", "grad_scale", "found_inf")]
FIELDS += [("tensors", ctypes.c_int64)]
FIELDS += [(n, ctypes.POINTER(ctypes.c_void_p)) for n in LISTS]
FIELDS += [("sizes", ctypes.c_void_p), ("table", ctypes.c_void_p)]
Arguments = structure(FIELDS)


def written(given: list[Any]) -> Tensors:
    """What a step writes, by name."""
    lists = dict(zip(LISTS, given[1:6], strict=True))
    return {f"{name} {i}": t for name in LISTS for i, t in enumerate(lists[name])
            if name != "grads" and t.numel()}  # fmt: skip


def launch(emulator: emulated.Emulator, given: list[Any], options: dict[str, Tensor]) -> None:
    """Step on the tensors given."""
    emulator.start()
    lists = dict(zip(LISTS, given[1:6], strict=True))
    sizes = torch.tensor([p.numel() for p in lists["params"]])
    table = torch.full((WORDS * len(sizes),), -1)
    numbers = {"settings": given[6], "keys": given[7], "sizes": sizes, "table": table, **options}
    call = Arguments(rule=given[0], rows=len(given[6]), tensors=len(sizes))
    for name, tensor in numbers.items():
        setattr(call, name, emulator.allow(name, tensor))
    for name, tensors in lists.items():
        setattr(call, name, addresses(emulator, name, tensors))
    emulator.call("emulated_update", call, 0)


def call(
    name: str, dtype: torch.dtype, offset: int, shapes: Any = SHAPES, **options: float
) -> Call:
    """A step of ``update_problems.STEPS``; grad_scale and found_inf as options."""
    given = arguments(name, dtype, shapes)
    numbers = {key: torch.tensor(value) for key, value in options.items()}

    def run(emulator: emulated.Emulator) -> Tensors:
        fresh = [given[0], *([shifted(t, offset) for t in x] for x in given[1:5])]
        fresh += [[t.clone() for t in given[5]], *given[6:]]
        launch(emulator, fresh, numbers)
        return written(fresh)

    pieces = -(-len(shapes) * WORDS // TABLE_WORDS) if len(shapes) > INLINE else 0
    return Call(run, lambda: written(expected(given, **numbers)), 1 + bool(given[5]) + pieces)


def huge() -> Call:
    """One parameter of 2^31 + 40 elements."""
    count, end = 2**31 + 40, slice(2**31, None)
    given = arguments("adamw", torch.bfloat16, [(40,)])
    wanted = expected(given)

    def run(emulator: emulated.Emulator) -> Tensors:
        fresh = [given[0]]
        for x in given[1:5]:
            fresh.append([untouched(count, dtype=torch.bfloat16)])
            fresh[-1][0][end] = x[0]
        fresh += [[t.clone() for t in given[5]], *given[6:]]
        launch(emulator, fresh, {})
        return {"params": fresh[1][0][end], "first": fresh[3][0][end], "second": fresh[4][0][end]}

    return Call(
        run, lambda: {"params": wanted[1][0], "first": wanted[3][0], "second": wanted[4][0]}
    )


def stream(name: str, dtype: torch.dtype = torch.float32) -> Stream:
    """A step on 64 x 1024 elements."""
    shape = (64, 1024)
    rule, row = STEPS[name]
    bytes_each = 64 * 1024 * dtype.itemsize
    states = (
        ["first", "second"] if rule == formula.ADAM else ["first"] if row[formula.FIRST] else []
    )
    changed = dict.fromkeys(["params", *states], bytes_each)
    return Stream(call(name, dtype, 0, [shape]), dtype, changed | {"grads": bytes_each}, changed)


FAMILY = Family(
    source="update.cpp",
    dtypes=tuple(emulated.TYPES),
    calls={name: partial(call, name) for name in STEPS}
    | {
        "large adamw anchor noise": partial(call, "adamw anchor noise", shapes=[(9001,)]),
        "large sgd": partial(call, "sgd", shapes=[(9001,)]),
        "many tensors": partial(call, "adamw", shapes=[(5, 3)] * 70 + [(9000,)]),
        "scaled": partial(call, "adamw", grad_scale=8.0, found_inf=0.0),
        "skipped": partial(call, "adamw", grad_scale=8.0, found_inf=1.0),
    },
    tolerance={torch.float64: 60, torch.float32: 60} | dict.fromkeys(HALF, 1.01),
    planted=(
        ("update.cuh:  __syncthreads();\n  const StepScalars s=>  const StepScalars s", "adamw"),
        ("update.cuh:i < at.end; i +==>i <= at.end; i +=", "adamw"),
        ("update.cuh:i < tail; i += step=>i < tail + P; i += step", "adamw"),
        ("update.cuh:at.g + i + u * stride=>at.g + i", "large sgd"),
        ("update.cuh:begin / 4 + b));=>begin / 4 + b / 2));", "adamw anchor noise"),
        ("update.cuh:    __syncthreads();\n    UpdatePlace=>    UpdatePlace", "adamw anchor noise"),
        ("update.cuh:tile[i - begin]=>tile[i - at.begin]", "large adamw anchor noise"),
        ("update.cuh:word_of(r, i))), A(0)=>word_of(r, i + 1))), A(0)", "sgd anchor"),
    ),
    huge=huge,
    streams={name: partial(stream, name) for name in STEPS}
    | {f"adamw {str(d)[6:]}": partial(stream, "adamw", d) for d in emulated.TYPES},
    sanitized=("sgd nesterov decay", "sgd anchor", "adamw", "adamw anchor noise", "large sgd"),
)  # fmt: skip
