# SPDX-License-Identifier: Apache-2.0
"""The replica sweep as an operator: cancelling, empty calls, refused calls, opcheck."""

import pytest
import torch
from replica_problems import RULES, Call, operands, problem, run, select

from symfast import ops
from symfast.reference import replica as reference
from symfast.replica import UnitMirrors, replica_sweep_

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")


def test_cancel_and_progress() -> None:
    call = problem(5, (2, 3, 1), torch.float64, 70, noise=False)
    progress = torch.zeros(2, dtype=torch.int64)
    run(call, progress=progress)
    assert progress.tolist() == [350, 0]
    progress[1] = 1
    stopped = run(call, progress=progress)
    assert set(stopped["status"].tolist()) == {reference.CANCELLED}
    assert torch.equal(stopped["theta"], call["theta"])


@pytest.mark.parametrize("steps", [0, 3])
def test_empty(steps: int) -> None:
    call = problem(2, (2, 3, 1), torch.float32, steps)
    assert run(select(call, torch.arange(0)))["theta"].shape == (0, 13)
    if steps == 0:
        assert torch.equal(run(call)["theta"], call["theta"])


def test_unknown_names_are_refused_in_words() -> None:
    call = problem(2, (2, 3, 1), torch.float32, 1)
    with pytest.raises(ValueError, match="activation must be one of"):
        run(call, activation="gelu")
    with pytest.raises(ValueError, match="rates are lr, weight_decay"):
        run(call, rates={"beta3": torch.zeros(2)})


def tables(offsets: list[int], members: list[int], hidden: int) -> UnitMirrors:
    numbers = (torch.tensor(x, dtype=torch.int64) for x in (offsets, members))
    return UnitMirrors(*numbers, torch.zeros(1, hidden))


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.ones(40, 3)},
        {"y": torch.ones(39, 1)},
        {"theta": torch.ones(2, 14)},
        {"first": torch.ones(2, 13, dtype=torch.float64)},
        {"second": torch.ones(2, 13)},
        {"kind": torch.tensor([0, 2])},
        {"cell": torch.tensor([0, -1])},
        {"batch": torch.tensor([0, -1])},
        {"constraint": torch.tensor([0, 4])},
        {"mirrors": tables([0, 1], [3], 3)},
        {"mirrors": tables([0, 2], [1], 3)},
        {"mirrors": tables([0, 0, 1], [1], 3)},
        {"mirrors": tables([], [], 3)},
        {"mirrors": tables([0], [], 4)},
        {"seed": torch.zeros(3, dtype=torch.int64)},
        {"schedule": torch.ones(3)},
        {"progress": torch.zeros(1, dtype=torch.int64)},
        {"hidden": 257},
        {"first_step": -1},
        {"theta": torch.ones(13, 2).T},
    ],
)
def test_operator_protects_memory(change: Call) -> None:
    call = problem(2, (2, 3, 1), torch.float32, 2)
    before = call["theta"].clone()
    with pytest.raises(RuntimeError, match="replica_sweep_"):
        replica_sweep_(**(call | change))
    assert torch.equal(call["theta"], before)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_opcheck(rule: str) -> None:
    call = problem(3, (2, 3, 1), torch.float64, 4, rule)
    arguments = [*operands(call), 3, True, 2, 0, RULES.index(rule), 0]
    torch.library.opcheck(torch.ops.symfast.replica_sweep_.default, tuple(arguments))
