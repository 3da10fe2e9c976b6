# SPDX-License-Identifier: Apache-2.0
"""ThreadSanitizer follows torch's threads: it knows what is ordered, and still sees a race."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    built = tmp_path_factory.mktemp("parallel") / "program"
    command = [
        compiler, "-std=c++20", "-O1", "-fsanitize=thread",
        "-DTORCH_TARGET_VERSION=0x020d000000000000",
        f"-I{HERE.parent / 'csrc'}", f"-I{TORCH / 'include'}", str(HERE / "parallel_program.cpp"),
        "-o", str(built), "-Wl,--no-as-needed", f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10",
        f"-Wl,-rpath,{TORCH / 'lib'}",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in found.stderr and "tsan" in found.stderr:
        pytest.skip("no libtsan")
    assert found.returncode == 0, found.stderr
    return built


def run(program: Path, what: str) -> subprocess.CompletedProcess[str]:
    options = {"OMP_NUM_THREADS": "2", "TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | options
    found = subprocess.run(
        [str(program), what], env=environment, capture_output=True, text=True, timeout=250
    )
    if "unexpected memory mapping" in found.stderr:
        pytest.skip("this kernel's address space is too random for ThreadSanitizer")
    return found


def test_what_torch_orders_is_no_race(program: Path) -> None:
    found = run(program, "ordered")
    assert found.returncode == 0, found.stderr
    assert found.stdout == "128\n"


def test_a_race_between_ranges_is_found(program: Path) -> None:
    found = run(program, "racy")
    assert found.returncode != 0
    assert "data race" in found.stderr
    assert "parallel_program.cpp" in found.stderr or "racy" in found.stderr
