# SPDX-License-Identifier: Apache-2.0
"""FactorSGD is torch's SGD on factors, with the torch.optim contract."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import symfast as sf
from symfast import factor_sgd


def model_and_data() -> tuple[nn.Sequential, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))
    return model, torch.randn(32, 4), torch.randn(32, 2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, n: int) -> None:
    for _ in range(n):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_equals_torch_sgd_on_the_factorised_module(depth: int, momentum: float) -> None:
    plain, x, y = model_and_data()
    plain, x, y = plain.double(), x.double(), y.double()
    factored = copy.deepcopy(plain)
    for name in ("0.weight", "3.weight"):
        sf.factorize(factored, name, depth=depth)
    theirs = torch.optim.SGD(sf.factor_groups(factored, lam=0.02), lr=0.05, momentum=momentum)
    ours = sf.FactorSGD(sf.plain_groups(plain), lr=0.05, lam=0.02, depth=depth, momentum=momentum)
    train(factored, theirs, x, y, 30)
    train(plain, ours, x, y, 30)
    sf.fold(factored, tol=0.0)
    for (name, a), b in zip(
        plain.state_dict().items(), factored.state_dict().values(), strict=True
    ):
        assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_save_load_continue_equals_continue(dtype: torch.dtype) -> None:
    model, x, y = model_and_data()
    model, x, y = model.to(dtype), x.to(dtype), y.to(dtype)
    make: Any = lambda m: sf.FactorSGD(  # noqa: E731
        sf.plain_groups(m), lr=0.05, lam=0.02, depth=3, momentum=0.9
    )
    optimizer = make(model)
    train(model, optimizer, x, y, 5)
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    states = torch.load(buffer, weights_only=True)
    resumed = model_and_data()[0].to(dtype)
    again = make(resumed)
    resumed.load_state_dict(states[0])
    again.load_state_dict(states[1])
    factors = [s["factors"] for s in again.state.values() if "factors" in s]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {f.dtype for f in factors} == {wide}
    train(model, optimizer, x, y, 5)
    train(resumed, again, x, y, 5)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_step_in_one_call_as_each_would_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depths, momentum, lr and penalties differ; one call of the operator for each dtype."""
    options = [
        {"depth": 2 + i % 3, "lr": 0.1 / (i + 1), "momentum": 0.4 * (i % 3), "lam": 0.01 * i}
        for i in range(6)
    ]
    start = [torch.randn(3, 4).to(torch.float64 if i == 5 else torch.float32) for i in range(6)]
    together = [nn.Parameter(x.clone()) for x in start]
    alone = [nn.Parameter(x.clone()) for x in start]
    calls = []
    step = factor_sgd.factor_step_
    monkeypatch.setattr(factor_sgd, "factor_step_", lambda *a: calls.append(len(a[0])) or step(*a))
    optimizers = [sf.FactorSGD([{"params": [p], **o}]) for p, o in zip(alone, options, strict=True)]
    one = sf.FactorSGD([{"params": [p], **o} for p, o in zip(together, options, strict=True)])
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        del calls[:]
        one.step()
        assert calls == [5, 1]
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(together, alone, strict=True))


def test_settings_keep_their_memory_and_may_be_tensors() -> None:
    """A captured graph reads them where they were; numbers and tensors give the same steps."""
    model, x, y = model_and_data()
    twin = copy.deepcopy(model)
    numbers = sf.FactorSGD(sf.plain_groups(model), lr=0.05, lam=0.25, plain_decay=0.5)
    tensors = sf.FactorSGD(
        sf.plain_groups(twin),
        lr=torch.tensor(0.05, dtype=torch.float64),
        lam=torch.tensor(0.25),
        plain_decay=torch.tensor(0.5),
    )
    schedules = [sf.PenaltySchedule(o, sf.schedule.geometric(0.5)) for o in (numbers, tensors)]
    lam, places = tensors.param_groups[0]["lam"], set()
    for step in range(4):
        for i, net in enumerate((model, twin)):
            train(net, (numbers, tensors)[i], x, y, 1)
            schedules[i].step()
        places.add(tuple(t._table.data_ptr() for t in numbers._settings.values()))
        assert float(lam) == 0.25 * 0.5 ** (step + 1)
    assert len(places) == 1
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_written_by_others_are_taken_over() -> None:
    w = nn.Parameter(torch.randn(3, 4))
    optimizer = sf.FactorSGD([w], lr=0.1)
    for _ in range(2):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    wanted = torch.randn(3, 4)
    with torch.no_grad():
        w.copy_(wanted)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert_close(w.detach(), wanted, rtol=1e-6, atol=1e-7)
    w.data = wanted * 2
    optimizer.step()
    assert_close(w.detach(), wanted * 2, rtol=1e-6, atol=1e-7)


