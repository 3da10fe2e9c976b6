# SPDX-License-Identifier: Apache-2.0
"""States of the optimizers: through files, from other devices, and beside frozen parameters."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import symfast as sf


def made(rule: str = "AdamW", **options: Any) -> tuple[Any, list[Parameter]]:
    torch.manual_seed(1)
    params = [Parameter(torch.randn(s)) for s in ((7, 5), (3,), ())]
    return getattr(sf.optim, rule)(params, lr=0.1, **options), params


def train(optimizer: Any, params: list[Parameter], steps: range) -> None:
    for i in steps:
        make = torch.Generator().manual_seed(i)
        for p in params:
            p.grad = torch.randn(p.shape, generator=make)
        optimizer.step()


@pytest.mark.parametrize(("rule", "options"), [("AdamW", {}), ("SGD", {"momentum": 0.9})])
def test_safetensors_round_trip(rule: str, options: dict[str, Any]) -> None:
    """States as flat names and the groups as JSON: what continues is what was saved."""
    safetensors = pytest.importorskip("safetensors.torch")
    optimizer, params = made(rule, **options)
    train(optimizer, params, range(2))
    state = optimizer.state_dict()
    flat = {f"{i}.{name}": t for i, s in state["state"].items() for name, t in s.items()}
    flat |= {f"param.{i}": p.detach() for i, p in enumerate(params)}
    back = safetensors.load(safetensors.save(flat))
    again, fresh = made(rule, **options)
    loaded: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in back.items():
        where, name = key.split(".")
        if where == "param":
            with torch.no_grad():
                fresh[int(name)].copy_(tensor)
        else:
            loaded.setdefault(int(where), {})[name] = tensor
    again.load_state_dict({"state": loaded, "param_groups": state["param_groups"]})
    for o, own in ((optimizer, params), (again, fresh)):
        train(o, own, range(2, 5))
    for a, b in zip(params, fresh, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("step", [3, 3.0, torch.tensor(3, dtype=torch.float64)])
def test_counters_of_other_kinds_load(step: Any) -> None:
    """Old checkpoints have whole numbers; kernels read float32."""
    optimizer, params = made()
    train(optimizer, params, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    for s in state["state"].values():
        s["step"] = step
    again, fresh = made()
    with torch.no_grad():
        for a, b in zip(fresh, params, strict=True):
            a.copy_(b)
    again.load_state_dict(state)
    assert all(s["step"].dtype == torch.float32 for s in again.state.values())
    train(again, fresh, range(3, 4))
    train(optimizer, params, range(3, 4))
    for a, b in zip(params, fresh, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("capturable", [False, True])
def test_counters_live_where_the_kernel_reads_them(capturable: bool) -> None:
    """A checkpoint read with map_location="cpu" gets its counters back onto the device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    optimizer, params = made(capturable=capturable)
    train(optimizer, params, range(1))
    state = optimizer.state_dict()
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = [Parameter(torch.empty(p.shape, device="cuda")) for p in params]
        again = sf.optim.AdamW(there, capturable=capturable)
        again.load_state_dict(state)
        assert {s["step"].device.type for s in again.state.values()} == {"cuda"}
        assert {s["exp_avg"].device.type for s in again.state.values()} == {"cuda"}
    assert {s["step"].device.type for s in optimizer.state.values()} == {"cpu"}


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_a_tensor_as_lr_is_its_number(rule: str) -> None:
    results = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        optimizer, params = made(rule)
        optimizer.param_groups[0]["lr"] = lr
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for i in range(3):
            train(optimizer, params, range(i, i + 1))
            scheduler.step()
        results.append(params)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_are_sorted_out_once() -> None:
    """The tables of those that step are made once; when others freeze, they are made again."""
    optimizer, params = made(plan=None)
    twin, same = made()
    before = None
    for i in range(4):
        frozen = 1 if i < 3 else 0
        for o, own in ((optimizer, params), (twin, same)):
            for n, p in enumerate(own):
                p.grad = None if n == frozen else torch.full_like(p, 0.1)
            if o is twin:
                o._roster = None  # sorted anew
            o.step()
        bundle = optimizer._roster.bundles[0]
        kept = bundle.selected[1]
        assert [id(p) for p in kept.params] == [id(p) for n, p in enumerate(params) if n != frozen]
        if i in (1, 2):
            assert kept is before
        before = kept
    for a, b in zip(params, same, strict=True):
        assert torch.equal(a, b)
