# SPDX-License-Identifier: Apache-2.0
"""Planted structure is found and removed, nothing else, and the function stays the same."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import symfast as sf


def change(small: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        before, after = model.eval()(x), small.eval()(x)
    return float((after - before).abs().max() / before.abs().max())


def planted_mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """64 hidden units: 8 constant, 4 duplicate, 4 rescaled duplicates, 4 unread, 44 plain."""
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 6)).to(dtype)
    place = torch.randperm(64)
    constant, double, scaled, unread, plain = place.split([8, 4, 4, 4, 44])
    factor = torch.rand(4, dtype=dtype) * 3 + 0.1
    with torch.no_grad():
        weight, bias, reader = model[0].weight, model[0].bias, model[2].weight
        weight[constant] = 0
        weight[double], bias[double] = weight[plain[:4]], bias[plain[:4]]
        weight[scaled] = factor[:, None] * weight[plain[4:8]]
        bias[scaled] = factor * bias[plain[4:8]]
        reader[:, unread] = 0
    return model


def test_planted_mlp_keeps_44_units() -> None:
    model = planted_mlp()
    before = copy.deepcopy(model.state_dict())
    small, proof = sf.compress(model, torch.randn(32, 10, dtype=torch.float64))
    assert (small[0].out_features, small[2].in_features) == (44, 44)
    assert small[0].weight.shape == (44, 10)
    assert proof.max_error <= 1e-12
    assert change(small, model, 3 * torch.randn(500, 10, dtype=torch.float64)) <= 1e-12
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    actions = {step.action: step.units for step in proof.steps}
    assert actions == {"unread": 4, "constant": 8, "duplicate": 8, "cut": 20}
    assert proof.removed == {"0 -> relu -> 2": 20}
    assert (proof.parameters_before, proof.parameters_after) == (1094, 44 * 17 + 6)
    assert proof.flops_after * 64 == proof.flops_before * 44


def test_planted_mlp_in_float32() -> None:
    model = planted_mlp(torch.float32)
    small, proof = sf.compress(model, torch.randn(32, 10))
    assert small[0].weight.shape == (44, 10)
    assert small[0].weight.dtype == torch.float32
    assert small[0].weight.requires_grad
    assert proof.max_error <= 1e-6
    assert proof.stored_error <= 1e-6


def test_nothing_planted_nothing_removed() -> None:
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 40))
    small, proof = sf.compress(model, torch.randn(32, 10))
    assert proof.removed == {}
    assert proof.steps == []
    assert proof.max_error == 0.0
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), small.parameters(), strict=True)
    )


def test_compressing_again_removes_nothing() -> None:
    x = torch.randn(32, 10, dtype=torch.float64)
    small, _ = sf.compress(planted_mlp(), x)
    again, proof = sf.compress(small, x)
    assert proof.removed == {}
    assert again[0].out_features == 44


def test_flipped_duplicates_of_tanh_merge_but_scaled_ones_do_not() -> None:
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        model[0].weight[5], model[0].bias[5] = -model[0].weight[1], -model[0].bias[1]
        model[0].weight[6], model[0].bias[6] = 2 * model[0].weight[2], 2 * model[0].bias[2]
    x = torch.randn(20, 4, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small[0].out_features == 8
    assert change(small, model, x) <= 1e-12
    assert proof.removed == {"0 -> tanh -> 2": 1}


def test_flipped_duplicates_of_relu_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        model[0].weight[5], model[0].bias[5] = -model[0].weight[1], -model[0].bias[1]
    small, _ = sf.compress(model, torch.randn(20, 4, dtype=torch.float64))
    assert small[0].out_features == 9


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_rank_deficient_pair_gets_its_rank(rank: int) -> None:
    model = nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2)).double()
    with torch.no_grad():
        low = torch.randn(12, rank).double() @ torch.randn(rank, 10).double()
        model[0].weight.copy_(low)
    x = torch.randn(20, 10, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small[0].out_features == rank
    assert small[2:3] is not None
    assert small[3].in_features == 9
    assert proof.max_error <= 1e-12


def test_constants_cascade_and_make_biases() -> None:
    """A dead second layer leaves the first unread; a reader without bias gets one."""
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3, bias=False)
    ).double()
    with torch.no_grad():
        model[2].weight[:5] = 0
        model[2].weight[5:, :6] = 0
    x = torch.randn(20, 4, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert (small[0].out_features, small[2].out_features) == (2, 3)
    assert small[4].bias is not None
    assert small[4].bias.requires_grad
    assert change(small, model, x) <= 1e-12
    assert proof.parameters_after == sum(p.numel() for p in small.parameters())


def test_tolerance_merges_close_units_within_it() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for j in range(3):
            model[0].weight[9 + j] = model[0].weight[j] * (1 + 1e-4 * torch.randn(6))
            model[0].bias[9 + j] = model[0].bias[j]
    x = torch.randn(50, 6, dtype=torch.float64)
    exact, _ = sf.compress(model, x)
    assert exact[0].out_features == 12
    small, proof = sf.compress(model, x, tol=1e-3)
    assert small[0].out_features == 9
    assert 1e-8 < change(small, model, x) <= 1e-3
    hidden_input = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    with torch.no_grad():
        moved = (small(x) - model(x)).norm(dim=1) / hidden_input.norm(dim=1)
    assert float(moved.max()) <= proof.bound <= 1e-2


def test_a_rewrite_that_changes_the_outputs_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """If merging were wrong, the check would undo it."""
    from symfast.compress import duplicates

    monkeypatch.setattr(duplicates, "_compare", lambda *_: (1.7, 0.0))
    model = planted_mlp()
    small, proof = sf.compress(model, torch.randn(32, 10, dtype=torch.float64))
    assert small[0].out_features == 64 - 12
    assert any(step.action == "duplicate" and not step.kept for step in proof.steps)
    assert proof.max_error <= 1e-12


def test_small_model_saves_loads_exports_and_trains() -> None:
    model = planted_mlp(torch.float32).train()
    x = torch.randn(32, 10)
    small, _ = sf.compress(model, x)
    assert small.training
    buffer = io.BytesIO()
    torch.save(small.state_dict(), buffer)
    buffer.seek(0)
    plain = nn.Sequential(nn.Linear(10, 44), nn.ReLU(), nn.Linear(44, 6))
    plain.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(plain(x), small(x))
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), small(x))
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.filterwarnings("ignore")  # of the exporter, about its own dependencies
def test_small_model_exports_to_onnx() -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x = torch.randn(32, 10)
    small, _ = sf.compress(planted_mlp(torch.float32), x)
    program = torch.onnx.export(small.eval(), (x,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (name,) = [item.name for item in session.get_inputs()]
    (out,) = session.run(None, {name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), small(x).detach(), rtol=1e-4, atol=1e-5)


def test_tolerance_of_one_group_leaves_the_others_exact() -> None:
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    ).double()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[7] = layer.weight[1] * (1 + 1e-5 * torch.randn(1).double())
            layer.bias[7] = layer.bias[1] * (1 + 1e-5)
    x = torch.randn(50, 6, dtype=torch.float64)
    small, proof = sf.compress(model, x, tol={"2 -> relu -> 4": 1e-3})
    assert (small[0].out_features, small[2].out_features) == (8, 7)
    assert 0 < proof.max_error <= 1e-3
    with pytest.raises(ValueError, match="there are 0 -> relu -> 2, 2 -> relu -> 4"):
        sf.compress(model, x, tol={"nowhere": 1e-3})
    with pytest.raises(ValueError, match="give a number >= 0"):
        sf.compress(model, x, tol={"2 -> relu -> 4": -1.0})


@pytest.mark.parametrize("tol", [-1.0, float("nan")])
def test_bad_tolerance_is_refused(tol: float) -> None:
    with pytest.raises(ValueError, match="give a number >= 0"):
        sf.compress(planted_mlp(), torch.randn(2, 10), tol=tol)


def plant(layer: nn.Linear, reader: nn.Linear, counts: dict[str, int], activation: str) -> int:
    """Damage random units of a hidden layer in place; return how many plain ones are left."""
    order = torch.randperm(layer.out_features)
    parts = order.split([*counts.values(), len(order) - sum(counts.values())])
    kinds = dict(zip([*counts, "plain"], parts, strict=True))
    plain = kinds["plain"]
    with torch.no_grad():
        layer.weight[kinds["constant"]] = 0
        layer.weight[kinds["dead"]], layer.bias[kinds["dead"]] = 0, 0
        reader.weight[:, kinds["unread"]] = 0
        for number, unit in enumerate(kinds["double"]):
            factor = {"relu": 0.5 + number, "tanh": (-1.0) ** number}.get(activation, 1.0)
            source = plain[number % len(plain)]
            layer.weight[unit] = factor * layer.weight[source]
            layer.bias[unit] = factor * layer.bias[source]
    return len(plain)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("draw", range(4))
def test_random_plants_are_found_and_nothing_else(activation: str, draw: int) -> None:
    torch.manual_seed(draw)
    widths = torch.randint(12, 40, (2,)).tolist()
    function = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[activation]
    first, second = nn.Linear(7, widths[0]), nn.Linear(*widths)
    model = nn.Sequential(first, function(), second, function(), nn.Linear(widths[1], 4)).double()
    kinds = ("constant", "dead", "unread", "double")
    left = []
    for layer, reader in ((first, second), (second, model[4])):
        counts = dict(zip(kinds, torch.randint(0, 3, (4,)).tolist(), strict=True))
        left.append(plant(layer, reader, counts, activation))
    small, proof = sf.compress(model, torch.randn(30, 7, dtype=torch.float64))
    assert [small[0].out_features, small[2].out_features] == left
    assert proof.max_error <= 1e-12
    assert change(small, model, torch.randn(200, 7, dtype=torch.float64)) <= 1e-12
