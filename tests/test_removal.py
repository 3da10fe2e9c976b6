# SPDX-License-Identifier: Apache-2.0
"""Decay toward an anchor: its step, what it refuses, and that checkpoints hold it."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import symfast as sf


def test_step_with_plain_sgd_is_decay_toward_the_anchor() -> None:
    p = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    start, g = p.detach().clone(), torch.randn(5, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD([p], lr=0.1, weight_decay=0.2)
    sf.remove_symmetry(optimizer, 0.5, seed=3)
    p.grad = g.clone()
    optimizer.step()
    wanted = start - 0.1 * (g + 0.2 * (start - sf.Anchor(0.5, seed=3).values(p, 0)))
    assert_close(p.detach(), wanted, rtol=1e-13, atol=1e-14)
    assert torch.equal(p.grad, g)


def test_adamw_decay_is_shifted_by_the_anchor() -> None:
    start, g = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    shifted, moved = (nn.Parameter(start.clone()) for _ in range(2))
    theta0 = sf.Anchor(0.3, seed=1).values(moved, 0)
    with torch.no_grad():
        shifted -= theta0
    plain = torch.optim.AdamW([shifted], lr=0.01, weight_decay=0.1)
    ours = torch.optim.AdamW([moved], lr=0.01, weight_decay=0.1)
    sf.remove_symmetry(ours, 0.3, seed=1)
    for _ in range(10):
        shifted.grad, moved.grad = g.clone(), g.clone()
        plain.step()
        ours.step()
    assert_close(moved.detach(), shifted.detach() + theta0, rtol=1e-12, atol=1e-13)


def test_anchor_is_normal_and_depends_on_seed_and_number() -> None:
    p = torch.zeros(200, 300)
    a = sf.Anchor(2.0, seed=1).values(p, 0)
    assert abs(float(a.mean())) < 0.05
    assert float(a.std()) == pytest.approx(2.0, rel=0.02)
    assert torch.equal(a, sf.Anchor(2.0, seed=1).values(p, 0))
    assert not torch.equal(a, sf.Anchor(2.0, seed=1).values(p, 1))
    assert not torch.equal(a, sf.Anchor(2.0, seed=2).values(p, 0))
    assert sf.Anchor(1.0, seed=1).values(torch.zeros(0), 0).shape == (0,)


def test_save_load_continue_equals_continue() -> None:
    def make(seed: int) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        p = nn.Parameter(torch.ones(4))
        optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.2)
        sf.remove_symmetry(optimizer, 0.5, seed=seed)
        return p, optimizer

    p, optimizer = make(3)
    p.grad = torch.ones(4)
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    q, again = make(8)  # another seed: the checkpoint's counts
    with torch.no_grad():
        q.copy_(p)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    q.grad = torch.ones(4)
    for _ in range(3):
        optimizer.step()
        again.step()
    assert torch.equal(p, q)


def test_groups_without_decay_and_removal() -> None:
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([{"params": [p], "weight_decay": 0.5}, {"params": [q]}], lr=0.1)
    handle = sf.remove_symmetry(optimizer, 1.0)
    p.grad, q.grad = torch.zeros(3), torch.zeros(3)
    optimizer.step()
    assert not torch.equal(p, torch.ones(3))
    assert torch.equal(q, torch.ones(3))
    handle.remove()
    after = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, after)
    assert "anchor_seed" not in optimizer.param_groups[0]


def test_refusals_change_nothing() -> None:
    p = nn.Parameter(torch.ones(3))
    decayed = torch.optim.SGD([p], lr=0.1, weight_decay=0.1)
    for bad in ({"sigma": 0.0}, {"sigma": -1.0}, {"lam": -1.0}, {"lam": 0.5}):
        with pytest.raises(ValueError, match="positive|toward zero"):
            sf.remove_symmetry(decayed, **bad)
    with pytest.raises(ValueError, match="give lam"):
        sf.remove_symmetry(torch.optim.SGD([p], lr=0.1))
    assert decayed.param_groups[0]["weight_decay"] == 0.1
    sf.remove_symmetry(decayed)
    with pytest.raises(ValueError, match="already"):
        sf.remove_symmetry(decayed)


def test_the_anchor_is_that_of_the_optimizers_in_any_layout() -> None:
    start = torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last)
    mine, other = (nn.Parameter(start.clone(memory_format=torch.preserve_format)) for _ in "ab")
    ours = sf.optim.SGD([mine], lr=0.1, weight_decay=0.5, anchor=sf.Anchor(0.7, seed=2))
    hooked = torch.optim.SGD([other], lr=0.1, weight_decay=0.5)
    sf.remove_symmetry(hooked, 0.7, seed=2)
    for p in (mine, other):
        p.grad = torch.zeros_like(p)
    ours.step()
    hooked.step()
    assert_close(mine, other, rtol=1e-6, atol=1e-7)


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
RULES: dict[str, Make] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.5),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.5),
    "fused sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, weight_decay=0.5, fused=True),
    "fused adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.5, fused=True),
    "ours": lambda ps: sf.optim.SGD(ps, lr=0.1, weight_decay=0.5),
}


def quadratic(p: nn.Parameter) -> torch.Tensor:
    return (p - torch.linspace(-1.0, 1.0, p.numel()).to(p)).square().sum()


def closure_of(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = quadratic(p)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("rule", RULES)
def test_a_closure_decays_as_gradients_do_from_the_first_step(rule: str) -> None:
    """Gradients at the parameters before the decay, once a step, as without a closure."""
    made = [nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(3)]
    plain, positional, named = (RULES[rule]([p]) for p in made)
    for optimizer in (plain, positional, named):
        sf.remove_symmetry(optimizer, 0.7, seed=3)
    for _ in range(3):
        loss = closure_of(plain, made[0])()
        plain.step()
        assert positional.step(closure_of(positional, made[1])) == loss
        assert named.step(closure=closure_of(named, made[2])) == loss
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])


def test_a_closure_decays_as_an_anchor_of_the_optimizers_does() -> None:
    mine, other = (nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in "ab")
    ours = sf.optim.SGD([mine], lr=0.1, weight_decay=0.5, anchor=sf.Anchor(0.7, seed=3))
    hooked = torch.optim.SGD([other], lr=0.1, weight_decay=0.5)
    sf.remove_symmetry(hooked, 0.7, seed=3)
    for _ in range(3):
        ours.step(closure_of(ours, mine))
        hooked.step(closure_of(hooked, other))
        assert_close(mine, other, rtol=1e-12, atol=1e-13)


class Twice(torch.optim.Optimizer):
    """Evaluates a closure twice and moves nothing."""

    def step(self, closure: Any = None) -> Any:
        return None if closure is None else (closure(), closure())


def test_a_step_decays_once_however_often_it_evaluates() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = Twice([p], {"lr": 0.1, "weight_decay": 0.5})
    sf.remove_symmetry(optimizer, 0.7, seed=3)

    def closure() -> torch.Tensor:
        p.grad = torch.zeros_like(p)
        return p.sum()

    optimizer.step(closure)
    wanted = torch.ones(4).lerp(sf.Anchor(0.7, seed=3).values(p), 0.05)
    assert_close(p.detach(), wanted)


def test_lbfgs_decays_after_its_line_search() -> None:
    moved, alone = (nn.Parameter(torch.ones(6, dtype=torch.float64)) for _ in "ab")
    ours, plain = (
        torch.optim.LBFGS([p], lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
        for p in (moved, alone)
    )
    sf.remove_symmetry(ours, 0.7, seed=3, lam=0.2)
    ours.step(closure_of(ours, moved))
    plain.step(closure_of(plain, alone))
    wanted = alone.detach().lerp(sf.Anchor(0.7, seed=3).values(alone), 0.5 * 0.2)
    assert_close(moved.detach(), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_that_the_scaler_skips_does_not_decay(rule: str, device: torch.device) -> None:
    scaled, alone = (nn.Parameter(torch.ones(5, device=device)) for _ in "ab")
    optimizer, plain = RULES[rule]([scaled]), RULES[rule]([alone])
    for each in (optimizer, plain):
        sf.remove_symmetry(each, 0.7, seed=3)
    scaler = torch.amp.GradScaler(device.type, init_scale=8.0)
    for overflows in (True, False, False, True, False):
        before = scaled.detach().clone()
        optimizer.zero_grad()
        scaler.scale(quadratic(scaled)).backward()
        assert scaled.grad is not None
        if overflows:
            scaled.grad[2] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if overflows:
            assert torch.equal(scaled, before)
            continue
        plain.zero_grad()
        quadratic(alone).backward()
        plain.step()
        assert_close(scaled, alone, rtol=1e-6, atol=1e-7)
        assert not torch.equal(scaled, before)


class OnDevice:
    """What the scaler found, on a device that the host should not wait for."""

    device = torch.device("cuda")

    def __init__(self, found: float) -> None:
        self.found = torch.tensor([found])

    def to(self, device: torch.device) -> torch.Tensor:
        return self.found.to(device)

    def __bool__(self) -> bool:
        raise AssertionError("the host waited")


def test_what_the_scaler_found_on_a_device_is_not_waited_for() -> None:
    p = nn.Parameter(torch.randn(5))
    start, p.grad = p.detach().clone(), torch.zeros(5)
    optimizer: Any = Twice([p], {"lr": 0.1, "weight_decay": 0.5})
    sf.remove_symmetry(optimizer, 0.7, seed=3)
    optimizer.found_inf = OnDevice(1.0)
    optimizer.step()
    assert torch.equal(p, start)
    optimizer.found_inf = OnDevice(0.0)
    optimizer.step()
    assert torch.equal(p, start.lerp(sf.Anchor(0.7, seed=3).values(start), 0.05))
