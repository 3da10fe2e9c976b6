# SPDX-License-Identifier: Apache-2.0
"""Gauge moves: the function stays, the charges go where they were sent, refusals change nothing."""

import copy

import pytest
import torch
from test_charges import GL, layer_group, two_layers
from torch import Tensor, nn

import symfast as sf
from symfast.symmetry_group import Member, SymmetryGroup


def inputs(model: nn.Sequential) -> Tensor:
    return torch.randn(50, model[0].in_features, dtype=model[0].weight.dtype)


@pytest.mark.parametrize("middle", [nn.ReLU(), nn.LeakyReLU(), nn.Identity()])
def test_balanced_units_and_the_same_function(middle: nn.Module) -> None:
    model = two_layers(4, middle)
    with torch.no_grad():
        model[0].weight *= 30
    X = inputs(model)
    before = model(X)
    (move,) = sf.balance_(model, [layer_group(model[0], model[2], ("rescale",))])
    torch.testing.assert_close(model(X), before, rtol=1e-12, atol=1e-12)
    assert move.before > 0.5
    assert move.after < 1e-14
    inward = (model[0].weight.square().sum(1) + model[0].bias.square()).detach()
    torch.testing.assert_close(inward, model[2].weight.square().sum(0).detach())


def test_linear_pair_reaches_equal_grams() -> None:
    model = two_layers(8, nn.Identity())
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(6, 3) * 9)
    model[0] = nn.Linear(7, 6).double()
    X = inputs(model)
    before = model(X)
    (move,) = sf.balance_(model, [layer_group(model[0], model[2], GL, "identity")])
    assert move.kind == "rotation"
    torch.testing.assert_close(model(X), before, rtol=1e-11, atol=1e-11)
    A = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach()
    V = model[2].weight.detach()
    torch.testing.assert_close(A @ A.T, V.T @ V, rtol=1e-10, atol=1e-10)
    assert move.after < 1e-12


def test_rank_deficient_pair_is_left_alone_and_said_so() -> None:
    model = two_layers(4, nn.Identity())  # 3 inputs and a bias: rank 4 of 6
    state = copy.deepcopy(model.state_dict())
    (move,) = sf.balance_(model, [layer_group(model[0], model[2], GL, "identity")])
    assert move.left == tuple(range(6))
    assert move.before == move.after
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_found_groups_of_a_deep_network_are_balanced_together() -> None:
    """Neighbours share a weight, so each move disturbs the next: all must end balanced."""
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    model = model.double()
    with torch.no_grad():
        model[0].weight *= 10
        model[4].weight *= 0.01
    X = torch.randn(6, 5, dtype=torch.float64)
    groups = sf.find_symmetries(model, X)
    before = model(X)
    moves = sf.balance_(model, groups)
    torch.testing.assert_close(model(X), before, rtol=1e-11, atol=1e-13)
    assert len(moves) == 2
    assert all(move.after < 1e-9 < move.before for move in moves)
    again = sf.balance_(model, groups)
    assert all(float(move.factors.log().abs().max()) < 1e-9 for move in again)  # idempotent


def test_found_attention_heads_are_balanced() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return out

    model, x = Block(), torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        attention.in_proj_weight[:8] *= 7
    groups = sf.find_symmetries(model, x)
    before = model(x)
    moves = sf.balance_(model, groups)
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-11)
    assert {move.kind for move in moves} >= {"rotation"}
    assert all(move.after < 1e-8 for move in moves if not move.left)


def test_unlock_moves_only_locked_neurons() -> None:
    model = two_layers(1, nn.ReLU())
    with torch.no_grad():
        model[2].weight[0, :3] = 10.0
        model[2].weight[0, 3:] = 1e-3
    X, untouched = inputs(model), model[0].weight[3:].clone()
    before = model(X)
    group = layer_group(model[0], model[2], ("rescale",))
    (move,) = sf.balance_(model, [group], "unlock", margin=0.5)
    torch.testing.assert_close(model(X), before, rtol=1e-12, atol=1e-12)
    assert bool((move.factors[:3] > 1).all())
    assert torch.equal(model[0].weight[3:], untouched)
    (charge,) = sf.charges(model, [group])
    assert charge.locked is not None
    assert not bool(charge.locked.any())
    a = (model[0].weight.square().sum(1) + model[0].bias.square()).sqrt()[:3]
    b = model[2].weight[0, :3].abs()
    torch.testing.assert_close(charge.value[:3], (2 * 0.5 * a * b).detach())


