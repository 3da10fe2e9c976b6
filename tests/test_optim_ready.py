# SPDX-License-Identifier: Apache-2.0
"""Steps that raise have changed nothing; plans on what the optimizer does not hold are refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import symfast as sf

Spoil = Callable[[list[Parameter]], None]


def of_two_types() -> list[Parameter]:
    """Two kernel calls: the last parameter is in the second."""
    make = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(6, 4, generator=make, dtype=d))
            for d in (torch.float32, torch.float32, torch.float64)]  # fmt: skip


def sparse(params: list[Parameter]) -> None:
    params[2].grad = torch.ones(6, 4, dtype=torch.float64).to_sparse()


def reshaped(params: list[Parameter]) -> None:
    """The gradient is of the data before; its strides are the same."""
    params[2].data = torch.zeros(3, 4, dtype=torch.float64)


def spread(params: list[Parameter]) -> None:
    """A copy into the parameter's shape would repeat the one row."""
    params[2].data = params[2].data[:1]
    params[2].grad = torch.ones(1, 4, dtype=torch.float64)
    params[2].data = torch.zeros(6, 4, dtype=torch.float64).T.contiguous().T


SPOILS: dict[str, tuple[Spoil, str]] = {
    "sparse": (sparse, "sparse"),
    "reshaped": (reshaped, r"\(6, 4\).*\(3, 4\)"),
    "spread": (spread, r"\(1, 4\).*\(6, 4\)"),
}


def kept(params: list[Parameter], optimizer: torch.optim.Optimizer) -> list[Any]:
    state = [(n, k, v) for n, own in optimizer.state_dict()["state"].items()
             for k, v in own.items()]  # fmt: skip
    return copy.deepcopy([[p.detach() for p in params], state])


def same(before: list[Any], after: list[Any]) -> bool:
    return (
        all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        and [x[:2] for x in before[1]] == [x[:2] for x in after[1]]
        and all(torch.equal(a[2], b[2]) for a, b in zip(before[1], after[1], strict=True))
    )


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("how", list(SPOILS))
@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_a_gradient_that_is_refused_leaves_all_as_it_was(rule: str, how: str, first: bool) -> None:
    """In the first step no state appears, either."""
    spoil, words = SPOILS[how]
    params = of_two_types()
    extra = {"momentum": 0.9} if rule == "SGD" else {}
    optimizer = getattr(sf.optim, rule)(params, lr=0.1, **extra)
    for p in params:
        p.grad = torch.ones_like(p)
    if not first:
        optimizer.step()
    spoil(params)
    before = kept(params, optimizer)
    with pytest.raises(RuntimeError, match=words):
        optimizer.step()
    assert same(before, kept(params, optimizer))
    assert first != any(optimizer.state.values())


@pytest.mark.parametrize("kind", ["late", "in the second call", "no gradient", "by norm"])
def test_a_plan_that_is_refused_leaves_all_as_it_was(kind: str) -> None:
    """The plan's parameter took another shape; others would have been stepped before."""
    params = of_two_types()
    entries = [(params[2], sf.SignFlip([0]))]
    if kind == "late":
        entries.append((params[2], sf.SignFlip([0])))
    plan = sf.Plan(entries, overlap="order")
    options: dict[str, Any] = {"constraint": "prox", "strength": 0.1}
    if kind == "by norm":
        options["mode"] = "group"
    optimizer = sf.optim.SGD(params, lr=0.1, momentum=0.9, plan=plan, **options)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    params[2].data = torch.zeros(5, 4, dtype=torch.float64)
    params[2].grad = None if kind == "no gradient" else torch.ones(5, 4, dtype=torch.float64)
    before = kept(params, optimizer)
    with pytest.raises(RuntimeError, match="make a new plan"):
        optimizer.step()
    assert same(before, kept(params, optimizer))


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))


def on_units(model: nn.Sequential) -> sf.Plan:
    units = sf.Units([(model[0].weight, 0), (model[0].bias, 0), (model[1].weight, 1)])
    return sf.Plan([(units, sf.Swap([0], [1]))])


def test_a_plan_made_before_the_parameters_were_replaced_is_refused() -> None:
    """All of it at construction, a part of it in the first step; nothing has changed."""
    model = two_layers()
    plan = on_units(model)
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    with pytest.raises(ValueError, match="entry 0 of the plan.*no group"):
        sf.optim.SGD(model.parameters(), plan=plan)
    model = two_layers()
    plan = on_units(model)
    model[1] = nn.Linear(6, 2)
    optimizer = sf.optim.SGD(model.parameters(), lr=0.1, plan=plan)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = kept(list(model.parameters()), optimizer)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"entry 0 of the plan.*\(2, 6\).*no group"):
            optimizer.step()
    assert same(before, kept(list(model.parameters()), optimizer))
    with pytest.raises(ValueError, match="no group"):
        sf.optim.AdamW([model[0].weight], constraint="prox", mode="group",
                       plan=plan).step()  # fmt: skip


def test_groups_may_come_before_the_first_step_and_frozen_parameters_count() -> None:
    model = two_layers()
    model[0].bias.requires_grad_(False)
    optimizer = sf.optim.SGD(model[0].parameters(), lr=0.1, plan=on_units(model))
    optimizer.add_param_group({"params": list(model[1].parameters())})
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight[0], model[0].weight[1])
    assert torch.equal(model[0].bias[0], model[0].bias[1])


@pytest.mark.parametrize("view", ["detached", "base", "data"])
def test_views_are_held_and_step_by_their_own_group(view: str) -> None:
    """The strength is that of the group whose memory it is, not of the first."""
    p, q = Parameter(torch.ones(4, 3)), Parameter(torch.ones(5, 3))
    with torch.no_grad():
        part = {"detached": q.detach()[1:], "base": q[1:], "data": q.data[1:]}[view]
    groups = [{"params": [p], "strength": 3.0}, {"params": [q], "strength": 1.0}]
    plan = sf.Plan([(part, sf.SignFlip([0]))])
    optimizer = sf.optim.SGD(groups, lr=0.25, plan=plan, constraint="shrink")
    p.grad, q.grad = torch.zeros_like(p), torch.zeros_like(q)
    optimizer.step()
    wanted = torch.ones(5, 3)
    wanted[1] = 0.75
    assert torch.equal(q.detach(), wanted)
    assert torch.equal(p.detach(), torch.ones(4, 3))
