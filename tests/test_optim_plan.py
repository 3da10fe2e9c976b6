# SPDX-License-Identifier: Apache-2.0
"""A plan inside the step: equal to the step and then the plan's verb, whatever the layout."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import symfast as sf
from symfast.optim.optimizer import SymmetryOptimizer

M = 48  # units


def frame(k: int) -> torch.Tensor:
    make = torch.Generator().manual_seed(7)
    return torch.linalg.qr(torch.randn(M, k, generator=make, dtype=torch.float64)).Q


SYMMETRIES: dict[str, Callable[[], Any]] = {
    "swap all": lambda: sf.Swap(range(0, M, 2), range(1, M, 2)),
    "swap two": lambda: sf.Swap([0], [17]),
    "flip some": lambda: sf.SignFlip([1, 5, 6, 7, 40]),
    "clusters of some": lambda: sf.Cluster([i // 5 if i % 7 else -1 for i in range(M)]),
    "direction": lambda: sf.Direction(frame(1)),
    "four directions": lambda: sf.Direction(frame(4)),
}
VERBS: dict[str, Callable[[sf.Plan, float], None]] = {
    "project": lambda plan, amount: plan.project_(),
    "shrink": lambda plan, amount: plan.shrink_(amount),
    "prox": lambda plan, amount: plan.prox_(amount),
}


def network(dtype: torch.dtype) -> list[Parameter]:
    """Rows, a bias, columns, a convolution's columns; and one that no plan knows."""
    make = torch.Generator().manual_seed(1)
    shapes = [(M, 70), (M,), (33, M), (5, M, 3, 3), (20, 20)]
    return [
        Parameter(torch.randn(s, generator=make, dtype=torch.float64).to(dtype)) for s in shapes
    ]


def plan_on(params: list[Parameter], name: str) -> sf.Plan:
    units = sf.Units([(params[0], 0), (params[1], 0), (params[2], 1), (params[3], 1)])
    return sf.Plan([(units, SYMMETRIES[name]())])


def give_grads(params: list[Parameter], step: int) -> None:
    make = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64).to(p.dtype)


@pytest.mark.parametrize("constraint", list(VERBS))
@pytest.mark.parametrize("name", list(SYMMETRIES))
def test_fused_is_step_then_verb(
    name: str, constraint: str, dtype: torch.dtype, capability: str
) -> None:
    """To the bit: every element is updated once, and then the same kernel runs."""
    mine, theirs = network(dtype), network(dtype)
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1}
    fused = sf.optim.AdamW(
        mine, **options, plan=plan_on(mine, name), constraint=constraint, strength=0.7
    )
    plain, plan = sf.optim.AdamW(theirs, **options), plan_on(theirs, name)
    for step in range(3):
        give_grads(mine, step)
        give_grads(theirs, step)
        fused.step()
        plain.step()
        VERBS[constraint](plan, 0.1 * 0.7)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


def test_large_parameters_and_threads() -> None:
    """Many chunks, each updated by one thread and no other."""
    threads, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            make = torch.Generator().manual_seed(1)
            shapes = [(96, 2000), (96,), (1500, 96)]
            params = [Parameter(torch.randn(s, generator=make)) for s in shapes]
            units = sf.Units([(params[0], 0), (params[1], 0), (params[2], 1)])
            twins = [Parameter(p.detach().clone()) for p in params]
            pairs = sf.Swap(range(0, 80, 2), range(1, 80, 2))
            fused = sf.optim.SGD(params, lr=0.1, momentum=0.9, plan=sf.Plan([(units, pairs)]))
            apart = sf.Units([(twins[0], 0), (twins[1], 0), (twins[2], 1)])
            plain, plan = sf.optim.SGD(twins, lr=0.1, momentum=0.9), sf.Plan([(apart, pairs)])
            for step in range(2):
                give_grads(params, step)
                give_grads(twins, step)
                fused.step()
                plain.step()
                plan.project_()
            for a, b in zip(params, twins, strict=True):
                assert torch.equal(a, b)
            results.append(params)
        finally:
            torch.set_num_threads(threads)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def ordered(p: list[Parameter]) -> sf.Plan:
    by_row = (sf.Units([(p[0], 0)]), sf.Swap([0], [1]))
    return sf.Plan([by_row, (sf.Units([(p[0], 1)]), sf.Swap([3], [4]))], overlap="order")


