# SPDX-License-Identifier: Apache-2.0
"""What the emulated CUDA sweep does on request; test_emulated_kernels.py has the rest."""

import sys
from pathlib import Path

import pytest
import torch

from symfast.reference.factor_sweep import CANCELLED, DIVERGED

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import emulated  # noqa: E402
from sweep_calls import expected, problem, run  # noqa: E402

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="no C++ compiler")


@pytest.mark.parametrize("d", [10, 40])
def test_diverged_and_cancelled(d: int) -> None:
    x, emulator = problem(5, 2, d, torch.float32), emulated.load(source="factor_sweep.cpp")
    x["lr"][2], x["depth"][2] = 1e3, 2
    got, want = run(x, 40, 0.0, emulator), expected(x, 40, 0.0)
    emulator.check()
    assert got["status"].tolist() == want["status"].tolist()
    assert got["status"][2] == DIVERGED
    keep = torch.arange(5) != 2
    torch.testing.assert_close(got["weight"][keep], want["weight"][keep], atol=3e-5, rtol=3e-5)
    stopped = run(x, 40, 0.0, emulator, cancel=True)
    emulator.check()
    assert set(stopped["status"].tolist()) == {CANCELLED}
    assert stopped["steps_used"].tolist() == [0] * 5
    assert torch.equal(stopped["factors"], x["factors"])
    assert stopped["progress"].tolist() == [0, 1]
