# SPDX-License-Identifier: Apache-2.0
"""The operator behind the optimizers: one step on lists of parameters, and a plan's verb on them.

``rule`` 0 is SGD, 1 is Adam. ``first`` and ``second`` are the states (momentum; both moments),
``steps`` 0-d float32 counters. ``settings`` (rows, 11) float64 and ``keys`` (parameters, 4) int64
say how: csrc/update.h names their columns. With a ``plan``, its parameters come first in the
lists, and its verb runs on every part of them right after the step.
"""

from typing import TypeAlias

import torch
from torch import Tensor

from symfast import ops, plan_tables
from symfast import plan_ops as _declared  # noqa: F401  (declares plan_apply_, called below)
from symfast.reference import update as formula

Tensors: TypeAlias = list[Tensor]


@torch.no_grad()
def _update_(
    rule: int,
    params: Tensors,
    grads: Tensors,
    first: Tensors,
    second: Tensors,
    steps: Tensors,
    settings: Tensor,
    keys: Tensor,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    plan: int = 0,
    verb: int = 0,
    amount: float = 0.0,
    amounts: Tensor | None = None,
    amount_index: int = 0,
) -> None:
    owned = _owned(params, plan)
    if plan:
        torch.ops.symfast.plan_check.default(owned, plan)
    formula.update_(
        rule, params, grads, first, second, steps, settings, keys, grad_scale, found_inf
    )
    if plan and not (found_inf is not None and found_inf.item()):
        torch.ops.symfast.plan_apply_.default(owned, plan, verb, amount, amounts, amount_index)


def _owned(params: Tensors, plan: int) -> Tensors:
    """The parameters of the plan, which come first."""
    if not plan:
        return []
    layout, at, count = plan_tables.find(plan).layout.tolist(), 0, 0
    while at < len(layout):
        at, count = at + 1 + 2 * layout[at], count + 1
    return params[:count]


ops.define(
    "update_",
    "(int rule, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] first, Tensor(c!)[] second, "
    "Tensor(d!)[] steps, Tensor settings, Tensor keys, Tensor? grad_scale=None, "
    "Tensor? found_inf=None, int plan=0, int verb=0, float amount=0.0, Tensor? amounts=None, "
    "int amount_index=0) -> ()",
    _update_,
)


def _update_fake(
    rule: int,
    params: Tensors,
    grads: Tensors,
    first: Tensors,
    second: Tensors,
    steps: Tensors,
    settings: Tensor,
    keys: Tensor,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    plan: int = 0,
    verb: int = 0,
    amount: float = 0.0,
    amounts: Tensor | None = None,
    amount_index: int = 0,
) -> None:
    formula.check(rule, params, grads, first, second, steps, settings, keys)


torch.library.register_fake("symfast::update_", _update_fake, lib=ops.LIBRARY)
ops.LIBRARY.impl("update_", torch.library.fallthrough_kernel, "Autograd")
