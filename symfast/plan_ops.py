# SPDX-License-Identifier: Apache-2.0
"""The operators behind a plan: schemas, references and fakes over the tables of csrc/plan.h."""

import torch

from symfast import ops
from symfast.reference import plan as reference
from symfast.units import ACCUMULATE

_TABLES = "Tensor layout, Tensor tasks, Tensor chunks, Tensor index, Tensor frames"

ops.define(
    "plan_check", "(Tensor[] tensors, Tensor layout, Tensor frames) -> ()", reference.plan_check
)
ops.define(
    "plan_apply_",
    f"(Tensor(a!)[] tensors, {_TABLES}, Tensor? amounts, float amount, int amount_index, "
    "int verb) -> ()",
    reference.plan_apply_,
)
ops.define(
    "plan_norms", f"(Tensor[] tensors, {_TABLES}, int mirrors) -> Tensor", reference.plan_norms
)
ops.define(
    "plan_coefficients",
    f"(Tensor[] tensors, {_TABLES}, int numel) -> Tensor",
    reference.plan_coefficients,
)


def _same_device(tables: tuple[torch.Tensor, ...], tensors: list[torch.Tensor]) -> None:
    """One meta tensor among real ones lands here too: refuse it instead of answering rubbish."""
    if len({tensor.device for tensor in (*tables, *tensors)}) > 1:
        raise RuntimeError("the parameters and tables of a plan must be on one device")


def _check_fake(tensors: list[torch.Tensor], layout: torch.Tensor, frames: torch.Tensor) -> None:
    _same_device((frames,), tensors)


def _apply_fake(
    tensors: list[torch.Tensor],
    layout: torch.Tensor,
    tasks: torch.Tensor,
    chunks: torch.Tensor,
    index: torch.Tensor,
    frames: torch.Tensor,
    amounts: torch.Tensor | None,
    amount: float,
    amount_index: int,
    verb: int,
) -> None:
    given = () if amounts is None else (amounts,)
    _same_device((tasks, chunks, index, frames, *given), tensors)


def _norms_fake(
    tensors: list[torch.Tensor],
    layout: torch.Tensor,
    tasks: torch.Tensor,
    chunks: torch.Tensor,
    index: torch.Tensor,
    frames: torch.Tensor,
    mirrors: int,
) -> torch.Tensor:
    _same_device((tasks, chunks, index, frames), tensors)
    return tasks.new_empty(mirrors, dtype=torch.float64)


def _coefficients_fake(
    tensors: list[torch.Tensor],
    layout: torch.Tensor,
    tasks: torch.Tensor,
    chunks: torch.Tensor,
    index: torch.Tensor,
    frames: torch.Tensor,
    numel: int,
) -> torch.Tensor:
    _same_device((tasks, chunks, index, frames), tensors)
    dtype = ACCUMULATE.get(tensors[0].dtype, torch.float32) if tensors else torch.float32
    return tasks.new_empty(numel, dtype=dtype)


for _name, _fake in (
    ("plan_check", _check_fake),
    ("plan_apply_", _apply_fake),
    ("plan_norms", _norms_fake),
    ("plan_coefficients", _coefficients_fake),
):
    torch.library.register_fake(f"symfast::{_name}", _fake, lib=ops.LIBRARY)
