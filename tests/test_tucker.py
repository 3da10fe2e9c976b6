# SPDX-License-Identifier: Apache-2.0
"""Deep Tucker products as modules: same function, balanced start, conserved charges, folds."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import symfast as sf
from symfast.artificial import attached

Made = tuple[nn.Module, str, Tensor]
MODULES: dict[str, Callable[[], Made]] = {
    "linear": lambda: (nn.Linear(4, 6), "weight", torch.randn(3, 4)),
    "conv": lambda: (nn.Conv2d(4, 6, 3), "weight", torch.randn(2, 4, 5, 5)),
    "embedding": lambda: (nn.Embedding(6, 4), "weight", torch.tensor([0, 5, 1])),
    "nested": lambda: (nn.Sequential(nn.Tanh(), nn.Linear(4, 3)), "1.weight", torch.randn(3, 4)),
}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", MODULES)
def test_full_ranks_keep_the_function_and_fold_to_plain_keys(name: str, depth: int) -> None:
    module, weight, x = MODULES[name]()
    before, plain = module(x), {k: v.clone() for k, v in module.state_dict().items()}
    sf.tucker(module, weight, ranks=9, depth=depth)
    assert_close(module(x), before, rtol=1e-4, atol=1e-5)
    module(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
    assert_close(copy.deepcopy(module)(x), module(x), rtol=0, atol=0)
    sf.fold(module, tol=0.0)
    assert list(module.state_dict()) == list(plain)
    for key, value in module.state_dict().items():
        assert_close(value, plain[key], rtol=1e-4, atol=1e-5)


def test_smaller_ranks_truncate_and_checkpoints_return() -> None:
    made = [sf.tucker(nn.Conv2d(4, 6, 3), "weight", (2, 3, 3, 3), depth=2) for _ in range(2)]
    assert torch.linalg.matrix_rank(made[0].weight.flatten(1)) == 2
    made[1].load_state_dict(made[0].state_dict())
    assert torch.equal(made[0].weight, made[1].weight)


@pytest.mark.parametrize("depth", [1, 3])
def test_starts_balanced_and_descent_conserves(depth: int) -> None:
    """All charges start at zero, and drift in proportion to the learning rate, not faster."""
    drifts = []
    for lr in (2e-3, 1e-3):
        torch.manual_seed(0)
        layer = sf.tucker(nn.Linear(5, 4, dtype=torch.float64), "weight", 3, depth=depth)
        found = next(attached(layer))
        start = found.artificial.invariants(found.tensors).detach()
        assert_close(start, torch.zeros_like(start), rtol=0, atol=1e-6)
        target = torch.randn(4, 5, dtype=torch.float64)
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
        for _ in range(round(0.4 / lr)):
            optimizer.zero_grad()
            (layer.weight - target).square().sum().backward()
            optimizer.step()
        end = found.artificial.invariants(found.tensors).detach()
        drifts.append((end - start).abs().max().item())
    assert drifts[0] < 0.1
    assert 0.35 < drifts[1] / drifts[0] < 0.65


def test_slices_that_vanished_fold_to_a_lower_rank() -> None:
    layer = sf.tucker(nn.Linear(6, 5), "weight", 4)
    with torch.no_grad():
        next(attached(layer)).tensors[0][1:3] *= 1e-9
    assert torch.linalg.matrix_rank(sf.fold(layer, tol=1e-6).weight) == 2


def test_compiles_in_one_graph() -> None:
    layer, x = sf.tucker(nn.Linear(4, 6), "weight", 3, depth=2), torch.randn(3, 4)
    wanted = layer(x)
    assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), wanted)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["self_attn.in_proj_weight", "self_attn.out_proj.weight"])
def test_attention_keeps_its_function(name: str, depth: int, fast: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True).eval()
    x, plain = torch.randn(3, 5, 8), list(layer.state_dict())
    with torch.set_grad_enabled(not fast):  # without gradients eval() takes torch's fast path
        before = layer(x)
        sf.tucker(layer, name, ranks=24, depth=depth)
        assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
        assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)
        sf.fold(layer, tol=0.0)
        assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
    assert list(layer.state_dict()) == plain


@pytest.mark.parametrize(
    ("name", "ranks", "depth", "words"),
    [
        ("bias", 2, 1, "two dims"),
        ("weight", (2, 2, 2), 1, "do not fit"),
        ("weight", (0, 2), 1, "do not fit"),
        ("weight", (2, 9), 1, "do not fit"),
        ("weight", 2, 7, "depth"),
        ("wait", 2, 1, "no parameter"),
    ],
)
def test_refusals_change_nothing(name: str, ranks: Any, depth: int, words: str) -> None:
    layer = nn.Linear(4, 6)
    with pytest.raises(ValueError, match=words):
        sf.tucker(layer, name, ranks, depth)
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight", "bias"]