def two_entries_in_one_row(p: list[Parameter]) -> sf.Plan:
    return sf.Plan([
        (sf.Units([(p[2], 1)]), sf.Swap([0], [1])), (sf.Units([(p[2], 1)]), sf.SignFlip([7])),
    ])  # fmt: skip


def a_view(p: list[Parameter]) -> sf.Plan:
    return sf.Plan([(p[0].detach()[:, 3:9], sf.Swap([0], [1]))])


@pytest.mark.parametrize("make", [ordered, two_entries_in_one_row, a_view])
@pytest.mark.parametrize("dropped", [None, 0, 2])
def test_plans_that_do_not_fit_one_walk(
    make: Callable[[list[Parameter]], sf.Plan], dropped: int | None
) -> None:
    """Overlapping entries, views, parameters without gradient: updated once, then constrained."""
    mine, theirs = network(torch.float32), network(torch.float32)
    fused = sf.optim.SGD(mine, lr=0.1, momentum=0.9, plan=make(mine))
    plain, plan = sf.optim.SGD(theirs, lr=0.1, momentum=0.9), make(theirs)
    for step in range(3):
        for params in (mine, theirs):
            give_grads(params, step)
            if dropped is not None and step == 1:
                params[dropped].grad = None
        fused.step()
        plain.step()
        plan.project_()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


def test_strength_follows_lr_by_group() -> None:
    mine, theirs = network(torch.float64), network(torch.float64)
    plans = [
        sf.Plan([(p[0], sf.SignFlip([0, 1])), (p[4], sf.SignFlip([2]))]) for p in (mine, theirs)
    ]
    groups = [{"params": [mine[0]], "lr": 0.3}, {"params": [mine[4]], "strength": 0.2}]
    fused = sf.optim.SGD(groups, lr=0.1, plan=plans[0], constraint="prox", strength=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(fused, 0.5)
    plain = sf.optim.SGD([{"params": [theirs[0]], "lr": 0.3}, {"params": [theirs[4]]}], lr=0.1)
    twin = torch.optim.lr_scheduler.ExponentialLR(plain, 0.5)
    for step in range(3):
        give_grads(mine, step)
        give_grads(theirs, step)
        fused.step()
        plain.step()
        factor = 0.5**step
        amounts = [0.3 * 0.5 * factor, 0.1 * 0.2 * factor]
        plans[1].prox_(torch.tensor(amounts, dtype=torch.float64))
        scheduler.step()
        twin.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    mixed = sf.Plan([(sf.Units([(mine[0], 0), (mine[1], 0)]), sf.SignFlip([0]))])
    apart = [{"params": [mine[0]], "lr": 0.3}, {"params": [mine[1]]}]
    optimizer = sf.optim.SGD(apart, lr=0.1, plan=mixed, constraint="shrink", strength=1.0)
    before = mine[0].detach().clone()
    with pytest.raises(ValueError, match="different lr times strength"):
        optimizer.step()
    assert torch.equal(mine[0], before)


def test_skipped_steps_leave_the_plan_alone() -> None:
    """Not even a projection where GradScaler found an infinity."""
    w = Parameter(torch.randn(4, 3))
    optimizer = sf.optim.SGD([w], lr=0.1, plan=sf.Plan([(w, sf.Swap([0], [1]))]))
    w.grad = torch.ones_like(w)
    before = w.detach().clone()
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), torch.tensor(2.0)
    optimizer.step()
    assert torch.equal(w, before)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert torch.equal(w[0], w[1])
    torch.testing.assert_close(w[2], before[2] - 0.1 / 2)


