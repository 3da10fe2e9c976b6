# SPDX-License-Identifier: Apache-2.0
"""What the emulated CUDA replica sweep does on request; test_emulated_kernels.py has the rest."""

import sys
from pathlib import Path

import pytest
import torch

from symfast.reference import replica as reference

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
from replica_calls import SHARED, launch, operands  # noqa: E402
from replica_problems import problem  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")


def test_diverged_and_cancelled() -> None:
    call = problem(3, (2, 3, 1), torch.float32, 65, noise=False)
    call["batch"] = call["batch"] * 0 + 4
    call["rates"]["lr"][1] = 1e30
    emulator, got = emulated.load(source="replica.cpp"), operands(call)
    launch(call, got, emulator, SHARED)
    emulator.check()
    assert got["status"].tolist() == [0, reference.DIVERGED, 0]
    assert got["taken"].tolist() == [65, 64, 65]
    assert got["theta"][1].isnan().all()
    assert got["theta"][::2].isfinite().all()
    stopped = operands(call)
    stopped["progress"][1] = 1
    launch(call, stopped, emulator, SHARED)
    emulator.check()
    assert stopped["status"].tolist() == [reference.CANCELLED] * 3
    assert torch.equal(stopped["theta"], call["theta"])
