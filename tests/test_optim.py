# SPDX-License-Identifier: Apache-2.0
"""The torch.optim contract: equal to torch without a plan, and all that users do to optimizers."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import symfast as sf

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-6, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
]
SHAPES = [(7, 5), (3,), (130, 33), (1,), ()]


def parameters(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    make = torch.Generator().manual_seed(3)
    return [
        Parameter(torch.randn(s, generator=make, dtype=torch.float64).to(dtype)) for s in SHAPES
    ]


def give_grads(params: list[Parameter], step: int) -> None:
    make = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, params: list[Parameter], steps: range) -> None:
    for i in steps:
        give_grads(params, i)
        optimizer.step()


def pair(rule: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    mine, theirs = parameters(dtype), parameters(dtype)
    return (
        (getattr(sf.optim, rule)(mine, **options), mine),
        (getattr(torch.optim, rule)(theirs, **options), theirs),
    )


@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_equals_torch(rule: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Float64 SGD to the bit; else 1e-7 (float32), one rounding a step (half types)."""
    # torch's other Adams round every intermediate; its fused SGD is wrong for half types
    half = {"fused": True} if dtype.itemsize == 2 and rule != "SGD" else {}
    (ours, mine), (torchs, theirs) = pair(rule, options | half, dtype)
    steps = 6 if dtype.itemsize > 2 else 1
    train(ours, mine, range(steps))
    train(torchs, theirs, range(steps))
    tolerance = {8: 1e-14, 4: 1e-7, 2: 2 * torch.finfo(dtype).eps}[dtype.itemsize]
    for a, b in zip(mine, theirs, strict=True):
        if rule == "SGD" and dtype == torch.float64:
            assert torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_state_dicts_interchange_with_torch(rule: str, options: dict[str, Any]) -> None:
    """What torch saved loads here and continues alike."""
    (ours, mine), (torchs, theirs) = pair(rule, options, torch.float64)
    train(torchs, theirs, range(3))
    with torch.no_grad():
        for a, b in zip(mine, theirs, strict=True):
            a.copy_(b)
    ours.load_state_dict(copy.deepcopy(torchs.state_dict()))  # loading shares tensors
    train(ours, mine, range(3, 6))
    train(torchs, theirs, range(3, 6))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def full_options(rule: str) -> dict[str, Any]:
    extra = {"lr": 0.05, "weight_decay": 0.1, "noise": 0.1, "seed": 2**64 - 3}
    if rule == "SGD":
        extra["momentum"] = 0.9
    return extra | {"anchor": sf.Anchor(0.1, seed=9, spread=0.3)}


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("way", ["state_dict", "weights_only", "pickle", "deepcopy"])
def test_save_load_continue(rule: str, way: str) -> None:
    whole, params = pair_of(rule)
    train(whole, params, range(6))
    first, kept = pair_of(rule)
    train(first, kept, range(3))
    if way in ("pickle", "deepcopy"):
        copied = copy.deepcopy if way == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        resumed = copied(first)
        kept = [p for g in resumed.param_groups for p in g["params"]]
    else:
        state = first.state_dict()
        if way == "weights_only":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        resumed, fresh = pair_of(rule)
        with torch.no_grad():
            for p, old in zip(fresh, kept, strict=True):
                p.copy_(old)
        resumed.load_state_dict(state)
        kept = fresh
    train(resumed, kept, range(3, 6))
    for a, b in zip(params, kept, strict=True):
        assert torch.equal(a, b)


def pair_of(rule: str) -> tuple[torch.optim.Optimizer, list[Parameter]]:
    params = parameters()
    return getattr(sf.optim, rule)(params, **full_options(rule)), params


