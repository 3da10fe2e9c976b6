# SPDX-License-Identifier: Apache-2.0
"""The operators behind a plan: schemas, references and fakes over the tables of csrc/plan.h.

Tables are checked once, by ``plan_store``; a verb names them by a key. Keys are random and never
used again, so that a graph compiled for a plan that is gone cannot run another one.
"""

import secrets
from typing import TypeAlias

import torch

from symfast import ops, plan_tables
from symfast.codes import PER_GROUP, PER_MIRROR
from symfast.plan_tables import Tables
from symfast.reference import plan as reference

Tensors: TypeAlias = list[torch.Tensor]


def _store(
    plan: int,
    layout: torch.Tensor,
    tasks: torch.Tensor,
    chunks: torch.Tensor,
    index: torch.Tensor,
    frames: torch.Tensor,
    mirrors: int,
    numel: int,
    groups: int,
) -> None:
    plan_tables.keep(plan, Tables(layout, tasks, chunks, index, frames, mirrors, numel, groups))


def _check(tensors: Tensors, plan: int) -> None:
    reference.plan_check(tensors, plan_tables.find(plan))


@torch.no_grad()  # the operators pass autograd by, what they are made of here does not
def _apply_(
    tensors: Tensors,
    plan: int,
    verb: int,
    amount: float = 0.0,
    amounts: torch.Tensor | None = None,
    amount_index: int = 0,
) -> None:
    tables = plan_tables.find(plan)
    reference.plan_apply_(tensors, tables, verb, amount, amounts, amount_index)


@torch.no_grad()
def _prox_group_(
    tensors: Tensors, plan: int, threshold: float = 0.0, thresholds: torch.Tensor | None = None
) -> None:
    reference.plan_prox_group_(tensors, plan_tables.find(plan), threshold, thresholds)


@torch.no_grad()
def _norms(
    tensors: Tensors,
    plan: int,
    before: torch.Tensor | None = None,
    per: int = PER_MIRROR,
    root: bool = False,
) -> torch.Tensor:
    return reference.plan_norms(tensors, plan_tables.find(plan), before, per, root)


@torch.no_grad()
def _coefficients(tensors: Tensors, plan: int) -> torch.Tensor:
    return reference.plan_coefficients(tensors, plan_tables.find(plan))


ops.define(
    "plan_store",
    "(int plan, Tensor layout, Tensor tasks, Tensor chunks, Tensor index, Tensor frames, "
    "int mirrors, int numel, int groups) -> ()",
    _store,
)
ops.define("plan_check", "(Tensor[] tensors, int plan) -> ()", _check)
ops.define(
    "plan_apply_",
    "(Tensor(a!)[] tensors, int plan, int verb, float amount=0.0, Tensor? amounts=None, "
    "int amount_index=0) -> ()",  # defaults: torch converts every argument given, for 0.1 us
    _apply_,
)
ops.define(
    "plan_prox_group_",
    "(Tensor(a!)[] tensors, int plan, float threshold=0.0, Tensor? thresholds=None) -> ()",
    _prox_group_,
)
ops.define(
    "plan_norms",
    "(Tensor[] tensors, int plan, Tensor? before=None, int per=2, bool root=False) -> Tensor",
    _norms,
)
ops.define("plan_coefficients", "(Tensor[] tensors, int plan) -> Tensor", _coefficients)


def _on_one_device(tensors: Tensors, plan: int) -> Tables:
    """One meta tensor among real ones lands here too: refuse it instead of answering rubbish."""
    tables = plan_tables.find(plan)
    if any(tensor.device != tables.frames.device for tensor in tensors):
        raise RuntimeError("the parameters and tables of a plan must be on one device")
    return tables


def _store_fake(
    plan: int,
    layout: torch.Tensor,
    tasks: torch.Tensor,
    chunks: torch.Tensor,
    index: torch.Tensor,
    frames: torch.Tensor,
    mirrors: int,
    numel: int,
    groups: int,
) -> None:
    """Nothing to keep: a plan on the meta device has no kernel."""


def _check_fake(tensors: Tensors, plan: int) -> None:
    _on_one_device(tensors, plan)


def _apply_fake(
    tensors: Tensors,
    plan: int,
    verb: int,
    amount: float = 0.0,
    amounts: torch.Tensor | None = None,
    amount_index: int = 0,
) -> None:
    _on_one_device(tensors if amounts is None else [*tensors, amounts], plan)


def _prox_group_fake(
    tensors: Tensors, plan: int, threshold: float = 0.0, thresholds: torch.Tensor | None = None
) -> None:
    _on_one_device(tensors if thresholds is None else [*tensors, thresholds], plan)


def _norms_fake(
    tensors: Tensors,
    plan: int,
    before: torch.Tensor | None = None,
    per: int = PER_MIRROR,
    root: bool = False,
) -> torch.Tensor:
    tables = _on_one_device(tensors if before is None else [*tensors, before], plan)
    count = tables.groups if per == PER_GROUP else tables.mirrors
    return torch.empty(count, dtype=torch.float64, device=tables.frames.device)


def _coefficients_fake(tensors: Tensors, plan: int) -> torch.Tensor:
    tables = _on_one_device(tensors, plan)
    return torch.empty(tables.numel, dtype=tables.frames.dtype, device=tables.frames.device)


for _name, _fake in (
    ("plan_store", _store_fake),
    ("plan_check", _check_fake),
    ("plan_apply_", _apply_fake),
    ("plan_prox_group_", _prox_group_fake),
    ("plan_norms", _norms_fake),
    ("plan_coefficients", _coefficients_fake),
):
    torch.library.register_fake(f"symfast::{_name}", _fake, lib=ops.LIBRARY)
    # Nothing here is differentiated: without this every caller would have to leave autograd first.
    ops.LIBRARY.impl(_name, torch.library.fallthrough_kernel, "Autograd")


def store(tables: Tables) -> int:
    """Check the tables and keep them; returns the key that verbs name them by."""
    plan = secrets.randbits(62)  # not of `random`, which users seed
    torch.ops.symfast.plan_store.default(
        plan, tables.layout, tables.tasks, tables.chunks, tables.index, tables.frames,
        tables.mirrors, tables.numel, tables.groups,
    )  # fmt: skip
    plan_tables.KEPT.setdefault(plan, tables)
    return plan


def drop(plan: int) -> None:
    """Forget tables. A verb that runs in another thread keeps them to its end."""
    plan_tables.drop(plan)
    if ops.has_kernels():
        from symfast import _C

        _C.plan_drop(plan)
