# SPDX-License-Identifier: Apache-2.0
"""Factors in layers of torch: transposed convolutions, padding, attention, random starts."""

import copy
from collections.abc import Callable
from math import erf, exp, pi, sqrt
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.testing import assert_close

import symfast as sf
from symfast.artificial import attached
from symfast.errors import ArtificialError

TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", TRANSPOSED)
def test_a_gate_of_a_transposed_convolution_is_an_output_channel(
    dims: int, groups: int, depth: int
) -> None:
    layer: Any = TRANSPOSED[dims](4, 6, 3, groups=groups, bias=False)
    x = torch.randn(2, 4, *[5] * dims)
    before, shape = layer(x), layer.weight.shape
    sf.factorize(layer, "weight", depth=depth, per="filter")
    weight, *gates = next(attached(layer)).factors
    assert weight.shape == shape
    assert [gate.numel() for gate in gates] == [6] * (depth - 1)
    assert_close(layer(x), before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        gates[0].view(-1)[4] = 1e-9
    got = sf.fold(layer)(x)
    assert (got[:, 4] == 0).all()
    kept = [0, 1, 2, 3, 5]
    assert_close(got[:, kept], before[:, kept], rtol=1e-5, atol=1e-6)


def test_balanced_gates_hold_the_norms_of_transposed_filters() -> None:
    """With beta = 0, gate^2 = ||filter|| = sum of squares of the rest, filter by filter."""
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    norms = torch.stack([
        layer.weight[2 * group : 2 * group + 2, channel].detach().norm()
        for group in range(2)
        for channel in range(3)
    ])  # fmt: skip
    sf.factorize(layer, "weight", per="filter", beta=0.0)
    gate = next(attached(layer)).factors[1].detach()
    assert_close(gate.flatten().square(), norms)


def test_filters_of_a_transposed_convolution_compile_and_train() -> None:
    layer, x = nn.ConvTranspose2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)
    sf.factorize(layer, "weight", depth=3, per="filter")
    wanted = layer(x)
    torch._dynamo.reset()
    assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), wanted)
    wanted.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())
    with pytest.raises(ArtificialError, match="per='filter' does not fit"):
        sf.factorize(nn.ConvTranspose1d(4, 6, 3), "bias", per="filter")


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("padding", [0, 3, -1])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_random_start_leaves_the_padding_row_zero(kind: Any, padding: int, depth: int) -> None:
    layer = kind(10, 6, padding_idx=padding)
    scale = float(layer.weight.detach()[[i for i in range(10) if i != padding % 10]].std())
    sf.factorize(layer, "weight", depth=depth, init="dwf", eps=0.01)
    groups = sf.factor_groups(layer, lam=0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    shown = layer.weight.detach().abs()
    assert (shown.sum(1) == 0).nonzero().flatten().tolist() == [padding % 10]
    assert bool((shown[shown != 0] < 2 * scale).all())
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.arange(10).reshape(2, 5)).square().sum().backward()
        optimizer.step()
    assert (sf.fold(layer).weight[padding] == 0).all()


def attention() -> tuple[nn.Module, str, Callable[[nn.Module], torch.Tensor]]:
    x = torch.randn(3, 5, 8)
    return nn.MultiheadAttention(8, 2, batch_first=True), "", lambda m: m(x, x, x)[0]


