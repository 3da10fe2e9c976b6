# SPDX-License-Identifier: Apache-2.0
"""Artificial symmetries as modules: same function, copies, checkpoints, plain folds."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from compiled_models import assert_compiles
from torch import Tensor, nn
from torch.testing import assert_close

import symfast as sf
from symfast.artificial import attached
from symfast.errors import ArtificialError
from symfast.factor_init import draw_factors, keep_factors, split

Change = Callable[[nn.Module, str], nn.Module]
CHANGES: dict[str, Change] = {
    "spred": lambda m, n: sf.factorize(m, n),
    "dwf": lambda m, n: sf.factorize(m, n, depth=4),
    "rows": lambda m, n: sf.factorize(m, n, depth=3, per="row"),
    "columns": lambda m, n: sf.factorize(m, n, per="column"),
    "heads": lambda m, n: sf.factorize(m, n, per="head", heads=2),
    "swap": lambda m, n: sf.dcs(m, n, sf.Swap([0], [1])),
    "flip": lambda m, n: sf.dcs(m, n, sf.SignFlip(), mode="group", depth=3),
    "cluster": lambda m, n: sf.dcs(m, n, sf.Cluster([0, 0, 0, 1, 1, 2]), dim=0),
    "low_rank": lambda m, n: sf.low_rank(m, n),
}


def linear() -> tuple[nn.Module, str, Tensor]:
    return nn.Linear(4, 6), "weight", torch.randn(3, 4)


def conv() -> tuple[nn.Module, str, Tensor]:
    return nn.Conv2d(4, 6, 3), "weight", torch.randn(2, 4, 5, 5)


def embedding() -> tuple[nn.Module, str, Tensor]:
    return nn.Embedding(6, 4), "weight", torch.tensor([0, 5, 1])


def nested() -> tuple[nn.Module, str, Tensor]:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))
    return model, "2.weight", torch.randn(3, 4)


MODULES = [linear, conv, embedding, nested]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("make", MODULES, ids=lambda f: f.__name__)
def test_switching_on_and_folding_keep_the_function(
    make: Callable[[], tuple[nn.Module, str, Tensor]], kind: str
) -> None:
    model, name, x = make()
    before, plain = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    CHANGES[kind](model, name)
    assert len(list(attached(model))) == 1
    assert_close(model(x), before, rtol=1e-5, atol=1e-6)
    model(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    copied = copy.deepcopy(model)
    assert_close(copied(x), model(x), rtol=0, atol=0)
    sf.fold(model, tol=0.0)
    assert list(model.state_dict()) == list(plain)
    assert type(model) is type(make()[0])
    for key, value in model.state_dict().items():
        assert_close(value, plain[key], rtol=1e-5, atol=1e-6)
    assert_close(model(x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["in_proj_weight", "out_proj.weight"])
def test_attention(name: str, fast: bool) -> None:
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 5, 8)
    layer.eval()
    with torch.set_grad_enabled(not fast):  # without gradients eval() takes torch's fast path
        before = layer(x, x, x)[0]
        sf.factorize(layer, name, per="head", heads=6 if name == "in_proj_weight" else 2, depth=3)
        assert_close(layer(x, x, x)[0], before, rtol=1e-4, atol=1e-5)
        sf.fold(layer)
        assert_close(layer(x, x, x)[0], before, rtol=1e-4, atol=1e-5)
    assert list(layer.state_dict()) == list(nn.MultiheadAttention(8, 2).state_dict())


def test_half_precision_weights_have_wide_factors() -> None:
    layer, x = nn.Linear(4, 3).bfloat16(), torch.randn(2, 4).bfloat16()
    before, weight = layer(x), layer.weight.detach().clone()
    sf.factorize(layer, "weight")
    factors = next(attached(layer)).factors
    assert {f.dtype for f in factors} == {torch.float32}
    assert layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer(x), before)
    assert layer.float().weight.dtype == torch.float32


def test_state_dict_round_trip() -> None:
    source, target = (sf.factorize(nn.Linear(4, 3), "weight", depth=3) for _ in range(2))
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    target.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(source.weight, target.weight)
    assert "parametrizations.weight.original2" in source.state_dict()
    assert not any("like" in key for key in source.state_dict())


def test_assigning_a_weight_encodes_it() -> None:
    layer = sf.factorize(nn.Linear(4, 3), "weight", depth=3)
    wanted = torch.randn(3, 4)
    layer.weight = wanted
    assert_close(layer.weight, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", CHANGES)
def test_compiles_in_one_graph(kind: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), torch.randn(3, 4)
    CHANGES[kind](model, "0.weight")
    assert_compiles(model, x)


def test_frozen_weights_stay_frozen() -> None:
    layer = nn.Linear(4, 3)
    layer.weight.requires_grad_(False)
    weight = layer.weight.clone()
    sf.factorize(layer, "weight")
    assert not any(f.requires_grad for f in next(attached(layer)).factors)
    sf.fold(layer)
    assert isinstance(layer.weight, nn.Parameter)
    assert not layer.weight.requires_grad
    assert_close(layer.weight, weight)


def test_fold_gives_exact_structure() -> None:
    layer = sf.factorize(nn.Linear(3, 2), "weight")
    with torch.no_grad():
        next(attached(layer)).factors[1].mul_(torch.tensor([[1e-9, 1, 1], [1, 1e-9, 1]]))
    assert (sf.fold(layer).weight == 0).sum() == 2
    layer = sf.dcs(nn.Linear(3, 4), "weight", sf.Swap([0, 2], [1, 3]), mode="group")
    with torch.no_grad():
        next(attached(layer)).factors[0].mul_(torch.tensor([[1e-9], [1.0]]))
    weight = sf.fold(layer).weight
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[2], weight[3])
    layer = sf.low_rank(nn.Linear(8, 6), "weight", rank=6)
    with torch.no_grad():
        next(attached(layer)).factors[0].mul_(torch.tensor([1, 1, 1e-9, 1, 1, 1e-9]))
    assert torch.linalg.matrix_rank(sf.fold(layer).weight) == 4


@pytest.mark.parametrize("depth", [2, 4])
def test_gates_of_convolution_filters(depth: int) -> None:
    """One gate a filter: the function stays, and a vanished gate folds to a filter of zeros."""
    layer, x = nn.Conv2d(4, 6, 3, bias=False), torch.randn(2, 4, 5, 5)
    before = layer(x)
    sf.factorize(layer, "weight", depth=depth, per="filter")
    weight, *gates = next(attached(layer)).factors
    assert weight.shape == (6, 4, 3, 3)
    assert [tuple(g.shape) for g in gates] == [(6, 1, 1, 1)] * (depth - 1)
    assert_close(layer(x), before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        gates[0][2] = 1e-9
    got = sf.fold(layer)(x)
    assert (got[:, 2] == 0).all()
    kept = [0, 1, 3, 4, 5]
    assert_close(got[:, kept], before[:, kept], rtol=1e-5, atol=1e-6)


def test_training_folds_to_a_sparse_module() -> None:
    torch.manual_seed(1)
    X, truth = torch.randn(200, 20), torch.zeros(20)
    truth[:3] = torch.tensor([1.0, -2.0, 1.5])
    layer = sf.factorize(nn.Linear(20, 1), "weight")
    optimizer = torch.optim.SGD(sf.factor_groups(layer, lam=0.1), lr=0.05, momentum=0.9)
    for _ in range(3000):
        optimizer.zero_grad()
        (0.5 * (layer(X)[:, 0] - X @ truth).square().mean()).backward()
        optimizer.step()
    assert torch.equal(sf.fold(layer).weight[0] != 0, truth != 0)


def test_groups_carry_the_penalty() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    sf.factorize(model, "0.weight", depth=4)
    sf.dcs(model, "2.weight", sf.SignFlip([0]))
    groups = sf.factor_groups(copy.deepcopy(model), lam=0.1, weight_decay=0.01)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [
        (2, 0.1),
        (4, 0.05),
        (5, 0.01),
    ]
    with pytest.raises(ArtificialError, match="lam"):
        sf.factor_groups(model, lam=-1.0)
    with pytest.raises(ArtificialError, match="no factors"):
        sf.factor_groups(nn.Linear(2, 2), lam=0.1)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("beta", [0.0, 1e-3, 1.0])
def test_keep_factors_has_the_imbalance_asked_for(depth: int, beta: float) -> None:
    w = torch.cat([torch.zeros(1), torch.logspace(-8, 2, 50)]).double() * torch.tensor(
        [1, -1, 1]
    ).repeat(17)
    factors = keep_factors(w, depth, beta)
    product = torch.stack(factors).prod(0)
    assert_close(product, w, rtol=1e-13, atol=0)
    imbalance = factors[0].square() - factors[-1].square()
    assert_close(imbalance, torch.full_like(w, beta), rtol=0, atol=1e-10 if beta else 0.0)
    assert bool((split(w.abs(), depth, beta) >= beta**0.5).all())


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_dwf_start(depth: int) -> None:
    factors = draw_factors((4000,), depth, 0.1, eps=0.05)
    w = factors.prod(0)
    assert float(w.abs().min()) > 0.005
    assert float(w.abs().max()) < 0.2
    kurtosis = float((w**4).mean() / (w**2).mean() ** 2)
    assert kurtosis < 6  # a plain product of normals has 3^depth
    layer = sf.factorize(nn.Linear(30, 20), "weight", depth=depth, init="dwf")
    assert bool((layer.weight != 0).all())


def refused() -> list[tuple[str, Callable[[], object]]]:
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    bad = nn.Linear(2, 2)
    with torch.no_grad():
        bad.weight[0, 0] = torch.nan
    done = sf.factorize(nn.Linear(2, 2), "weight")
    fix = nn.Linear
    return [
        ("tied", lambda: sf.factorize(tied, "0.weight")),
        ("NaN", lambda: sf.factorize(bad, "weight")),
        ("already", lambda: sf.factorize(done, "weight")),
        ("no parameter", lambda: sf.factorize(fix(2, 2), "wait")),
        ("no parameter", lambda: sf.factorize(fix(2, 2), "a.weight")),
        ("not a parameter", lambda: sf.factorize(nn.BatchNorm1d(3), "running_mean")),
        ("list of its own", lambda: sf.factorize(nn.LSTM(2, 3), "weight_ih_l0")),
        ("sparse", lambda: sf.factorize(nn.Embedding(3, 2, sparse=True), "weight")),
        ("no shape", lambda: sf.factorize(nn.LazyLinear(2), "weight")),
        ("ordinary", lambda: sf.factorize(fix(2, 2, dtype=torch.complex64), "weight")),
        ("depth", lambda: sf.factorize(fix(2, 2), "weight", depth=7)),
        ("depth", lambda: sf.factorize(fix(2, 2), "weight", depth=1)),
        ("beta", lambda: sf.factorize(fix(2, 2), "weight", beta=-1.0)),
        ("init", lambda: sf.factorize(fix(2, 2), "weight", init="dwf", per="row")),
        ("per", lambda: sf.factorize(fix(2, 2), "weight", per="filter")),
        ("heads", lambda: sf.factorize(fix(2, 2), "weight", per="head")),
        ("cut", lambda: sf.factorize(fix(2, 2), "weight", per="head", heads=3)),
        ("mode", lambda: sf.dcs(fix(2, 2), "weight", sf.SignFlip(), mode="l2")),
        ("names unit 5", lambda: sf.dcs(fix(2, 2), "weight", sf.SignFlip([5]))),
        ("does not fit", lambda: sf.dcs(fix(2, 2), "weight", sf.Mirror(torch.eye(3)[:, :1]))),
        ("dim", lambda: sf.dcs(fix(2, 2), "weight", sf.SignFlip(), dim=2)),
        ("two dims", lambda: sf.low_rank(fix(2, 2), "bias")),
        ("rank", lambda: sf.low_rank(fix(2, 2), "weight", rank=3)),
        ("tol", lambda: sf.fold(fix(2, 2), tol=-1.0)),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(refused())))
def test_refusals_change_nothing(number: int) -> None:
    words, call = refused()[number]
    with pytest.raises(ValueError, match=words):
        call()
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="depth"):
        sf.factorize(layer, "weight", depth=9)
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight", "bias"]
