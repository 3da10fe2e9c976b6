# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: options that construction refuses are refused, and a lost plan is told."""

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import symfast as sf


def parameters() -> list[Parameter]:
    make = torch.Generator().manual_seed(2)
    return [Parameter(torch.randn(s, generator=make)) for s in ((6, 5), (4,))]


def train(optimizer: torch.optim.Optimizer, steps: int) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    for _ in range(steps):
        optimizer.step()


def plan_on(params: list[Parameter], kind: str = "swap") -> sf.Plan:
    make = torch.Generator().manual_seed(4)
    frame = torch.linalg.qr(torch.randn(6, 2, generator=make)).Q
    symmetries: dict[str, Any] = {
        "swap": lambda: sf.Swap([0], [1]),
        "other swap": lambda: sf.Swap([0], [2]),
        "direction": lambda: sf.Direction(frame),
        "other direction": lambda: sf.Direction(-frame),
    }
    return sf.Plan([(params[0], symmetries[kind]())])


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_foreach_and_fused_exclude_each_other(rule: str) -> None:
    """In torch's own words, and each alone is taken."""
    said = []
    for library in (torch.optim, sf.optim):
        with pytest.raises(RuntimeError) as error:
            getattr(library, rule)(parameters(), foreach=True, fused=True)
        said.append(str(error.value))
    assert said[0] == said[1]
    for alone in ({"foreach": True}, {"fused": True}, {"foreach": False, "fused": True}):
        getattr(sf.optim, rule)(parameters(), **alone)


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        ("Adam", {"amsgrad": True}, "amsgrad"),
        ("AdamW", {"amsgrad": True}, "amsgrad"),
        ("Adam", {"differentiable": True}, "differentiable"),
        ("SGD", {"differentiable": True}, "differentiable"),
        ("AdamW", {"betas": (torch.tensor(0.9), 0.99)}, "Tensor"),
        ("SGD", {"foreach": True, "fused": True}, "together"),
        ("SGD", {"lr": -0.1}, "learning rate"),
        ("SGD", {"nesterov": True, "momentum": 0.0}, "Nesterov"),
    ],
)
def test_refused_options_do_not_come_in_by_a_checkpoint(
    rule: str, options: dict[str, Any], words: str
) -> None:
    """What torch or a hand wrote into a group's options; the optimizer stays as it was."""
    theirs = parameters()
    saved = getattr(torch.optim, rule)([{"params": [p]} for p in theirs], lr=0.3)
    train(saved, 1)
    state = saved.state_dict()
    state["param_groups"][1].update(options)
    ours = getattr(sf.optim, rule)([{"params": [p]} for p in parameters()], lr=0.1)
    train(ours, 2)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises((ValueError, RuntimeError), match=f"group 1 of the checkpoint.*{words}"):
        ours.load_state_dict(state)
    after = ours.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for number, own in before["state"].items():
        for name, tensor in own.items():
            assert torch.equal(tensor, after["state"][number][name])
    train(ours, 1)


def test_a_learning_rate_rounded_below_zero_loads() -> None:
    """As a schedule that ends at zero may leave it."""
    state = sf.optim.SGD(parameters(), lr=0.1, weight_decay=0.1, anchor=sf.Anchor(0.1)).state_dict()
    state["param_groups"][0]["lr"] = -1e-19
    ours = sf.optim.SGD(parameters(), lr=0.1)
    ours.load_state_dict(state)
    assert ours.param_groups[0]["lr"] == -1e-19
    train(ours, 1)


def told(state: dict[str, Any], plan_kind: str | None) -> list[str]:
    """What loading into an optimizer with such a plan warns of."""
    params = parameters()
    plan = None if plan_kind is None else plan_on(params, plan_kind)
    optimizer = sf.optim.Adam([{"params": [p]} for p in params], plan=plan)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        optimizer.load_state_dict(state)
    assert all(w.category is UserWarning and w.filename == __file__ for w in seen)
    assert optimizer.plan is plan
    return [str(w.message) for w in seen]


def saved_with(plan_kind: str | None) -> dict[str, Any]:
    """Through a file that holds plain data alone."""
    params = parameters()
    plan = None if plan_kind is None else plan_on(params, plan_kind)
    optimizer = sf.optim.Adam([{"params": [p]} for p in params], plan=plan)
    train(optimizer, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


@pytest.mark.parametrize("kind", ["swap", "direction"])
def test_a_lost_or_changed_plan_is_told_once(kind: str) -> None:
    state = saved_with(kind)
    assert told(state, kind) == []
    for other, words in ((None, "unconstrained"), (f"other {kind}", "goes on with its own")):
        (message,) = told(state, other)
        assert words in message
        assert f"1 {kind}" in message


def test_no_plan_in_the_checkpoint_is_no_news() -> None:
    """Of ours and of torch's: a plan may be added."""
    torchs = torch.optim.Adam([{"params": [p]} for p in parameters()])
    train(torchs, 1)
    for state in (saved_with(None), torchs.state_dict()):
        assert told(state, None) == []
        assert told(state, "swap") == []


def test_descriptions_are_small_plain_and_the_plan_s_own() -> None:
    """A line, the same after a round trip, after a copy, and when loaded from another's."""
    state = saved_with("direction")
    line = state["param_groups"][0]["symmetry"]
    assert isinstance(line, str)
    assert len(line) < 200
    assert "direction" in line
    params = parameters()
    ours = sf.optim.Adam([{"params": [p]} for p in params], plan=plan_on(params))
    with pytest.warns(UserWarning, match="its own"):
        ours.load_state_dict(state)
    own = ours.state_dict()["param_groups"]
    assert {g["symmetry"] for g in own} != {line}
    assert len({g["symmetry"] for g in own}) == 1
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert [g["symmetry"] for g in again.state_dict()["param_groups"]] == [
            g["symmetry"] for g in own
        ]
    bare = sf.optim.Adam(parameters())
    assert bare.state_dict()["param_groups"][0]["symmetry"] is None


def test_torch_loads_what_was_saved_with_a_plan() -> None:
    torchs = torch.optim.Adam([{"params": [p]} for p in parameters()])
    torchs.load_state_dict(saved_with("swap"))
    train(torchs, 1)
    assert float(torchs.state_dict()["state"][0]["step"]) == 3
