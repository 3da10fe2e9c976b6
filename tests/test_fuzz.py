# SPDX-License-Identifier: Apache-2.0
"""Malformed calls at every operator: each works like its reference or raises a sentence."""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plan_problems import LAYOUTS, symmetries

import symfast as sf
from symfast.reference import mirror as mirror_reference
from symfast.reference import plan as plan_reference

#: Calls in all; `make sanitize` repeats them under AddressSanitizer.
CALLS = int(os.environ.get("SYMFAST_FUZZ", "10000"))
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, IndexError)
DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16,
    torch.int64, torch.complex64, torch.bool,
]  # fmt: skip
Call = tuple[Callable[..., Any], Callable[..., Any], list[Any]]


def awkward(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor with something wrong, or merely unusual, about it."""
    flat = tensor.reshape(-1)
    choices: list[Callable[[], torch.Tensor]] = [
        lambda: tensor.to(rng.choice(DTYPES)),
        lambda: tensor.unsqueeze(rng.randint(0, tensor.ndim)),
        lambda: flat,
        lambda: tensor[..., : rng.randint(0, 3)],
        lambda: tensor[:0],
        lambda: tensor.transpose(0, -1) if tensor.ndim > 1 else tensor,
        lambda: tensor.contiguous().mT.contiguous().mT if tensor.ndim > 1 else tensor,
        lambda: flat[:1].expand(tensor.shape) if flat.numel() else tensor,
        lambda: flat.as_strided((max(flat.numel() // 2, 1), 2), (1, 0)) if flat.numel() else tensor,
        lambda: torch.empty((), dtype=tensor.dtype),
        lambda: torch.empty(1, dtype=tensor.dtype).expand(1 << 40, 1 << 20, 1),  # 4 EB if copied
        lambda: tensor.to("meta"),
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else -tensor,
        lambda: tensor.flip(0) if tensor.ndim else tensor,
    ]
    return rng.choice(choices)()


def poisoned(rng: random.Random, table: torch.Tensor) -> torch.Tensor:
    """A table with one number replaced."""
    if not table.numel() or table.dtype != torch.int64:
        return awkward(rng, table)
    changed = table.clone()
    where = rng.randrange(table.numel())
    old = int(changed.view(-1)[where])
    changed.view(-1)[where] = rng.choice(
        [-1, 0, 1, 2, old + 1, old - 1, 2 * old, 1 << 31, 1 << 46, (1 << 62) + 7, -(1 << 62),
         old | 1 << 32, int(changed.view(-1)[rng.randrange(table.numel())])]
    )  # fmt: skip
    return changed


def mirror_call(rng: random.Random) -> Call:
    """A functional mirror call with some arguments spoilt."""
    groups, rows, d = rng.randint(0, 4), rng.randint(0, 5), rng.randint(0, 20)
    k = rng.randint(0, min(d, 9))
    dtype = rng.choice(DTYPES[:4])
    theta = torch.randn(groups, rows, d).to(dtype)
    frame = torch.randn(groups, d, k).to(rng.choice([dtype, torch.float32]))
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    arguments: list[Any] = [theta, frame]
    name = "mirror_coefficients"
    if rng.random() < 0.7:
        name = "mirror_apply"
        shape = rng.choice([(groups, rows), (1, 1)])
        arguments += [torch.rand(shape, dtype=sums), rng.randint(-1, 5), rng.randint(-1, 2)]
    for position in range(len(arguments)):
        if rng.random() < 0.25 and isinstance(arguments[position], torch.Tensor):
            arguments[position] = awkward(rng, arguments[position])
    return getattr(torch.ops.symfast, name).default, getattr(mirror_reference, name), arguments


def plan_call(rng: random.Random) -> Call:
    """A plan operator on a valid plan's tables with some of them spoilt."""
    m = rng.randint(1, 24)
    dtype = rng.choice(DTYPES[:4])
    members = [LAYOUTS[rng.choice(list(LAYOUTS))](m, dtype) for _ in range(rng.randint(1, 3))]
    symmetry = rng.choice(symmetries(m, rng.randint(0, 99)))
    part = sf.Plan([(sf.Units(members), symmetry)])._compiled.parts[0]
    tables: list[Any] = [part.layout, part.tasks, part.chunks, part.index, part.frames]
    for position in range(len(tables)):
        if rng.random() < 0.3:
            tables[position] = poisoned(rng, tables[position])
        elif rng.random() < 0.05:
            tables[position] = awkward(rng, tables[position])
    tensors = list(part.tensors)
    if rng.random() < 0.2:
        position = rng.randrange(len(tensors))
        tensors[position] = awkward(rng, tensors[position])
    if rng.random() < 0.05:
        tensors = tensors[1:]
    arguments: list[Any] = [tensors, *tables]
    name = rng.choice(["plan_apply_", "plan_apply_", "plan_norms", "plan_coefficients"])
    if name == "plan_apply_":
        amounts = torch.rand(rng.randint(0, 30), dtype=part.accumulate)
        amount: Any = rng.choice([None, amounts, awkward(rng, amounts)])
        arguments += [amount, rng.random(), rng.randint(-1, 3), rng.randint(-1, 4)]
    else:
        arguments.append(rng.choice([-1, 0, 1, 30, 2000, part.out_size, 1 << 50]))
    return getattr(torch.ops.symfast, name).default, getattr(plan_reference, name), arguments


def cloned(arguments: list[Any]) -> list[Any]:
    """Copies that keep strides, for the reference to work on."""

    def one(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.numel() < 1 << 30:
            size = value.untyped_storage().nbytes() // max(value.element_size(), 1)
            if value.device.type == "meta":
                return value
            copy = value.new_empty(size)
            whole = value.as_strided((size,), (1,), 0)
            return copy.copy_(whole).as_strided(value.shape, value.stride(), value.storage_offset())
        return [one(item) for item in value] if isinstance(value, list) else value

    return [one(value) for value in arguments]


def check(call: Call) -> bool:
    """Run one call; whether it worked. A refusal must be a readable sentence."""
    kernel, reference, arguments = call
    before = cloned(arguments)
    try:
        found = kernel(*arguments)
    except REFUSALS as error:
        if len(str(error)) > 15:
            return False
        raise
    if any(isinstance(a, torch.Tensor) and a.device.type == "meta" for a in flat(before)):
        return True  # shapes only, nothing to compare
    wanted = reference(*before)
    changed = ([found], [wanted]) if found is not None else (arguments[0], before[0])
    for one, other in zip(*changed, strict=True):
        loose = 2e-2 if one.dtype in (torch.bfloat16, torch.float16) else 1e-4
        if one.device.type != "meta" and not overlapping(arguments):
            torch.testing.assert_close(one, other, rtol=loose, atol=loose, equal_nan=True)
    return True


def flat(arguments: list[Any]) -> list[Any]:
    """The arguments with lists of tensors spread out."""
    return [one for a in arguments for one in (a if isinstance(a, list) else [a])]


def overlapping(arguments: list[Any]) -> bool:
    """Whether spoilt strides make tasks write an element twice: any order is then as good."""
    if not isinstance(arguments[0], list):
        return False
    for task, view in plan_reference._walk(arguments[0], arguments[2]):
        tensor = arguments[0][task.tensor]
        paint = torch.zeros(tensor.untyped_storage().nbytes() // tensor.element_size())
        seen = paint.as_strided(view.shape, view.stride(), view.storage_offset())
        seen.zero_()
        flat = torch.arange(paint.numel()).as_strided(
            view.shape, view.stride(), view.storage_offset()
        )
        if flat.unique().numel() != flat.numel():
            return True
        index = arguments[4]
        if task.kind not in (2, 3):
            a, b = plan_reference._pairs(task, index)
            used = torch.cat([a, b]) if task.kind in (1, 5) else a
            if used.unique().numel() != used.numel():
                return True
        elif task.kind == 2:
            used = torch.cat([index[:0], *plan_reference._clusters(task, index)])
            if used.unique().numel() != used.numel():
                return True
    return len(arguments[2]) != len({tuple(row[1:3]) for row in arguments[2].tolist()})


@pytest.mark.parametrize("make", [mirror_call, plan_call])
@pytest.mark.filterwarnings("ignore:.*")  # torch warns about casts and non-writable views
def test_malformed_calls(make: Callable[[random.Random], Call]) -> None:
    worked = 0
    for seed in range(CALLS // 2):
        torch.manual_seed(seed)
        call = make(random.Random(seed))
        try:
            worked += check(call)
        except Exception as error:
            raise AssertionError(f"{make.__name__} with seed {seed}: {error}") from error
    assert CALLS // 50 < worked < CALLS // 2  # both outcomes are really tried
