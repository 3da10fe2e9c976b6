# SPDX-License-Identifier: Apache-2.0
"""Mirror constraints of two-layer networks: kernel = reference = Plan = sf.optim, cell by cell."""

from typing import Any

import pytest
import torch
from replica_problems import WRITTEN, assert_same, problem, run, run_reference, select
from torch import nn

import symfast as sf
from symfast import ops
from symfast.codes import PROJECT, PROX, SHRINK
from symfast.problems import TwoLayer
from symfast.reference.unit_mirrors import CONSTRAINTS, constrain
from symfast.replica import UnitMirrors
from symfast.symmetry import Symmetry

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
GENERATOR = torch.Generator().manual_seed(0)
DIRECTION = sf.Direction(
    torch.randn(9, 2, generator=GENERATOR, dtype=torch.float64), orthonormalize=True
)
SYMMETRIES: list[Symmetry] = [
    sf.SignFlip([0, 8]),
    sf.Swap([1, 2], [5, 3]),
    sf.Cluster([-1, -1, -1, -1, 0, -1, 0, 0, 0]),
    DIRECTION,
]


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("rule", "bias"), [("sgd", True), ("adam", True), ("adamw", False)])
def test_kernel_equals_reference(
    rule: str, bias: bool, dtype: torch.dtype, tol: float, capability: str
) -> None:
    """All constraints, mirrors, batch sizes and kinds of noise in one call of 100 steps."""
    torch.manual_seed(3)
    sizes = (3, 9, 2)
    call = problem(9, sizes, dtype, 100, rule, activation="tanh", bias=bias, symmetries=SYMMETRIES)
    got, want = run(call), run_reference(call)
    free = run(call, constraint=call["constraint"] * 0)
    held = call["constraint"] != 0
    assert ((got["theta"] - free["theta"]).abs().amax(1) > 1e-3).tolist() == held.tolist()
    for name in WRITTEN:
        torch.testing.assert_close(got[name], want[name], atol=tol, rtol=tol, msg=name)


@needs_kernels
def test_alone_and_in_pieces_bit_for_bit() -> None:
    call = problem(40, (3, 9, 2), torch.float32, 130, symmetries=SYMMETRIES)
    call["seed"], call["batch"] = call["seed"] * 0 + 3, call["batch"] * 0 + 6
    whole = run(call)
    rows = torch.tensor([39, 1, 14, 7])
    assert_same(run(select(call, rows)), {name: x[rows] for name, x in whole.items()})
    schedule = call["schedule"]
    state = call | run(call, schedule=schedule[:, :50].contiguous())
    rest = run(state, schedule=schedule[:, 50:].contiguous(), first_step=50)
    assert_same(rest, whole)


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda x: x.kind)
def test_reference_equals_plan(symmetry: Symmetry) -> None:
    U = torch.randn(4, 9, 5, dtype=torch.float64)
    amount = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    tables = UnitMirrors.of([symmetry], 9).to(U)
    for constraint in (PROJECT, SHRINK, PROX):
        stacked = U.clone()
        plan = sf.Plan([(sf.Units([(stacked, 0)], replicas=4), symmetry)], replicas=4)
        if constraint == PROJECT:
            plan.project_()
        else:
            verb = plan.shrink_ if constraint == SHRINK else plan.prox_
            verb(amount[:, None])
        torch.testing.assert_close(constrain(U, constraint, amount, *tables), stacked)


@needs_kernels
@pytest.mark.parametrize("constraint", CONSTRAINTS[1:])
def test_two_layer_equals_constrained_optimizer(constraint: str) -> None:
    """One cell of a sweep is torch.nn with sf.optim.SGD and a plan, momentum and schedule too."""
    X, Y = torch.randn(20, 3).double(), torch.randn(20, 2).double()
    problem = TwoLayer(X, Y, hidden=9, activation="tanh", mirrors=SYMMETRIES)
    grid: dict[str, Any] = {"lr": 0.1, "momentum": 0.5, "strength": 0.3, "steps": 30}
    result = sf.sweep(problem, constraint=["none", constraint], schedule="step", seeds=[4], **grid)
    theta = problem._draw(4)
    net = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    parts = problem.parts(theta[None])
    with torch.no_grad():
        for p, x in zip(net.parameters(), parts[:4], strict=True):
            p.copy_(x[0])
    units = sf.Units([(net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)])
    plan = sf.Plan([(units, x) for x in SYMMETRIES], overlap="order")
    optimizer = sf.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.5, plan=plan, constraint=constraint, strength=0.3
    )
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.1 * (1, 0.1, 0.01)[(step >= 15) + (step >= 22.5)]
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X), Y).backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    torch.testing.assert_close(torch.from_numpy(result.weights[1]), flat, atol=1e-12, rtol=0)
    free, held = result.table.violation
    assert held < free


@needs_kernels
def test_constraints_show_in_the_order_parameters() -> None:
    """Projected clusters leave as many different units as there are clusters; flips leave none."""
    X = torch.randn(40, 3).double()
    for symmetry, name, wanted in (
        (sf.Cluster([0, 0, 0, 1, 1, 1]), "distinct", [6, 2]),
        (sf.SignFlip([0, 1, 2, 3]), "units", [6, 2]),
        (sf.Direction(torch.eye(6)[:, :4]), "rank", [5, 2]),
    ):
        inputs = X if name != "rank" else torch.randn(40, 5).double()
        problem = TwoLayer(inputs, inputs[:, :1].sin(), hidden=6, mirrors=symmetry)
        table = sf.sweep(problem, constraint=["none", "project"], lr=0.05, steps=50).table
        assert table[name].tolist() == wanted
        assert table.violation[1] < 1e-12 < table.violation[0]


def test_mirrors_that_do_not_fit_are_refused() -> None:
    X = torch.randn(8, 3)
    with pytest.raises(ValueError, match="unit 6"):
        TwoLayer(X, X, hidden=6, mirrors=sf.SignFlip([6]))
    with pytest.raises(ValueError, match="9 units|6 units"):
        TwoLayer(X, X, hidden=6, mirrors=DIRECTION)
    with pytest.raises(ValueError, match="not a batch"):
        TwoLayer(X, X, hidden=6, mirrors=sf.Mirror(torch.eye(6)[None, :, :2]))
    with pytest.raises(TypeError, match="no axis or option called 'strength'"):
        sf.sweep(TwoLayer(X, X, hidden=6), strength=0.1)
