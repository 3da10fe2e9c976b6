# SPDX-License-Identifier: Apache-2.0
"""The grid every test may ask for: device, dtype, instruction set."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

import symfast
from symfast import ops

# Kernel calls vary in time with the machine's load; CI must not fail for that, nor at random.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "default")

CAPABILITIES = ["baseline", "avx2", "avx512"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def pytest_configure() -> None:
    """Share the cores among the workers: spinning threads on busy cores cost minutes."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def pytest_report_header() -> str:
    """Say what is being tested."""
    asked = ["kernels", "cpu_capability", "cuda", "cuda_device", "sanitizer", "torch"]
    info = symfast.build_info()
    return "symfast: " + ", ".join(f"{key} {info[key]!r}" for key in asked if key in info)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """No pool of threads: a forked child has none, and tiny matrices only wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each kind of device of this machine."""
    if request.param == "cuda" and not torch.cuda.is_available():
        refuse = pytest.fail if os.environ.get("SYMFAST_TEST_CUDA") == "1" else pytest.skip
        refuse("torch sees no CUDA device")
    return torch.device(request.param)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each supported dtype."""
    found = request.param
    assert isinstance(found, torch.dtype)
    return found


@pytest.fixture(params=CAPABILITIES)
def capability(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that the kernels were compiled for and this processor runs."""
    if not ops.has_kernels():
        pytest.skip("no compiled kernels")
    from symfast import _C

    before = _C.cpu_capability()
    try:
        _C.set_cpu_capability(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _C.set_cpu_capability(before)
