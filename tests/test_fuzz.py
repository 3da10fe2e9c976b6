# SPDX-License-Identifier: Apache-2.0
"""Malformed calls at every operator: each works like its reference or raises a sentence."""

import dataclasses
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plan_problems import LAYOUTS, symmetries

import symfast as sf
from symfast import plan_ops
from symfast.codes import Kind
from symfast.plan_tables import Tables
from symfast.reference import mirror as mirror_reference
from symfast.reference import plan as plan_reference
from symfast.reference import plan_tasks

#: Calls in all; `make sanitize` repeats them under AddressSanitizer.
CALLS = int(os.environ.get("SYMFAST_FUZZ", "10000"))
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, IndexError)
DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16,
    torch.int64, torch.complex64, torch.bool,
]  # fmt: skip
#: What kernels may do and torch's own operators may not: write two coefficients to one place, and
#: walk a huge view of nothing without making it.
BEYOND_TORCH = ("refers to a single memory location", "can't allocate memory")
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
    """A plan operator: tables, some spoilt, stored under a key; then spoilt arguments with it."""
    m = rng.randint(1, 24)
    dtype = rng.choice(DTYPES[:4])
    members = [LAYOUTS[rng.choice(list(LAYOUTS))](m, dtype) for _ in range(rng.randint(1, 3))]
    symmetry = rng.choice(symmetries(m, rng.randint(0, 99)))
    part = sf.Plan([(sf.Units(members), symmetry)])._compiled.parts[0]
    tables = spoilt(rng, part.tables) if rng.random() < 0.7 else part.tables
    tensors = list(part.tensors)
    if rng.random() < 0.2:
        position = rng.randrange(len(tensors))
        tensors[position] = awkward(rng, tensors[position])
    if rng.random() < 0.05:
        tensors = tensors[1:]
    arguments: list[Any] = [tensors, tables]
    names = ["plan_apply_", "plan_apply_", "plan_norms", "plan_coefficients", "plan_prox_group_"]
    name = rng.choice(names)
    if name == "plan_apply_":
        amounts = torch.rand(rng.randint(0, 30), dtype=part.accumulate)
        amount: Any = rng.choice([None, amounts, awkward(rng, amounts)])
        arguments += [rng.randint(-1, 4), rng.random(), amount, rng.randint(-1, 3)]
    if name == "plan_prox_group_":
        thresholds = torch.rand(rng.choice([part.tables.groups, 3]), dtype=torch.float64)
        arguments += [rng.random(), rng.choice([None, thresholds, awkward(rng, thresholds)])]
    kernel = stored(
        getattr(torch.ops.symfast, name).default, rng.choice(["drop", "other", *" " * 18])
    )
    return kernel, getattr(plan_reference, name), arguments


def spoilt(rng: random.Random, tables: Tables) -> Tables:
    """Tables with some numbers replaced."""
    changes: dict[str, Any] = {}
    for name in ("layout", "tasks", "chunks", "index", "frames"):
        if rng.random() < 0.3:
            changes[name] = poisoned(rng, getattr(tables, name))
        elif rng.random() < 0.05:
            changes[name] = awkward(rng, getattr(tables, name))
    for name in ("mirrors", "numel"):
        if rng.random() < 0.1:
            changes[name] = rng.choice([-1, 0, 1, 30, 2000, 1 << 50, (1 << 63) - 1])
    return dataclasses.replace(tables, **changes)


def stored(operator: Callable[..., Any], trouble: str) -> Callable[..., Any]:
    """The operator on tables: they are stored, named by their key, or by a wrong one, dropped."""

    def call(tensors: list[torch.Tensor], tables: Tables, *rest: Any) -> Any:
        key = plan_ops.store(tables)
        try:
            if trouble == "drop":
                plan_ops.drop(key)
            return operator(tensors, key + (trouble == "other"), *rest)
        finally:
            plan_ops.drop(key)

    return call


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
        if isinstance(value, Tables):
            return Tables(**{name: one(item) for name, item in vars(value).items()})
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
    try:
        wanted = reference(*before)
    except RuntimeError as error:
        if any(words in str(error) for words in BEYOND_TORCH):
            return True
        raise
    changed = ([found], [wanted]) if found is not None else (arguments[0], before[0])
    for one, other in zip(*changed, strict=True):
        loose = 2e-2 if one.dtype in (torch.bfloat16, torch.float16) else 1e-4
        if one.device.type != "meta" and not overlapping(arguments):
            torch.testing.assert_close(one, other, rtol=loose, atol=loose, equal_nan=True)
    return True


def flat(arguments: list[Any]) -> list[Any]:
    """The arguments with tables and lists of tensors spread out."""
    spread: list[Any] = []
    for a in arguments:
        spread += a if isinstance(a, list) else vars(a).values() if isinstance(a, Tables) else [a]
    return spread


def repeats(numbers: list[torch.Tensor]) -> bool:
    """Whether a number occurs twice."""
    whole = torch.cat([torch.zeros(0, dtype=torch.int64), *(one.flatten() for one in numbers)])
    return whole.unique().numel() != whole.numel()


def overlapping(arguments: list[Any]) -> bool:
    """Whether spoilt strides make tasks write an element twice: any order is then as good."""
    if not isinstance(arguments[0], list):
        return False
    tensors, tables = arguments[:2]
    places = []
    for task, view in plan_tasks.walk(tensors, tables):
        tensor = tensors[task.tensor]
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        elements = torch.arange(size).as_strided(view.shape, view.stride(), view.storage_offset())
        if repeats([elements]):
            return True
        used = [torch.arange(task.units)]
        if task.kind == Kind.CLUSTERS:
            used = plan_tasks.clusters(task, tables.index)
        elif task.kind != Kind.DENSE:
            a, b = plan_tasks.pairs(task, tables.index)
            used = [a, b] if task.kind in (Kind.PAIRS, Kind.PAIRS_SCATTERED) else [a]
        if repeats(used):
            return True
        c = plan_reference._coefficients(task, view.to(tables.frames), tables.index, tables.frames)
        steps = (task.out_outer, task.out_row, task.out_inner)
        if len(arguments) == 2 and c.numel():
            places.append(torch.arange(tables.numel).as_strided(c.shape, steps, task.out))
    return repeats(places) or len(tables.tasks) != len(tables.tasks[:, 1:3].unique(dim=0))


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
