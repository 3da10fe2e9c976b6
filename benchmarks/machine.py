# SPDX-License-Identifier: Apache-2.0
"""Limits of this machine, measured in the same run as what they are compared with."""

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).parent


def best(call: Callable[[], object], seconds: float = 0.4, least: int = 5) -> float:
    """The shortest of many runs, in seconds; the first two do not count."""
    call()
    call()
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < stop:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@cache
def _library() -> ctypes.CDLL:
    target = Path(tempfile.mkdtemp()) / "stream.so"
    subprocess.run(
        ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-pthread", "-o", str(target),
         str(HERE / "stream.c")],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(target))


def stream_bandwidth(megabytes: float, reads: float) -> float:
    """GB/s of a stream that reads ``reads`` + 1 numbers for every number it writes.

    A fractional mix is taken between the whole ones beside it.
    """
    low = int(reads)
    found = _stream(megabytes, low)
    if reads > low:
        found += (reads - low) * (_stream(megabytes, low + 1) - found)
    return found


@cache
def _stream(megabytes: float, reads: int) -> float:
    n = int(megabytes * 1e6 / 4 / (reads + 1))
    rw, r = torch.ones(n), torch.zeros(n * reads + 1)
    threads = torch.get_num_threads()
    library = _library()
    pointers = ctypes.c_void_p(rw.data_ptr()), ctypes.c_void_p(r.data_ptr())
    sizes = [ctypes.c_int64(x) for x in (n, reads, threads)]
    seconds = best(lambda: library.stream(*pointers, *sizes))
    return 4 * n * (reads + 2) / seconds / 1e9


@cache
def read_bandwidth(megabytes: float) -> float:
    """GB/s of reading alone."""
    n = int(megabytes * 1e6 / 4)
    found, r = torch.zeros(64), torch.ones(n)
    threads = torch.get_num_threads()
    pointers = ctypes.c_void_p(found.data_ptr()), ctypes.c_void_p(r.data_ptr())
    library = _library()
    sizes = [ctypes.c_int64(x) for x in (n, threads)]
    return 4 * n / best(lambda: library.read_stream(*pointers, *sizes)) / 1e9
