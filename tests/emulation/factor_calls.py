# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA product factors: products, gradients and steps."""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import emulated
import torch
from family import HALF, Call, Family, Stream, Tensors, addresses, shifted, structure, untouched
from torch import Tensor

from symfast.codes import ACCUMULATE
from symfast.reference import factor as formula

SIZES = [0, 1, 7, 515, 3000]
#: lr, momentum, decay; weight i has row i % 2.
SETTINGS = torch.tensor([[0.1, 0.9, 0.3], [0.05, 0.5, 0.0]], dtype=torch.float64)
TABLE_WORDS, WORDS, INLINE = 472, 8, 48  # csrc/device_table.h, csrc/factor.cuh
TABLE = ctypes.POINTER(ctypes.c_void_p)
Factors = structure(
    [("factors", TABLE), ("outputs", TABLE), ("gradient", ctypes.c_void_p),
     ("depth", ctypes.c_int64), ("size", ctypes.c_int64)]
)  # fmt: skip
LISTS = ("weights", "gradients", "factors", "velocities")
Step = structure(
    [*((name, TABLE) for name in LISTS),
     *((name, ctypes.c_void_p) for name in ("sizes", "depths", "rows")),
     ("count", ctypes.c_int64), ("settings", ctypes.c_void_p), ("table", ctypes.c_void_p)]
)  # fmt: skip


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    """Numbers in [-1, 1), the first of them zero: no quotient of a product may be taken."""
    x = (2 * torch.rand(shape, dtype=torch.float64) - 1).to(dtype)
    x.view(-1)[:1] = 0
    return x


