# SPDX-License-Identifier: Apache-2.0
"""The program that checks and times the CUDA kernels without torch: `make gpu`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402

ROOT = Path(__file__).parents[1]
DRIVER = ROOT / "benchmarks"
NVCC = shutil.which(os.environ.get("CUDACXX", "nvcc"))


def run(*command: object, **variables: str) -> str:
    environment = emulated.clean_environment() | variables
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.timeout(1200)
def test_driver_compiles_and_says_where_it_cannot_run(tmp_path: Path) -> None:
    if NVCC is None and os.environ.get("SYMFAST_CUDA") != "ON":
        pytest.skip("no nvcc")
    program = tmp_path / "cuda_driver"
    run("bash", DRIVER / "cuda" / "build", program, SYMFAST_WERROR="ON")
    assert run(program, tmp_path, CUDA_VISIBLE_DEVICES="") == "not run: no CUDA device\n"


@pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")
def test_driver_finds_emulated_kernels_right(tmp_path: Path) -> None:
    """Its tables, launches and formulas, in float64 and float32, with this processor as device."""
    flags = [*emulated.FLAGS, *emulated.KERNEL_FLAGS, f"-I{DRIVER}", "-O1", "-x", "c++"]
    sources = [DRIVER / "cuda_driver.cu", *sorted((DRIVER / "cuda").glob("*.cu"))]
    sources += [emulated.HERE / name for name in emulated.RUNTIME]
    for source in sources:
        run(emulated.compiler(), *flags, "-c", source, "-o", tmp_path / f"{source.stem}.o")
    program = tmp_path / "driver"
    run(emulated.compiler(), *tmp_path.glob("*.o"), "-o", program)
    assert ", 0 wrong;" in run(program, tmp_path)
    found = json.loads((tmp_path / "emulator.json").read_text())
    assert len(found["kernels"]) > 200
    assert all(line["right"] for line in found["kernels"])