def encoder() -> tuple[nn.Module, str, Callable[[nn.Module], torch.Tensor]]:
    x = torch.randn(3, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
    return layer, "self_attn.", lambda m: m(x)


CHANGES: dict[str, Callable[[nn.Module, str], nn.Module]] = {
    "flips": lambda m, n: sf.dcs(m, n, sf.SignFlip([0, 3]), depth=3),
    "swaps": lambda m, n: sf.dcs(m, n, sf.Swap([0], [2]), mode="group"),
    "mirror": lambda m, n: sf.dcs(m, n, sf.Mirror(torch.eye(8)[:, :2])),
    "direction": lambda m, n: sf.dcs(m, n, sf.Direction(torch.eye(8)[:, 0]), dim=1),
    "low_rank": lambda m, n: sf.low_rank(m, n),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["in_proj_weight", "out_proj.weight"])
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("make", [attention, encoder], ids=lambda f: f.__name__)
def test_constraints_and_ranks_in_attention(make: Any, kind: str, name: str, fast: bool) -> None:
    model, path, call = make()
    model.eval()
    plain = copy.deepcopy(model)
    with torch.set_grad_enabled(not fast):  # without gradients eval() takes torch's fast path
        before = call(model)
        CHANGES[kind](model, path + name)
        assert_close(call(model), before, rtol=1e-4, atol=1e-5)
        assert_close(call(copy.deepcopy(model)), call(model), rtol=0, atol=0)
        if not fast:
            call(model).square().sum().backward()
            assert all(f.grad is not None for f in next(attached(model)).factors)
        sf.fold(model)
        assert_close(call(model), before, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("kind", ["factorize", "dcs", "low_rank", "tucker"])
def test_torch_takes_the_factors_off_too(kind: str) -> None:
    """remove_parametrizations leaves a plain layer that takes factors again."""
    layer, x = nn.Linear(4, 6), torch.randn(3, 4)
    change: dict[str, Callable[[], object]] = {
        "factorize": lambda: sf.factorize(layer, "weight", depth=3),
        "dcs": lambda: sf.dcs(layer, "weight", sf.Swap([0], [1])),
        "low_rank": lambda: sf.low_rank(layer, "weight"),
        "tucker": lambda: sf.tucker(layer, "weight", 9),
    }
    before = layer(x)
    for _ in range(2):
        change[kind]()
        with pytest.raises(ValueError, match="sequence of tensors"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        weight = layer.weight.detach().clone()
        parametrize.remove_parametrizations(layer, "weight")
        assert type(layer) is nn.Linear
        assert isinstance(layer.weight, nn.Parameter)
        assert sorted(layer.state_dict()) == ["bias", "weight"]
        assert torch.equal(layer.weight, weight)
        assert not list(attached(layer))
        assert_close(layer(x), before, rtol=1e-4, atol=1e-5)


def truncated_square(low: float, high: float) -> float:
    """E z^2 of a standard normal z given low < |z| < high."""
    density = [exp(-(z**2) / 2) / sqrt(2 * pi) for z in (low, high)]
    mass = (erf(high / sqrt(2)) - erf(low / sqrt(2))) / 2
    return 1 - (high * density[1] - low * density[0]) / mass


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_a_random_start_has_the_variance_of_its_law(depth: int) -> None:
    """Var w = (E f^2)^D over the truncated normal of one factor, with the scale of the weight."""
    layer, eps = nn.Linear(300, 400), 0.01
    scale = float(layer.weight.detach().double().std())
    sf.factorize(layer, "weight", depth=depth, init="dwf", eps=eps)
    sigma = scale ** (1 / depth)
    low, high = (eps * scale) ** (1 / depth), min(1.0, (2 * scale) ** (1 / depth))
    wanted = (sigma**2 * truncated_square(low / sigma, high / sigma)) ** depth
    assert float(layer.weight.detach().double().var()) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_random_start_trains(depth: int) -> None:
    X = torch.randn(200, 8)
    y = torch.sin(X[:, :1]) + 0.5 * X[:, 1:2]
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    for name in ("0.weight", "2.weight"):
        sf.factorize(model, name, depth=depth, init="dwf")
    start = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    optimizer = torch.optim.Adam(sf.factor_groups(model, lam=1e-4), lr=0.02)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(X) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    assert not any(
        torch.equal(w, m.weight) for w, m in zip(start, (model[0], model[2]), strict=True)
    )
    after = model(X).detach()
    assert_close(sf.fold(model, tol=0.0)(X), after, rtol=1e-5, atol=1e-6)
