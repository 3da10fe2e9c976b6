# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of every family, run on the CPU by tests/emulation, against float64."""

import sys
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
from families import CALLS, FAMILIES, PLANTED, TYPED  # noqa: E402
from family import Tensors, close  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")

#: Orders of threads beside forward, with threads that lose their turn at some accesses.
ORDERS = (("reverse", 1, 0), ("random", 1, 100), ("random", 2, 300))


@lru_cache
def library(family: str, dtype: torch.dtype) -> emulated.ctypes.CDLL:
    return emulated.load(dtype, FAMILIES[family].source).library


def run(family: str, name: str, dtype: torch.dtype, offset: int, **settings: object) -> Tensors:
    """One call; the emulator found nothing wrong."""
    emulator = emulated.Emulator(library(family, dtype), **settings)
    call = FAMILIES[family].calls[name](dtype, offset)
    got = call.run(emulator)
    emulator.check()
    assert emulator.totals()["launches"] == call.launches
    return got


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("family", "name", "dtype"), TYPED, ids=str)
def test_equals_float64(family: str, name: str, dtype: torch.dtype, offset: int) -> None:
    """Aligned, so that packs are used, and not."""
    wanted = FAMILIES[family].calls[name](dtype, offset).expected()
    close(run(family, name, dtype, offset), wanted, FAMILIES[family].tolerance)


@pytest.mark.parametrize(("family", "name", "dtype"), TYPED, ids=str)
def test_any_order_of_threads_gives_the_same_bits(
    family: str, name: str, dtype: torch.dtype
) -> None:
    wanted = run(family, name, dtype, 0)
    for order, seed, preempt in ORDERS:
        got = run(family, name, dtype, 0, order=order, seed=seed, preempt=preempt)
        for key, want in wanted.items():
            assert torch.equal(got[key].nan_to_num(7.0), want.nan_to_num(7.0)), (key, order)


@pytest.mark.parametrize(("family", "name"), CALLS)
def test_block_sizes(family: str, name: str) -> None:
    wanted = FAMILIES[family].calls[name](torch.float32, 0).expected()
    for threads in FAMILIES[family].threads:
        got = run(family, name, torch.float32, 0, threads=threads)
        close(got, wanted, FAMILIES[family].tolerance)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_offsets_beyond_32_bits(family: str) -> None:
    """Gigabytes of address space, hardly any of it touched, and the last block of the grid."""
    call = FAMILIES[family].huge()
    dtype = torch.bfloat16 if torch.bfloat16 in FAMILIES[family].dtypes else torch.float32
    emulator = emulated.Emulator(library(family, dtype), last_blocks=1)
    got = call.run(emulator)
    emulator.check()
    close(got, call.expected(), FAMILIES[family].tolerance)


@pytest.mark.parametrize(("family", "edit", "name"), PLANTED)
def test_planted_bugs_are_found(family: str, edit: str, name: str) -> None:
    """Lost barriers, overruns, wrong partners, strides and blocks: some order of threads shows."""
    entry = FAMILIES[family]
    library = emulated.load(torch.float32, entry.source, edit).library
    for order, offset in product(emulated.ORDERS, (0, 1)):
        call = entry.calls[name](torch.float32, offset)
        wanted = call.expected()
        emulator = emulated.Emulator(library, order=order)
        try:
            got = call.run(emulator)
            emulator.check()
            close(got, wanted, entry.tolerance)
        except AssertionError:
            return
    pytest.fail("nobody noticed")
