# SPDX-License-Identifier: Apache-2.0
"""What the evidence needs to know of a stem's CUDA kernels; families.py lists the stems."""

import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import emulated
import pytest
import torch
from torch import Tensor

Tensors = dict[str, Tensor]
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Call:
    """One call of a launcher on random operands."""

    #: What it wrote, to copies of the operands; outputs start as NaN, so what nobody wrote shows.
    run: Callable[[emulated.Emulator], Tensors]
    #: The same by the reference in float64.
    expected: Callable[[], Tensors]
    launches: int = 1


@dataclass(frozen=True)
class Stream:
    """A call that memory limits, and the bytes it cannot do without, by the name of a tensor."""

    call: Call
    dtype: torch.dtype
    read: dict[str, int]
    written: dict[str, int]
    #: Moved by 8 bytes, beside float32 numbers moved by 16.
    narrow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """The kernels of one stem."""

    source: str  # in this folder: launchers as C functions
    dtypes: tuple[torch.dtype, ...]
    #: By name: a call for an element type, its tensors so many elements into their storage.
    calls: dict[str, Callable[[torch.dtype, int], Call]]
    #: Largest error in units of eps (1 + |x|).
    tolerance: dict[torch.dtype, float]
    #: ``file:old=>new`` and the call that has to show it.
    planted: tuple[tuple[str, str], ...]
    #: A call whose operands have more than 2^31 elements, of which the last block's are looked at.
    huge: Callable[[], Call]
    streams: dict[str, Callable[[], Stream]] = field(default_factory=dict)
    #: Calls for the sanitizers, by default all.
    sanitized: tuple[str, ...] = ()
    #: Block sizes to try beside the launcher's.
    threads: tuple[int, ...] = (64, 128)


def shifted(tensor: Tensor, by: int) -> Tensor:
    """A copy that starts ``by`` elements into its storage."""
    store = torch.zeros(tensor.numel() + by, dtype=tensor.dtype)
    return store[by:].view(tensor.shape).copy_(tensor)


def untouched(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take address space, but no memory until they are written; skips without room."""
    count = int(torch.Size(shape).numel())
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    try:
        memory = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    except OSError:
        pytest.skip("no address space")
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def addresses(
    emulator: emulated.Emulator, name: str, tensors: list[Tensor]
) -> "ctypes.Array[Any] | None":
    """A table of the tensors' addresses, which kernels may touch now; None for no tensors."""
    if not tensors:
        return None
    found = [emulator.allow(name, tensor) for tensor in tensors]
    table = (ctypes.c_void_p * len(found))(*found)
    emulator.keep(table)
    return table


def structure(fields: list[tuple[str, Any]]) -> type[ctypes.Structure]:
    """A C structure of these fields."""
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


def close(got: Tensors, wanted: Tensors, tolerance: dict[torch.dtype, float]) -> None:
    """Fail unless all tensors are equal within the tolerance; whole numbers exactly."""
    for name, want in wanted.items():
        value = got[name]
        units = tolerance.get(value.dtype, 0)
        allowed = units * torch.finfo(value.dtype).eps if value.is_floating_point() else 0
        torch.testing.assert_close(
            value.double(), want.double(), rtol=allowed, atol=allowed, equal_nan=True,
            msg=lambda words, name=name: f"{name}: {words}",
        )  # fmt: skip
