# SPDX-License-Identifier: Apache-2.0
"""Writes what the benchmarks of a run found, and the limits of the machine, to results/."""

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import fma_peak, stream_bandwidth
from tables import FOUND

from symfast.build import build_info

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """What the processor calls itself."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    return found[1].strip() if found else "unknown processor"


def machine() -> dict[str, Any]:
    """The machine and its limits, measured now."""
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


def merge(path: Path, found: dict[str, dict[str, Any]], facts: dict[str, Any], now: str) -> None:
    """Put the tables of this run in place of those with the same title, and keep the others."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"files": {}}
    content["machine"] = facts
    for stem, record in found.items():
        old = content["files"].setdefault(stem, {"tables": {}, "roofline": {}, "scaling": {}})
        for kind, parts in record.items():
            old[kind].update(parts)
        old["measured"] = now
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the results, unless nothing was measured."""
    found = {stem: record for stem, record in FOUND.items() if any(record.values())}
    if not found:
        return
    facts = machine()
    words = f"{facts['processor']} {facts['instructions']} {facts['threads']} threads"
    path = RESULTS / (re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json")
    merge(path, found, facts, datetime.now(timezone.utc).isoformat(timespec="minutes"))
    print(f"\nwritten: {path}")
