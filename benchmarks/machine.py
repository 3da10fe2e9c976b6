# SPDX-License-Identifier: Apache-2.0
"""Limits of this machine, measured in the same run as what they are compared with."""

import ctypes
import statistics
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


def every_turn(
    *calls: Callable[[], object],
    seconds: float = 0.5,
    between: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """The times of each call, taken in turns so that a slow spell hits all of them.

    ``between`` runs before every call and does not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    stop = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < stop:
        for call, own in zip(calls, times, strict=True):
            between()
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return times


def in_turns(
    *calls: Callable[[], object],
    seconds: float = 0.5,
    between: Callable[[], object] = lambda: None,
) -> list[float]:
    """The shortest time of each call in :func:`every_turn`."""
    return [min(own) for own in every_turn(*calls, seconds=seconds, between=between)]


def ratio(mine: list[float], theirs: list[float]) -> float:
    """The median over turns of one time over the other beside it.

    Memory that other machines share changes its pace within a run, so that the shortest times of
    two calls can be of different paces.
    """
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def walk_elsewhere(megabytes: float = 320) -> Callable[[], object]:
    """A call that takes what others had in the caches, as the rest of a training step does."""
    memory = torch.zeros(int(megabytes * 1e6 / 4))
    return lambda: memory.add_(1)


@cache
def library(source: str, optimize: str) -> ctypes.CDLL:
    """A C file of this folder, compiled for this processor."""
    target = (Path(tempfile.mkdtemp()) / source).with_suffix(".so")
    subprocess.run(
        ["cc", optimize, "-march=native", "-shared", "-fPIC", "-pthread", "-o", str(target),
         str(HERE / source)],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(target))


def fma_peak(threads: int, double: bool) -> float:
    """Multiply-adds per second times two, with independent registers: one measurement."""
    peak = library("fma_peak.c", "-O2").fma_peak
    peak.restype = ctypes.c_double
    peak.argtypes = [ctypes.c_int, ctypes.c_int]
    return float(peak(threads, int(double)))


def stream_bandwidth(megabytes: float, reads: float) -> float:
    """GB/s of a stream that reads ``reads`` + 1 numbers for every number it writes.

    A fractional mix is taken between the whole ones beside it. Measured at every call, beside what
    it is compared with: memory that other machines share drifts within minutes.
    """
    low = int(reads)
    found = _stream(megabytes, low)
    if reads > low:
        found += (reads - low) * (_stream(megabytes, low + 1) - found)
    return found


def _stream(megabytes: float, reads: int) -> float:
    n = int(megabytes * 1e6 / 4 / (reads + 1))
    rw, r = torch.ones(n), torch.zeros(n * reads + 1)
    threads = torch.get_num_threads()
    stream = library("stream.c", "-O3").stream
    pointers = ctypes.c_void_p(rw.data_ptr()), ctypes.c_void_p(r.data_ptr())
    sizes = [ctypes.c_int64(x) for x in (n, reads, threads)]
    seconds = best(lambda: stream(*pointers, *sizes))
    return 4 * n * (reads + 2) / seconds / 1e9


def read_bandwidth(megabytes: float) -> float:
    """GB/s of reading alone."""
    n = int(megabytes * 1e6 / 4)
    found, r = torch.zeros(64), torch.ones(n)
    threads = torch.get_num_threads()
    pointers = ctypes.c_void_p(found.data_ptr()), ctypes.c_void_p(r.data_ptr())
    read = library("stream.c", "-O3").read_stream
    sizes = [ctypes.c_int64(x) for x in (n, threads)]
    return 4 * n / best(lambda: read(*pointers, *sizes)) / 1e9


def reading(megabytes: float) -> Callable[[], object]:
    """A call that reads so much memory and writes none, by the threads that torch keeps."""
    memory = torch.ones(int(megabytes * 1e6 / 4))
    return lambda: memory.sum()
