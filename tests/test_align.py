# SPDX-License-Identifier: Apache-2.0
"""Alignment: planted moves are undone, the function never changes, bad input changes nothing."""

import copy
import importlib

import pytest
import torch
from torch import Tensor, nn

import symfast as sf
from symfast.align import match_models


def mlp(act: type[nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    layers = [nn.Linear(6, 12), act(), nn.Linear(12, 10), act(), nn.Linear(10, 3)]
    return nn.Sequential(*layers).to(dtype)


class Attention(nn.Module):
    """One layer of two heads with all biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return x + out


def scramble(model: nn.Module, x: Tensor, kinds: set[str]) -> nn.Module:
    moved = copy.deepcopy(model)
    for group in sf.find_symmetries(moved, x):
        for kind in kinds & set(group.kinds):
            group.apply_(kind, torch.Generator().manual_seed(3))
    return moved


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
def test_planted_permutations_signs_and_scales_are_undone(act: type[nn.Module]) -> None:
    anchor, x = mlp(act), torch.randn(9, 6, dtype=torch.float64)
    model = scramble(anchor, x, {"permutation", "sign_flip", "rescale"})
    found = match_models(model, anchor, x)
    assert found.before > 1
    assert found.after < 1e-7
    assert found.error < 1e-12
    assert not found.rejected
    torch.testing.assert_close(found.model(x), model(x), atol=1e-12, rtol=1e-12)


def test_planted_rotations_of_heads_are_undone() -> None:
    anchor, x = Attention().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    model = scramble(anchor, x, {"rotation"})
    found = match_models(model, anchor, x)
    assert found.before > 0.5
    assert found.after < 1e-6 * found.before


def test_rotations_of_a_layer_are_found_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads have QK and VO each: two calls a pass, of two matrices each."""
    match, shapes = importlib.import_module("symfast.unit_match"), []
    polar = match.polar

    def count(matrices: Tensor) -> Tensor:
        shapes.append(tuple(matrices.shape))
        return polar(matrices)

    monkeypatch.setattr(match, "polar", count)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    match_models(Attention().double(), Attention().double(), x, kinds=("rotation",), rounds=1)
    assert shapes == [(2, 4, 4)] * 6  # the search runs twice, the second time with a first pass


def test_strangers_come_nearer_and_keep_their_function() -> None:
    anchor, model = mlp(nn.ReLU, torch.float32), mlp(nn.ReLU, torch.float32)
    x, kept = torch.randn(9, 6), copy.deepcopy(model.state_dict())
    found = match_models(model, anchor, x)
    assert found.after < 0.9 * found.before
    torch.testing.assert_close(found.model(x), model(x), atol=1e-5, rtol=1e-4)
    fresh = torch.randn(50, 6)  # not only on the example input
    torch.testing.assert_close(found.model(fresh), model(fresh), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    again = match_models(found.model, anchor, x)
    assert again.after <= found.after * (1 + 1e-6)


def test_kinds_can_be_chosen() -> None:
    anchor, model, x = mlp(nn.ReLU), mlp(nn.ReLU), torch.randn(4, 6, dtype=torch.float64)
    found = match_models(model, anchor, x, kinds=("permutation",))
    assert {kind for _, _, kind, _ in found.moves} <= {"permutation"}
    with pytest.raises(ValueError, match="unknown kinds"):
        match_models(model, anchor, x, kinds=("shuffle",))


def test_refusals() -> None:
    model, x = mlp(nn.ReLU), torch.randn(4, 6, dtype=torch.float64)
    other = nn.Sequential(nn.Linear(6, 12))
    with pytest.raises(ValueError, match="the same parameters"):
        sf.align(model, other, x)
    with pytest.raises(TypeError, match="anchor is a int"):
        sf.align(model, 3, x)  # type: ignore[arg-type]
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan  # type: ignore[index]
    with pytest.raises(ValueError, match="NaN"):
        sf.align(model, broken, x)


def test_barrier() -> None:
    a, b = (nn.Linear(1, 1, bias=False) for _ in range(2))
    with torch.no_grad():
        a.weight.fill_(-1.0)
        b.weight.fill_(1.0)
    height, losses = sf.loss_barrier(a, b, lambda net: (net.weight**2 - 1).square().sum(), 5)
    assert height == pytest.approx(1.0)
    assert losses == pytest.approx([0, 0.5625, 1, 0.5625, 0])
    with pytest.raises(ValueError, match="at least 2"):
        sf.loss_barrier(a, b, lambda net: net.weight.sum(), 1)


def test_a_refused_head_does_not_speak_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads of a layer share their place in words."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = torch.nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.attention(x, x, x, need_weights=False)[0])

    monkeypatch.setattr(importlib.import_module("symfast.align"), "EXACT", -1.0)
    x = torch.randn(3, 4, 8)
    found = match_models(Block(), Block(), x, kinds=("rotation",))
    assert found.moves == ()
    assert found.after == found.before
    places = {where for where, _ in found.rejected if "attention -> attention [" in where}
    assert len(places) == 2
    assert len(found.rejected) == len(set(found.rejected))
