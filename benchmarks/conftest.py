# SPDX-License-Identifier: Apache-2.0
"""Writes what the benchmarks of a run found, and the limits of the machine, to results/.

After every file, so that whatever happens to the rest of a run takes nothing away. The seconds each
file took are printed at the end.
"""

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import fma_peak, stream_bandwidth
from tables import FOUND

from symfast.build import build_info

RESULTS = Path(__file__).parent / "results"
#: What each file of this run took.
SECONDS: dict[str, float] = {}


def processor() -> str:
    """What the processor calls itself."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    return found[1].strip() if found else "unknown processor"


@cache
def machine() -> dict[str, Any]:
    """The machine and its limits, measured once in a run."""
    facts, threads = build_info(), torch.get_num_threads()
    stream = {f"{reads} read per written": stream_bandwidth(160, reads) for reads in (1, 2, 5)}
    peak = {
        str(t): max(fma_peak(threads, t == "float64") for _ in range(3))
        for t in ("float32", "float64")
    }
    return {
        "processor": processor(),
        "threads": threads,
        "instructions": facts["cpu_capability"],
        "torch": facts["torch"],
        "compiler": facts["compiler"],
        "stream_gigabytes_per_second": {"in place": stream_bandwidth(160, 0), **stream},
        "fma_peak_flops": peak,
    }


def results() -> Path:
    """The file for runs on this machine."""
    facts = machine()
    words = f"{facts['processor']} {facts['instructions']} {facts['threads']} threads"
    return RESULTS / (re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json")


def merge(path: Path, stem: str, record: dict[str, Any], seconds: float) -> None:
    """Put what a file found in place of what it had found before, and keep the other files.

    A run that was narrowed to some tests of a file keeps the file's other tables.
    """
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"files": {}}
    content["machine"] = machine()
    old = content["files"].setdefault(stem, {"tables": {}, "roofline": {}, "scaling": {}})
    for kind, parts in record.items():
        old[kind].update(parts)
    old["measured"] = datetime.now(timezone.utc).isoformat(timespec="minutes")
    old["seconds"] = round(seconds, 1)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="module", autouse=True)
def written(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write what a file found when it is done, also if some of its tests failed."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    stem = request.path.stem
    SECONDS[stem] = seconds
    record = FOUND.get(stem, {})
    if any(record.values()):
        merge(results(), stem, record, seconds)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seconds of every file, and where the results are."""
    if not SECONDS:
        return
    terminalreporter.section("seconds of every file")
    for stem, seconds in SECONDS.items():
        terminalreporter.write_line(f"{stem:24} {seconds:7.1f}")
    terminalreporter.write_line(f"{'all':24} {sum(SECONDS.values()):7.1f}")
    terminalreporter.write_line(f"written: {results()}")
