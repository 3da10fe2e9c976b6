# SPDX-License-Identifier: Apache-2.0
"""Stability: exact block eigenvalues, exact exponents, and predictions that come true."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

import symfast as sf
from symfast.lanczos import lowest_modes
from symfast.mirror_index import index_mirrors


def loss(net: object, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (net(batch[0]) - batch[1]).square().mean()  # type: ignore[operator]


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def units_of(model: nn.Sequential) -> sf.Units:
    return sf.Units([(model[0].weight, 0), (model[0].bias, 0), (model[2].weight, 1)])


def test_equals_the_dense_hessian_block(model: nn.Sequential) -> None:
    """Swap, sign flip, cluster and a direction, each with its own projected point."""
    batches = [(torch.randn(6, 3).double(), torch.randn(6, 2).double()) for _ in range(4)]
    symmetries = [sf.Swap([0], [2]), sf.SignFlip([1]), sf.Cluster([0, 1, 0, 0]),
                  sf.Direction(torch.tensor([[0.6], [0.8], [0.0], [0.0]]))]  # fmt: skip
    units, lr, lam = units_of(model), 0.3, 0.05
    report = sf.stability(
        model, loss, [(units, s) for s in symmetries], batches, lr=lr, weight_decay=lam
    )
    parameters = dict(model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    for i, mirror in enumerate(index_mirrors([(units, s) for s in symmetries], parameters)):
        point = flat.clone()
        mirror.project_(point)
        O = torch.zeros(mirror.size, len(flat), dtype=torch.float64)
        for row, c in zip(O, torch.eye(mirror.size, dtype=torch.float64), strict=True):
            mirror.scatter_(row, c)

        def at(theta: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
            pieces = theta.split([p.numel() for p in parameters.values()])
            weights = {n: x.view(p.shape) for (n, p), x in zip(parameters.items(), pieces,
                       strict=True)}  # fmt: skip
            return loss(lambda x: functional_call(model, weights, x), batch)

        blocks = torch.stack([O @ jacrev(grad(at))(point, b) @ O.T for b in batches])
        values, modes = torch.linalg.eigh(blocks.mean(0))
        assert float(report.curvature[i]) == pytest.approx(float(values[0]), abs=1e-10)
        measured = torch.cat([modes[:, :3], modes[:, -1:]], 1)
        h = torch.einsum("km,bkl,lm->bm", measured, blocks, measured)
        exponent = (1 - lr * (h + lam)).abs().log().mean(0).max()
        assert float(report.exponent[i]) == pytest.approx(float(exponent), abs=1e-8)
    assert torch.equal(report.critical_decay, (-report.curvature).clamp_min(0))
    assert len(report.table) == 4


def test_lanczos_finds_extreme_modes_of_ragged_operators() -> None:
    sizes = torch.tensor([1, 2, 7, 30])
    matrices = torch.zeros(4, 30, 30, dtype=torch.float64)
    for matrix, size in zip(matrices, sizes.tolist(), strict=True):
        square = torch.randn(size, size, dtype=torch.float64)
        matrix[:size, :size] = square + square.T
    values, modes = lowest_modes(lambda c: torch.einsum("bij,bj->bi", matrices, c), sizes, 30, 2)
    for b, size in enumerate(sizes.tolist()):
        exact = torch.linalg.eigvalsh(matrices[b, :size, :size])
        assert float(values[b]) == pytest.approx(float(exact[0]), abs=1e-9)
        for mode, want in ((modes[0], exact[0]), (modes[-1], exact[-1])):
            v = mode[b]
            assert float(v.norm()) == pytest.approx(1, abs=1e-9)
            assert float(v @ matrices[b] @ v) == pytest.approx(float(want), abs=1e-8)


def test_exhausted_operators_are_not_misread() -> None:
    """A zero operator, and one with two distinct eigenvalues only."""
    d = torch.tensor([[0.0, 0, 0, 0], [2.0, 2, 5, 5]], dtype=torch.float64)
    values, modes = lowest_modes(lambda c: d * c, torch.tensor([4, 4]), 10, 3)
    assert values.tolist() == pytest.approx([0.0, 2.0], abs=1e-12)
    for mode in modes:
        assert mode.norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)


def test_refusals(model: nn.Sequential) -> None:
    batch = (torch.randn(6, 3).double(), torch.randn(6, 2).double())
    entries = [(units_of(model), sf.SignFlip())]
    with pytest.raises(ValueError, match="0 batches"):
        sf.stability(model, loss, entries, [], lr=0.1)
    with pytest.raises(ValueError, match="no model parameters"):
        sf.stability(model, loss, [(torch.ones(3), sf.SignFlip())], [batch], lr=0.1)  # type: ignore[list-item]
    broken = (batch[0], batch[1] * torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        sf.stability(model, loss, entries, [broken], lr=0.1)


class Pair(nn.Module):
    """``u w x`` for one number x: SGD near u = w = 0 multiplies u + w and u - w by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = (nn.Parameter(torch.zeros(1).double()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.u * self.w


def test_followed_exponent_is_exact_where_nothing_moves() -> None:
    """All of the plane is one point; curvatures are +-g_b with g_b the slopes of the product."""
    net, lr, lam = Pair(), 0.2, 0.05
    batches = [(torch.tensor([x]).double(), torch.tensor([y]).double())
               for x, y in ((1.0, 1.0), (1.0, -2.0), (2.0, 0.1))]  # fmt: skip
    plan = [(sf.Units([(net.u, 0), (net.w, 0)]), sf.SignFlip())]
    still = sf.stability(net, loss, plan, batches, lr=lr, weight_decay=lam)
    found = sf.stability(
        net, loss, plan, batches, lr=lr, weight_decay=lam, follow=1500, chains=8, seed=1
    )
    g = torch.tensor([-2 * float(x) * float(y) for x, y in batches], dtype=torch.float64)
    exact = max(float((1 - lr * (lam + s * g)).abs().log().mean()) for s in (1, -1))
    assert float(still.exponent) == pytest.approx(exact, abs=1e-12)
    assert float(still.error) == 0.0
    assert 0 < float(found.error) < 0.01
    assert abs(float(found.exponent) - exact) < 4 * float(found.error)
    again = sf.stability(
        net, loss, plan, batches, lr=lr, weight_decay=lam, follow=1500, chains=8, seed=1
    )
    assert torch.equal(found.exponent, again.exponent)
    assert "error" in found.table


def test_followed_gradient_descent_ends_at_the_lowest_mode(model: nn.Sequential) -> None:
    """With one batch and a rate so small that the plane stands still: log(1 - lr (mu + lam))."""
    batch = (torch.randn(6, 3).double(), torch.randn(6, 2).double())
    plan = [(units_of(model), sf.SignFlip([1])), (units_of(model), sf.Swap([0], [2]))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.5)
    for _ in range(600):  # decay takes everything to the plane of both mirrors
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    model.requires_grad_(False)
    still = sf.stability(model, loss, plan, [batch], lr=0.05, weight_decay=0.5)
    found = sf.stability(
        model, loss, plan, [batch], lr=0.05, weight_decay=0.5, follow=400, chains=2
    )
    torch.testing.assert_close(found.exponent, still.exponent, atol=2e-3, rtol=0.05)


def test_what_cannot_be_followed(model: nn.Sequential) -> None:
    entries = [(units_of(model), sf.SignFlip())]
    ragged = [(torch.randn(n, 3).double(), torch.randn(n, 2).double()) for n in (6, 6, 5)]
    sf.stability(model, loss, entries, ragged, lr=0.1)
    with pytest.raises(ValueError, match="same shapes"):
        sf.stability(model, loss, entries, ragged, lr=0.1, follow=3)
    with pytest.raises(TypeError, match="convert it first"):
        sf.stability(model, loss, entries, [("words", ragged[0][1])], lr=0.1)


def test_the_whole_loss_without_a_rate_is_gradient_flow(model: nn.Sequential) -> None:
    batch = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    plan = sf.Plan([(units_of(model), sf.Swap([0], [2]))])
    flow = sf.stability(model, lambda net: loss(net, batch), plan, weight_decay=0.25)
    lr = 1e-4
    step = sf.stability(model, loss, plan, [batch], lr=lr, weight_decay=0.25)
    torch.testing.assert_close(flow.curvature, step.curvature, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow.exponent, -(flow.curvature + 0.25))
    # log|1 - lr (h + lam)| = -lr (h + lam) + O(lr^2)
    torch.testing.assert_close(flow.exponent, step.exponent / lr, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="give lr"):
        sf.stability(model, lambda net: loss(net, batch), plan, follow=10)
