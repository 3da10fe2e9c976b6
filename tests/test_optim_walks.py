# SPDX-License-Identifier: Apache-2.0
"""Large parameters under dense frames, whose units threads share, to the bit."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter

import symfast as sf

#: Sizes and the dim of the units: whole rows, an odd one, a convolution's columns by sample; all
#: but the last are cut into segments of units.
SHAPES = {
    "rows": ((300, 1100), 0),
    "few long rows": ((21, 10100), 0),
    "outer": ((2, 150, 900), 1),
    "kernels": ((2, 190, 29, 31), 1),
    "one segment": ((13, 5100), 0),
}


def stepped(shape: tuple[int, ...], dim: int, k: int, dtype: torch.dtype, verb: str) -> Any:
    """The parameter after two fused steps, and after two steps and the verb."""
    make = torch.Generator().manual_seed(k)
    frame = torch.randn(shape[dim], k, generator=make, dtype=torch.float64)
    first = torch.randn(shape, generator=make, dtype=torch.float64).to(dtype)
    grads = [torch.randn(shape, generator=make).to(dtype) for _ in range(2)]
    symmetry = sf.Direction(torch.linalg.qr(frame).Q)
    fused, plain = Parameter(first.clone()), Parameter(first.clone())
    plans = [sf.Plan([(sf.Units([(p, dim)]), symmetry)]) for p in (fused, plain)]
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1}
    constrained = sf.optim.AdamW([fused], **options, plan=plans[0], constraint=verb, strength=0.7)
    unconstrained = sf.optim.AdamW([plain], **options)
    for grad in grads:
        fused.grad, plain.grad = grad.clone(), grad.clone()
        constrained.step()
        unconstrained.step()
        plans[1].project_() if verb == "project" else plans[1].shrink_(0.1 * 0.7)
    return fused.detach(), plain.detach()


@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shared_units_to_the_bit(shape: str, k: int, dtype: torch.dtype, capability: str) -> None:
    """Step then verb, however many threads take the segments of units, and in whatever order."""
    if k > SHAPES[shape][0][SHAPES[shape][1]]:
        pytest.skip("more directions than units")
    threads, verb = torch.get_num_threads(), "project" if k == 1 else "shrink"
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            fused, plain = stepped(*SHAPES[shape], k, dtype, verb)
            assert torch.equal(fused, plain)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("k", [1, 16, 17])
def test_sums_of_segments(k: int, capability: str) -> None:
    """A plan's verb on units by the thousand, in segments or, for many directions, at once."""
    make = torch.Generator().manual_seed(k)
    theta = torch.randn(2003, 300, generator=make)
    frame = torch.linalg.qr(torch.randn(2003, k, generator=make, dtype=torch.float64)).Q
    wanted = theta.double() - frame @ (frame.T @ theta.double())
    plan = sf.Plan([(sf.Units([(theta, 0)]), sf.Direction(frame))])
    coefficients = (frame.T @ theta.double()).pow(2).sum().sqrt()
    torch.testing.assert_close(plan.norms().double().pow(2).sum().sqrt(), coefficients)
    plan.project_()
    torch.testing.assert_close(theta.double(), wanted, rtol=0, atol=2e-6)


def test_a_view_with_gaps_between_units() -> None:
    """Columns of a wider parameter, in segments: what no unit has is stepped on and no more."""
    make = torch.Generator().manual_seed(3)
    first, grad = torch.randn(400, 1000, generator=make), torch.randn(400, 1000, generator=make)
    frame = torch.linalg.qr(torch.randn(400, 2, generator=make, dtype=torch.float64)).Q
    found = []
    for fused in (True, False):
        p = Parameter(first.clone())
        p.grad = grad.clone()
        plan = sf.Plan([(sf.Units([(p.detach()[:, 100:900], 0)]), sf.Direction(frame))])
        sf.optim.AdamW([p], lr=0.1, plan=plan if fused else None).step()
        if not fused:
            plan.project_()
        found.append(p.detach())
    assert torch.equal(*found)


def test_beside_other_work() -> None:
    """Two walks, a late entry and what no plan knows, in one call."""
    make = torch.Generator().manual_seed(0)
    shapes = [(512, 700), (512,), (400, 512), (64, 64), (512, 300)]
    mine = [Parameter(torch.randn(s, generator=make)) for s in shapes]
    theirs = [Parameter(p.detach().clone()) for p in mine]
    frame = torch.linalg.qr(torch.randn(512, 2, generator=make)).Q

    def plan_on(p: list[Parameter]) -> sf.Plan:
        units = sf.Units([(p[0], 0), (p[1], 0), (p[2], 1), (p[4], 0)])
        return sf.Plan([(units, sf.Direction(frame))])

    fused, plain = sf.optim.SGD(mine, lr=0.1, plan=plan_on(mine)), sf.optim.SGD(theirs, lr=0.1)
    plan = plan_on(theirs)
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=make)
            b.grad = a.grad.clone()
        fused.step()
        plain.step()
        plan.project_()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)
