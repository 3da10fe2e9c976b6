# SPDX-License-Identifier: Apache-2.0
"""The tables of a plan as a value, and those of this process by their key."""

from dataclasses import dataclass, field
from itertools import groupby

import torch


def _no_numbers() -> torch.Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Tables:
    """What csrc/plan.h describes, of one (device, dtype, stage).

    ``layout``, ``tasks``, ``chunks`` and ``index`` are int64 on the CPU; ``frames`` is on the
    plan's device, in the type sums are kept in. ``mirrors`` and ``groups`` are the lengths of the
    norms, ``numel`` that of the flat coefficients.
    """

    layout: torch.Tensor = field(default_factory=_no_numbers)
    tasks: torch.Tensor = field(default_factory=_no_numbers)
    chunks: torch.Tensor = field(default_factory=_no_numbers)
    index: torch.Tensor = field(default_factory=_no_numbers)
    frames: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    mirrors: int = 0
    numel: int = 0
    groups: int = 0


#: What the reference and the fakes look up. Compiled kernels keep their own copies.
KEPT: dict[int, Tables] = {}


def keep(plan: int, tables: Tables) -> None:
    """Put the tables under a key, which must be new."""
    if KEPT.setdefault(plan, tables) is not tables:
        raise RuntimeError(f"there is a plan under key {plan} already; keys are used once")


def find(plan: int) -> Tables:
    """The tables under a key."""
    tables = KEPT.get(plan)
    if tables is None:
        raise RuntimeError(
            f"there is no plan under key {plan}: it was dropped or never stored in this process"
        )
    return tables


def drop(plan: int) -> None:
    """Forget a key, if it is there."""
    KEPT.pop(plan, None)


def transposed_frames(frames: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """All frames as A^T, one after the other, in the type sums are kept in."""
    flat = []
    for _, alike in groupby(frames, key=lambda frame: (frame.shape, frame.dtype)):
        batch = list(alike)
        whole = torch.stack(batch) if len(batch) > 1 else batch[0]
        flat.append(whole.mT.reshape(-1))
    return torch.cat(flat).to(dtype) if flat else torch.zeros(0, dtype=dtype)


def layout_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    """(dims, sizes.., strides..) of every tensor in a row: what a call checks against."""
    flat: list[int] = []
    for tensor in tensors:
        flat += [tensor.ndim, *tensor.shape, *tensor.stride()]
    return torch.tensor(flat, dtype=torch.int64)