def test_a_copy_constrains_its_own_parameters() -> None:
    model = torch.nn.Linear(5, M)
    plan = sf.Plan([(sf.Units([(model.weight, 0), (model.bias, 0)]), sf.Swap([0], [1]))])
    optimizer = sf.optim.Adam(model.parameters(), lr=0.1, plan=plan)
    pair: tuple[torch.nn.Linear, SymmetryOptimizer] = copy.deepcopy((model, optimizer))
    for m, o in ((model, optimizer), pair):
        give_grads(list(m.parameters()), 0)
        o.step()
        assert torch.equal(m.weight[0], m.weight[1])
        assert not torch.equal(m.weight[2], m.weight[3])
    assert torch.equal(model.weight, pair[0].weight)


def test_parameters_may_move_and_be_replaced() -> None:
    """load_state_dict and .data swaps stay visible; a new shape is refused before the step."""
    w = Parameter(torch.randn(4, 3))
    optimizer = sf.optim.SGD([w], lr=0.1, plan=sf.Plan([(w, sf.Swap([0], [1]))]))
    w.grad = torch.ones_like(w)
    optimizer.step()
    w.data = torch.randn(4, 3)
    optimizer.step()
    assert torch.equal(w[0], w[1])
    w.data = torch.randn(5, 3)
    w.grad = torch.ones_like(w)
    before = w.detach().clone()
    with pytest.raises(RuntimeError, match="make a new plan"):
        optimizer.step()
    assert torch.equal(w, before)


def test_replicas_are_refused() -> None:
    w = Parameter(torch.randn(2, 4, 3))
    plan = sf.Plan([(sf.Units([(w, 0)], replicas=2), sf.SignFlip([0]))], replicas=2)
    with pytest.raises(ValueError, match="replicas"):
        sf.optim.SGD([w], plan=plan)


def test_a_parameter_with_gaps_is_constrained() -> None:
    wide = torch.randn(4, 6)
    p = Parameter(wide[:, :3])
    assert not p.is_contiguous()
    optimizer = sf.optim.SGD([p], lr=0.1, plan=sf.Plan([(p, sf.SignFlip([1]))]))
    wanted = p.detach() - 0.1
    wanted[1] = 0
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), wanted)


@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
@pytest.mark.parametrize("frozen", [False, True])
def test_prox_by_the_norm_of_mirrors(rule: str, frozen: bool) -> None:
    """mode="group" is the step, then Plan.prox_ in that mode over all tensors of a unit."""
    params = [[Parameter(torch.randn(s)) for s in ((6, 5), (6,), (3, 6))] for _ in range(2)]
    for own, twin in zip(*params, strict=True):
        with torch.no_grad():
            twin.copy_(own)
    plans = [sf.Plan([(sf.Units([(w, 0), (b, 0), (v, 1)]), sf.SignFlip())]) for w, b, v in params]
    lr, strength = 0.1, 9.0
    ours = getattr(sf.optim, rule)(
        params[0], lr=lr, plan=plans[0], constraint="prox", strength=strength, mode="group"
    )
    plain = getattr(sf.optim, rule)(params[1], lr=lr)
    for _ in range(4):
        for own, twin in zip(*params, strict=True):
            own.grad = torch.randn(own.shape)
            twin.grad = own.grad.clone()
        if frozen:
            params[0][1].grad = params[1][1].grad = None
        ours.step()
        plain.step()
        plans[1].prox_(lr * strength, mode="group")
    for own, twin in zip(*params, strict=True):
        torch.testing.assert_close(own, twin, rtol=1e-6, atol=1e-7)
    dead = plans[0].norms("mirror") == 0
    assert dead.any()
    assert (params[0][0][dead] == 0).all()


def test_prox_by_norm_skips_with_the_step_and_is_refused_otherwise() -> None:
    p = Parameter(torch.ones(4))
    plan = sf.Plan([(p, sf.SignFlip())])
    with pytest.raises(ValueError, match="prox"):
        sf.optim.SGD([p], plan=plan, mode="group")
    with pytest.raises(ValueError, match="mode must be"):
        sf.optim.SGD([p], plan=plan, constraint="prox", mode="l2")
    optimizer = sf.optim.SGD([p], lr=0.5, plan=plan, constraint="prox", strength=1.0, mode="group")
    p.grad = torch.zeros(4)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p, torch.ones(4))
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert torch.equal(p, torch.full((4,), 0.5))