def test_units_with_a_zero_side_are_left() -> None:
    model = two_layers(2, nn.ReLU())
    with torch.no_grad():
        model[2].weight[:, 4] = 0
    X = inputs(model)
    before = model(X)
    (move,) = sf.balance_(model, [layer_group(model[0], model[2], ("rescale",))])
    assert move.left == (4,)
    torch.testing.assert_close(model(X), before, rtol=1e-12, atol=1e-12)


def test_half_precision_is_calculated_in_double(dtype: torch.dtype) -> None:
    model = two_layers(2, nn.ReLU()).to(dtype)
    (move,) = sf.balance_(model, [layer_group(model[0], model[2], ("rescale",))])
    assert move.after < 4 * torch.finfo(dtype).eps
    assert model[0].weight.dtype == dtype


def refused(groups: list[SymmetryGroup], model: nn.Module | None, sentence: str) -> None:
    kept = [member.tensor.clone() for group in groups for member in group.members]
    with pytest.raises(ValueError, match=sentence):
        sf.balance_(model, groups)
    now = [member.tensor for group in groups for member in group.members]
    for a, b in zip(kept, now, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=0, equal_nan=True)


def test_tied_and_overlapping_tensors_are_refused() -> None:
    w = torch.randn(4, 4)
    tied = (Member(w, 0, "encoder", "in"), Member(w.T, 1, "decoder", "out"))
    refused([SymmetryGroup(tied, ("rescale",))], None, "encoder and decoder share memory")
    part = (Member(w[:3], 0, "a", "in"), Member(torch.randn(2, 3), 1, "b", "out"))
    rest = (Member(w[1:], 0, "c", "in"), Member(torch.randn(2, 3), 1, "d", "out"))
    groups = [SymmetryGroup(x, ("rescale",)) for x in (part, rest)]
    refused(groups, None, "a and c share memory")
    twice = groups[:1] * 2
    refused(twice, None, "share memory")


def test_a_parameter_with_a_second_name_is_refused() -> None:
    model = two_layers(3, nn.ReLU())
    model.append(nn.Linear(3, 6))
    model[3].weight = model[0].weight
    refused([layer_group(model[0], model[2], ("rescale",))], model, "is also 0.weight, 3.weight")


def test_disjoint_slices_of_one_tensor_are_fine() -> None:
    packed, out = torch.randn(8, 5).double(), torch.randn(3, 8).double()
    groups = [
        SymmetryGroup(
            (Member(packed[s], 0, "p", "in"), Member(out[:, s], 1, "o", "out")), ("rescale",)
        )
        for s in (slice(0, 4), slice(4, 8))
    ]
    product = out @ packed
    assert all(move.after < 1e-14 for move in sf.balance_(None, groups))
    torch.testing.assert_close(out @ packed, product, rtol=1e-12, atol=1e-12)


def test_nothing_is_half_written() -> None:
    """A NaN in the second group stops the move of the first."""
    first, second = two_layers(2, nn.ReLU()), two_layers(2, nn.ReLU())
    with torch.no_grad():
        second[0].weight[0, 0] = float("nan")
    groups = [layer_group(model[0], model[2], ("rescale",)) for model in (first, second)]
    refused(groups, None, "NaN or infinity")


@pytest.mark.parametrize(("target", "margin"), [("centred", 1.0), ("unlock", 0.0)])
def test_bad_options_are_refused(target: str, margin: float) -> None:
    with pytest.raises(ValueError, match="target is|margin is"):
        sf.balance_(None, [], target, margin=margin)  # type: ignore[arg-type]