def test_groups_schedulers_and_tensor_lr() -> None:
    results = []
    for library in (sf.optim, torch.optim):
        params = parameters(torch.float64)
        named = [{"params": params[:2], "lr": 0.2}, {"params": params[2:4], "momentum": 0.5}]
        optimizer = library.SGD(named, lr=torch.tensor(0.1, dtype=torch.float64), momentum=0.9)
        lr = optimizer.param_groups[1]["lr"]
        optimizer.add_param_group({"params": params[4:], "weight_decay": 0.3})
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for i in range(5):
            train(optimizer, params, range(i, i + 1))
            scheduler.step()
        assert optimizer.param_groups[1]["lr"] is lr
        results.append(params)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_named_parameters_closures_and_hooks() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = sf.optim.SGD(model.named_parameters(), lr=0.1)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure).detach()) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert seen[:2] == ["before", "after"]
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_grad_scaler(rule: str) -> None:
    """Scaled half-precision training: skipped where torch skips, equal where torch steps."""
    results = []
    for library in (sf.optim, torch.optim):
        params = parameters()
        optimizer = getattr(library, rule)(params, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
        for i in range(5):
            give_grads(params, i)
            with torch.no_grad():
                for p in params:
                    p.grad *= scaler.get_scale()
            if i == 2:
                params[1].grad[0] = torch.inf
            scaler.scale(torch.zeros(()))
            scaler.step(optimizer)
            scaler.update()
        results.append((params, [s.get("step", 0) for s in optimizer.state.values()]))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    if rule == "AdamW":
        assert [float(s) for s in results[0][1]] == [float(s) for s in results[1][1]]


def test_missing_gradients_other_layouts_and_untouched_grads() -> None:
    a = Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    b, c = Parameter(torch.randn(5)), Parameter(torch.randn(3, 4).T)
    copies = [Parameter(p.detach().clone(memory_format=torch.preserve_format)) for p in (a, b, c)]
    results = []
    for library, params in ((sf.optim, [a, b, c]), (torch.optim, copies)):
        optimizer = library.Adam(params, lr=0.1, weight_decay=0.1)
        for i in range(3):
            make = torch.Generator().manual_seed(i)
            for p in params:
                p.grad = torch.randn(p.shape, generator=make)
            if i == 1:
                params[1].grad = None
            grads = [None if p.grad is None else p.grad.clone() for p in params]
            optimizer.step()
            for p, g in zip(params, grads, strict=True):
                assert (p.grad is None and g is None) or torch.equal(p.grad, g)
        results.append(params)
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    assert a.stride() == copies[0].stride()


def test_versions_count() -> None:
    """Autograd sees that the parameter was written."""
    w = Parameter(torch.ones(3))
    optimizer = sf.optim.SGD([w], lr=0.1)
    loss = (w * w).sum()
    w.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_with_gaps() -> None:
    """A parameter that is a slice of memory steps as a copy and is written back."""
    w = Parameter(torch.zeros(4, 6)[:, :3])
    w.grad = torch.ones(4, 3)
    optimizer = sf.optim.SGD([w], lr=0.1)
    optimizer.step()
    torch.testing.assert_close(w, torch.full((4, 3), -0.1))


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        ("SGD", {"lr": -1.0}, "Invalid learning rate"),
        ("SGD", {"lr": torch.ones(2)}, "1-element"),
        ("SGD", {"momentum": -1.0}, "Invalid momentum"),
        ("SGD", {"weight_decay": -1.0}, "Invalid weight_decay"),
        ("SGD", {"nesterov": True}, "Nesterov"),
        ("SGD", {"noise": -1.0}, "Invalid noise"),
        ("SGD", {"seed": -1}, "Invalid seed"),
        ("SGD", {"constraint": "squeeze"}, "constraint must be"),
        ("SGD", {"differentiable": True}, "differentiable"),
        ("SGD", {"anchor": sf.Anchor(1.0)}, "weight_decay"),
        ("SGD", {"anchor": 3, "weight_decay": 0.1}, "anchor must be"),
        ("Adam", {"betas": (0.9, 1.0)}, "Invalid beta"),
        ("Adam", {"eps": -1.0}, "Invalid epsilon"),
        ("Adam", {"amsgrad": True}, "amsgrad"),
    ],
)
def test_refuses_in_words(rule: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, RuntimeError, TypeError), match=words):
        getattr(sf.optim, rule)(parameters(), **options)


def test_refuses_sparse_complex_and_float8() -> None:
    with pytest.raises(RuntimeError, match="float8"):
        sf.optim.SGD([Parameter(torch.zeros(2, dtype=torch.float8_e4m3fn))])
    with pytest.raises(RuntimeError, match="complex"):
        sf.optim.SGD([Parameter(torch.zeros(2, dtype=torch.complex64))])
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse"):
        sf.optim.SGD(embedding.parameters()).step()
    assert torch.equal(embedding.weight, before)
    optimizer = sf.optim.SGD([Parameter(torch.zeros(2))])
    with pytest.raises(RuntimeError, match="complex"):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(2, dtype=torch.complex64))]})
    assert len(optimizer.param_groups) == 1


def test_adamw_warns_of_decaying_factors() -> None:
    factors = list(sf.factorize(torch.nn.Linear(3, 2, bias=False), "weight").parameters())
    with pytest.warns(UserWarning, match="L1 penalty"):
        sf.optim.AdamW(factors)
    sf.optim.AdamW(factors, weight_decay=0.0)
    sf.optim.Adam(factors, weight_decay=0.1)