def test_a_step_invalidates_graphs_that_saved_the_weight() -> None:
    w = nn.Parameter(torch.randn(3, 4))
    optimizer = sf.FactorSGD([w], lr=0.1)
    loss = w.square().sum()
    w.grad = torch.ones_like(w)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tied_and_channels_last_weights() -> None:
    tied = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(tied, nn.Tanh(), tied)
    optimizer = sf.FactorSGD(sf.plain_groups(model), lr=0.1, lam=0.01)
    train(model, optimizer, torch.randn(8, 4), torch.randn(8, 4), 3)
    torch.manual_seed(0)
    flat = nn.Conv2d(3, 4, 3)
    conv, x = copy.deepcopy(flat).to(memory_format=torch.channels_last), torch.randn(2, 3, 5, 5)
    for layer in (flat, conv):
        optimizer = sf.FactorSGD(sf.plain_groups(layer), lr=0.1, lam=0.01)
        train(layer, optimizer, x, torch.zeros(2, 4, 3, 3), 3)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(conv.weight, flat.weight, rtol=1e-4, atol=1e-6)


def test_contract() -> None:
    model, x, y = model_and_data()
    optimizer = sf.FactorSGD(sf.plain_groups(model), lr=torch.tensor(0.1), lam=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(20)]
    assert losses[-1] is not None
    assert losses[0] is not None
    assert losses[-1] < losses[0]
    before = [p.clone() for p in model.parameters()]
    optimizer.zero_grad()
    optimizer.step()  # no gradients: nothing happens
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
    again = copy.deepcopy(optimizer)
    assert len(again.state) == len(optimizer.state)


def test_refusals() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="looks like a bias"):
        sf.FactorSGD(layer.parameters(), lr=0.1)
    for option in ({"lr": -1.0}, {"lam": -1.0}, {"depth": 7}, {"depth": 0}, {"momentum": -1.0}):
        with pytest.raises(ValueError, match="Invalid"):
            sf.FactorSGD([layer.weight], **option)
    with pytest.raises(ValueError, match="dense floating"):
        sf.FactorSGD([torch.zeros(2, 2, dtype=torch.complex64)])
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = sf.FactorSGD([table.weight], lr=0.1)
    table(torch.tensor([1])).sum().backward()
    before = table.weight.clone()
    with pytest.raises(RuntimeError, match="dense"):
        optimizer.step()
    assert torch.equal(table.weight, before)


def test_penalty_schedule() -> None:
    layer = nn.Linear(3, 2)
    optimizer = sf.FactorSGD(sf.plain_groups(layer), lr=0.1, lam=0.5)
    penalty = sf.PenaltySchedule(optimizer, sf.schedule.harmonic)
    for _ in range(3):
        penalty.step()
    assert optimizer.param_groups[0]["lam"] == 0.125
    other = sf.PenaltySchedule(sf.FactorSGD(sf.plain_groups(layer), lam=9.0), sf.schedule.harmonic)
    other.load_state_dict(penalty.state_dict())
    assert other.optimizer.param_groups[0]["lam"] == 0.125
    with pytest.raises(ValueError, match="no group"):
        sf.PenaltySchedule(torch.optim.SGD(layer.parameters()), sf.schedule.constant)
    with pytest.raises(ValueError, match="ratio"):
        sf.schedule.geometric(1.5)
    with pytest.raises(ValueError, match="schedule gave"):
        sf.PenaltySchedule(optimizer, lambda step: -1.0)


def test_factors_that_vanish_survive_a_checkpoint() -> None:
    """The kernel takes subnormal numbers for zero; a product that is one is no foreign weight."""
    p = nn.Parameter(torch.tensor([[0.3, 1e-3]]))
    optimizer = sf.FactorSGD([p], lr=0.5, lam=1.0, beta=0.0)
    vanished = 0
    for _ in range(260):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        factors = optimizer.state[p]["factors"].clone()
        vanished += bool(((p == 0) & (factors != 0).all(0)).any())
        other = sf.FactorSGD([p], lr=0.0, lam=0.0, beta=0.0)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        other.param_groups[0].update(lr=0.0, beta=1.0)
        other.step()
        assert torch.equal(other.state[p]["factors"], factors)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert vanished
