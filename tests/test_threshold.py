# SPDX-License-Identifier: Apache-2.0
"""The exact-penalty threshold: closed forms, and parameters that stay what they were."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import symfast as sf
from symfast.errors import ArtificialError


@pytest.mark.parametrize("mode", ["l1", "group"])
def test_closed_form_with_units(mode: str) -> None:
    """Quadratic loss around T: on the plane the minimiser is the projection, the force O^T T."""
    a, b = (nn.Parameter(torch.randn(4, 3, dtype=torch.float64)) for _ in range(2))
    targets = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64).T
    units = sf.Units([(a, 0), (b, 0)])
    plan = sf.Plan([(units, sf.Swap([0], [2]))])
    loss = lambda: sum(((p - t) ** 2).sum() for p, t in zip((a, b), targets, strict=True)) / 2  # noqa: E731
    before = a.detach().clone()
    a.grad = torch.ones_like(a)
    found = sf.penalty_threshold(loss, [a, b], plan, mode=mode, tol=1e-12)
    c = torch.cat([t[0] - t[2] for t in targets]) / 2**0.5
    assert found.converged
    assert float(found) == pytest.approx(float(c.abs().max() if mode == "l1" else c.norm()) / 2)
    assert found.lam == 2 * found.gamma
    assert torch.equal(a, before)
    assert_close(a.grad, torch.ones_like(a))


def test_says_when_it_did_not_converge() -> None:
    theta = nn.Parameter(torch.tensor([10.0, 10.0], dtype=torch.float64))
    plan = sf.Plan([(theta, sf.SignFlip([0]))])
    found = sf.penalty_threshold(lambda: theta.sum(), [theta], plan, max_steps=3)
    assert not found.converged  # there is no minimum
    assert found.residual == 1.0


def test_refusals_leave_parameters_alone() -> None:
    theta = nn.Parameter(torch.ones(3))
    plan = sf.Plan([(theta, sf.SignFlip([0]))])
    other = nn.Parameter(torch.ones(3))
    with pytest.raises(ArtificialError, match="not in params"):
        sf.penalty_threshold(lambda: other.sum(), [other], plan)
    with pytest.raises(ArtificialError, match="not finite"):
        sf.penalty_threshold(lambda: (theta * torch.inf).sum(), [theta], plan)
    with pytest.raises(ArtificialError, match="mode"):
        sf.penalty_threshold(lambda: theta.sum(), [theta], plan, mode="l2")  # type: ignore[arg-type]
    assert torch.equal(theta, torch.ones(3))
    assert theta.grad is None