def multiply(
    emulator: emulated.Emulator, factors: list[Tensor], gradient: Tensor | None,
    outputs: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    """The product of factors, or the gradient of each."""
    emulator.start()
    call = Factors(depth=len(factors), size=factors[0].numel())
    call.factors = addresses(emulator, "factors", factors)
    call.outputs = addresses(emulator, "outputs", outputs)
    call.gradient = emulator.allow("gradient", gradient)
    emulator.call("emulated_factor", call, 0)
    return outputs


def product(
    depth: int, gradient: bool, dtype: torch.dtype, offset: int, sizes: Any = SIZES
) -> Call:
    """Products of every size, one launch each."""
    torch.manual_seed(depth)
    lists = [[random(n, dtype=dtype) for _ in range(depth)] for n in sizes]
    g = [random(n, dtype=dtype) if gradient else None for n in sizes]

    def run(emulator: emulated.Emulator) -> Tensors:
        found = {}
        for n, factors, grad in zip(sizes, lists, g, strict=True):
            fresh = [shifted(f, offset) for f in factors]
            empty = [torch.full_like(f, torch.nan) for f in fresh[: None if gradient else 1]]
            grad = None if grad is None else shifted(grad, offset)
            outputs = multiply(emulator, fresh, grad, empty)
            assert emulator.recording or emulator.totals()["launches"] == (n > 0)
            found |= {f"{n} {j}": x for j, x in enumerate(outputs)}
        return found

    def expected() -> Tensors:
        found = {}
        for n, factors, grad in zip(sizes, lists, g, strict=True):
            wide = [f.double() for f in factors]
            outputs = ([formula.factor_product(wide)] if grad is None
                       else formula.factor_gradients(grad.double(), wide))  # fmt: skip
            found |= {f"{n} {j}": x for j, x in enumerate(outputs)}
        return found

    return Call(run, expected, int(sizes[-1] > 0))


def advance(emulator: emulated.Emulator, lists: list[list[Tensor]], rows: list[int]) -> None:
    """Step on the factors of all weights; a velocity of no elements: without momentum."""
    emulator.start()
    weights, factors = lists[0], lists[2]
    whole = {"sizes": torch.tensor([w.numel() for w in weights]),
             "depths": torch.tensor([len(f) for f in factors]), "rows": torch.tensor(rows),
             "settings": SETTINGS.clone(),
             "table": torch.full((WORDS * len(weights),), -1)}  # fmt: skip
    call = Step(count=len(weights))
    for name, tensors in zip(LISTS, lists, strict=True):
        found = addresses(emulator, name, tensors)
        for i, tensor in enumerate(tensors):
            if name == "velocities" and tensor.numel() == 0:
                found[i] = None
        setattr(call, name, found)
    for name, tensor in whole.items():
        setattr(call, name, emulator.allow(name, tensor))
    emulator.call("emulated_factor_step", call, 0)


def step(
    moving: Callable[[int], bool], dtype: torch.dtype, offset: int, weights: Any = None,
    pieces: int = 0,
) -> Call:  # fmt: skip
    """One step on weights given as (size, depth), of which those that move have momentum.

    By default every size with every depth. One launch, and ``pieces`` for the table.
    """
    weights = weights or [(n, depth) for depth in range(2, 7) for n in SIZES]
    torch.manual_seed(int(moving(0)))
    wide, rows = ACCUMULATE[dtype], [i % 2 for i in range(len(weights))]
    given = [[random(n, dtype=dtype) for n, _ in weights] for _ in range(2)]
    given += [[random(depth, n, dtype=wide) for n, depth in weights]]
    given += [[random(depth * moving(i), n * moving(i), dtype=wide)
               for i, (n, depth) in enumerate(weights)]]  # fmt: skip

    def named(lists: list[list[Tensor]]) -> Tensors:
        return {f"{name} {i}": t for name, x in zip(LISTS, lists, strict=True)
                for i, t in enumerate(x) if name != "gradients"}  # fmt: skip

    def run(emulator: emulated.Emulator) -> Tensors:
        fresh = [[shifted(t, offset) for t in x] for x in given]
        for w in fresh[0]:
            w.fill_(torch.nan)
        advance(emulator, fresh, rows)
        return named(fresh)

    def expected() -> Tensors:
        fresh = [[t.double().clone() for t in x] for x in given]
        formula.factor_step_(*fresh, SETTINGS, rows)
        return named(fresh)

    return Call(run, expected, 1 + pieces)


def none(_: int) -> bool:
    """Without momentum."""
    return False


def every(_: int) -> bool:
    """With momentum."""
    return True


def third(weight: int) -> bool:
    """Some with momentum, and both rows of settings with it and without."""
    return weight % 3 == 0


MANY = [(17, 2), (40, 3)] * 60
MANY_PIECES = -(-len(MANY) * WORDS // TABLE_WORDS)


def huge() -> Call:
    """A weight of 2^31 + 40 elements and two factors."""
    count, end = 2**31 + 40, slice(2**31, None)
    g, f = random(40, dtype=torch.bfloat16), random(2, 40, dtype=torch.float32)

    def run(emulator: emulated.Emulator) -> Tensors:
        weight, gradient = (untouched(count, dtype=torch.bfloat16) for _ in range(2))
        factors = untouched(2, count, dtype=torch.float32)
        gradient[end], factors[:, end] = g, f
        advance(emulator, [[weight], [gradient], [factors], []], [1])
        emulator.check()
        product = untouched(count, dtype=torch.bfloat16)
        multiply(emulator, [weight, gradient], None, [product])
        return {"weight": weight[end], "factors": factors[:, end], "product": product[end]}

    def expected() -> Tensors:
        weight, factors = g.double() * 0, f.double()
        formula.factor_step_([weight], [g.double()], [factors], [], SETTINGS, [1])
        product = weight.to(g.dtype).double() * g.double()
        return {"weight": weight, "factors": factors, "product": product}

    return Call(run, expected)


def stream(what: str, depth: int, dtype: torch.dtype = torch.float32) -> Stream:
    """65536 weights; a step has momentum."""
    n = 65536
    each, wide = n * dtype.itemsize, n * ACCUMULATE[dtype].itemsize * depth
    if what == "step":
        states = {"factors": wide, "velocities": wide}
        call = step(every, dtype, 0, [(n, depth)])
        narrow = ("weights", "gradients") if dtype in HALF else ()
        return Stream(call, dtype, states | {"gradients": each}, states | {"weights": each}, narrow)
    gradient = what == "gradient"
    read = {"factors": depth * each} | ({"gradient": each} if gradient else {})
    return Stream(product(depth, gradient, dtype, 0, [n]), dtype, read,
                  {"outputs": each * (depth if gradient else 1)})  # fmt: skip


FAMILY = Family(
    source="factor.cpp",
    dtypes=tuple(emulated.TYPES),
    calls={f"product {d}": partial(product, d, False) for d in range(2, 7)}
    | {f"gradient {d}": partial(product, d, True) for d in range(2, 7)}
    | {
        "step": partial(step, none),
        "step momentum": partial(step, every),
        "step mixed": partial(step, third),
        "few products": partial(product, 3, False, sizes=[515]),
        "few gradients": partial(product, 4, True, sizes=[512]),
        "few steps": partial(step, third, weights=[(512, 2), (7, 3), (33, 6), (5000, 3), (640, 5)]),
        "step of many": partial(step, every, weights=MANY, pieces=MANY_PIECES),
    },
    tolerance={torch.float64: 64, torch.float32: 64} | dict.fromkeys(HALF, 0.51),
    planted=(
        ("factor.cuh:at.size % V == 0 && =>", "step"),
        ("factor.cuh:if (depth == D) {=>if (depth <= D + 1) {", "step mixed"),
        ("factor.cuh:return at.velocity ?=>return !at.velocity ?", "step mixed"),
        ("factor.cuh:a.word(item, kWeightRow) *=>0 *", "step mixed"),
        ("factor.cuh:load_from(at, i + u * stride)=>load_from(at, i)", "step"),
        ("factor.cuh:tail = packed ?=>tail = true ?", "product 3"),
        ("factor.cuh:(end - begin) / V * V=>(end - begin + V - 1) / V * V", "gradient 2"),
        ("lanes.cuh:first_block(middle) <= block=>first_block(middle) < block", "step of many"),
        ("factor.cuh:block - a.word(item, kWeightBlock)=>block", "step momentum"),
    ),
    huge=huge,
    streams={
        f"{what} {depth} {str(dtype)[6:]}": partial(stream, what, depth, dtype)
        for what in ("product", "gradient", "step")
        for depth, dtype in ((2, torch.float32), (6, torch.bfloat16))
    },
    sanitized=("few products", "few gradients", "few steps"),
)
