# SPDX-License-Identifier: Apache-2.0
"""What importing symfast takes beyond torch, in fresh processes with compiled bytecode."""

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from tables import tables

note, report = tables()
SCRIPT = """
import time
import torch
start = time.perf_counter()
import symfast
print(time.perf_counter() - start, "scipy" in __import__("sys").modules)
"""


def test_import(benchmark: Any) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp()

    def once() -> float:
        command = [sys.executable, "-c", SCRIPT]
        found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        seconds, scipy = found.stdout.split()
        assert scipy == "False", "heavy packages are for the functions that need them"
        return float(seconds)

    once()  # compiles the bytecode
    seconds = [once() for _ in range(5)]
    note("Importing symfast after torch, seconds (wanted: 0.3)",
         median=f"{statistics.median(seconds):.2f}", least=f"{min(seconds):.2f}")  # fmt: skip
    benchmark.pedantic(lambda: None, rounds=1)
