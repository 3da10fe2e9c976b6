# SPDX-License-Identifier: Apache-2.0
"""find_symmetries finds what is there, proves it, and leaves the model alone."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from traced_models import (
    Depthwise,
    Gated,
    GroupedQuery,
    HandNorm,
    Joined,
    Recurrent,
    Residual,
    Rotary,
    Shared,
    Transformer,
    Unknown,
    Vision,
)

import symfast as sf
from symfast.find.graph import TraceError, make_exact
from symfast.find.proof import TOLERANCE, Proof

ALL = ("permutation", "sign_flip", "rescale", "rotation", "scale")


def mlp(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2))


def tokens() -> torch.Tensor:
    return torch.randint(11, (2, 5))


torch.manual_seed(0)  # the models below are made at import

# model, input, groups wanted as (where, m, kinds)
CASES = {
    "relu": (
        mlp(nn.ReLU()),
        torch.randn(4, 3),
        {("0 -> relu -> 2", 5, ("permutation", "rescale"))},
    ),
    "tanh": (
        mlp(nn.Tanh()),
        torch.randn(4, 3),
        {("0 -> tanh -> 2", 5, ("permutation", "sign_flip"))},
    ),
    "gelu": (mlp(nn.GELU()), torch.randn(4, 3), {("0 -> gelu -> 2", 5, ("permutation",))}),
    "identity": (mlp(nn.Identity()), torch.randn(4, 3), {("0 -> 2", 5, ALL)}),
    "transformer": (
        Transformer(),
        tokens(),
        {("up -> gelu -> down", 24, ("permutation",)), ("attention -> attention", 4, ALL)}
        | {("attention -> attention.out_proj", 4, ALL)}
        | {("attention -> heads -> attention.out_proj", 4, ("permutation",))}
        | {
            ("embed + attention.out_proj + down -> attention + up", 16, ("permutation",)),
            ("norm -> attention", 16, ("sign_flip", "rescale")),
        },
    ),
    "grouped query": (
        GroupedQuery(),
        torch.randn(2, 5, 6),
        {("q -> k", 4, ALL), ("v -> o", 4, ALL), ("v + q + k -> heads -> o", 2, ("permutation",))},
    ),
    "gated": (
        Gated(),
        torch.randn(3, 6),
        {
            ("first + down -> up + gate + last", 8, ("permutation",)),
            ("first + down -> up + gate + last", 8, ("rotation",)),
            ("first + down -> norm", 8, ("sign_flip",)),
            ("norm -> up + gate + last", 8, ("sign_flip", "rescale")),
            ("up -> down", 12, ("sign_flip", "rescale")),
            ("up + gate -> silu -> down", 12, ("permutation",)),
        },
    ),
    "norm by hand": (
        HandNorm(),
        torch.randn(3, 6),
        {("first + inner -> inner + last", 8, ("permutation", "sign_flip", "rotation"))},
    ),
    "residual": (
        Residual(),
        torch.randn(2, 3, 8, 8),
        {
            ("stem + stem_norm -> stem_norm", 8, ("sign_flip", "rescale")),
            ("conv + norm -> norm", 8, ("sign_flip", "rescale")),
            ("stem + conv -> relu -> conv + head", 8, ("permutation",)),
            ("stem_norm + norm -> relu -> conv + head", 8, ("rescale",)),
        },
    ),
    "depthwise": (
        Depthwise(),
        torch.randn(2, 2, 9),
        {
            ("a -> d", 8, ("sign_flip", "rescale")),
            ("a -> leaky_relu -> g", 4, ("permutation",)),
            ("d -> leaky_relu -> g", 4, ("rescale",)),
            ("g -> relu -> t", 3, ("permutation", "rescale")),
            ("t -> tanh -> o", 4, ("permutation", "sign_flip")),
        },
    ),
    "joined": (
        Joined(),
        torch.randn(2, 3),
        {
            ("a -> relu -> c", 5, ("permutation", "rescale")),
            ("b -> tanh -> c", 4, ("permutation", "sign_flip")),
        },
    ),
    "lstm": (
        Recurrent(nn.LSTM),
        torch.randn(5, 2, 3),
        {
            ("rnn -> lstm -> rnn + out", 4, ("permutation",)),
            ("rnn -> rnn + out", 4, ("sign_flip",)),
        },
    ),
    "gru": (
        Recurrent(nn.GRU, layers=2, both=True),
        torch.randn(5, 2, 3),
        {("rnn -> gru -> rnn + out", 4, ("permutation",)), ("rnn -> rnn + out", 4, ("sign_flip",))}
        | {("rnn -> gru -> rnn", 4, ("permutation",)), ("rnn -> rnn", 4, ("sign_flip",))},
    ),
    "rnn": (
        Recurrent(nn.RNN),
        torch.randn(5, 2, 3),
        {("rnn -> rnn_tanh -> rnn + out", 4, ("permutation", "sign_flip"))},
    ),
    "rotary": (
        Rotary(),
        torch.randn(2, 5, 16),
        {
            ("q -> k", 2, ("sign_flip", "rescale")),  # a factor per pair that turns together
            ("v -> o", 4, ALL),
            ("v + q + k -> heads -> o", 4, ("permutation",)),
        },
    ),
    "vision": (
        Vision(),
        torch.randn(2, 3, 8, 8),
        {
            ("token + patch + back -> mix + head", 8, ALL),
            ("mix -> back", 6, ("sign_flip", "rescale")),
            ("mix -> sigmoid -> back", 6, ("permutation",)),
        },
    ),
    "shared": (
        Shared(),
        torch.randn(2, 3),
        {("first + twice -> tanh -> twice + last", 6, ("permutation", "sign_flip"))},
    ),
}


@cache
def found(name: str) -> sf.SymmetryGroups:
    """Trace each model once; nothing below changes its groups."""
    model, example, _ = CASES[name]
    return sf.find_symmetries(model, example)


@pytest.mark.parametrize("name", CASES)
def test_everything_wanted_is_found_and_nothing_else(name: str) -> None:
    groups, wanted = found(name), CASES[name][2]
    assert {(group.where, group.m, group.kinds) for group in groups} == wanted
    assert not any(group.unproved for group in groups)
    assert groups.notes == []


@pytest.mark.parametrize("name", CASES)
def test_symmetries_hold_on_inputs_that_were_not_shown(name: str) -> None:
    model, example, _ = CASES[name]
    groups = found(name)
    torch.manual_seed(5)
    fresh = torch.randn_like(example) if example.is_floating_point() else tokens()
    proof = Proof(make_exact(model, fresh), seed=7)
    for group in groups:
        for kind in group.kinds:
            assert proof.change([(group.of(proof.exact.model), kind)]) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_a_part_of_a_symmetry_is_none(name: str) -> None:
    """The proof can fail: moving all members but one changes the outputs."""
    model, example, _ = CASES[name]
    proof = Proof(make_exact(model, example), seed=3)
    for group in found(name):
        bound = group.of(proof.exact.model)
        largest = max(bound.members, key=lambda member: member.tensor.numel())
        rest = tuple(member for member in bound.members if member is not largest)
        broken = sf.SymmetryGroup(rest, group.kinds)
        for kind in group.kinds:
            changes = [proof.change([(broken, kind)]) for _ in range(8)]  # one may be 1
            assert max(changes) > 1e-6, (group, kind)


def test_the_model_is_left_alone() -> None:
    model = Residual().train()
    before = copy.deepcopy(model.state_dict())
    dtype = torch.get_default_dtype()
    sf.find_symmetries(model, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert torch.get_default_dtype() == dtype
    assert torch.backends.mha.get_fastpath_enabled()


def test_members_are_the_models_own_tensors() -> None:
    model = Transformer()
    owned = {id(parameter) for parameter in model.parameters()}
    for group in sf.find_symmetries(model, tokens()):
        for member in group.members:
            base = member.tensor._base
            assert id(member.tensor if base is None else base) in owned


def test_unequal_gains_leave_no_rotation_and_say_so() -> None:
    model = Gated()
    nn.init.normal_(model.norm.weight)
    groups = sf.find_symmetries(model, torch.randn(3, 6))
    assert not any("rotation" in group.kinds for group in groups)
    assert any("unequal gains" in note for note in groups.notes)


def test_unknown_operator_splits_in_words() -> None:
    groups = sf.find_symmetries(Unknown(), torch.randn(2, 3))
    assert list(groups) == []
    assert groups.notes == ["operator sort in the model itself is not known: its units stay fixed"]


def test_what_cannot_be_proved_is_not_listed_as_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symfast.find.proof.TOLERANCE", -1.0)
    (group,) = sf.find_symmetries(mlp(nn.ReLU()), torch.randn(4, 3))
    assert group.kinds == ()
    assert group.unproved == ("permutation", "rescale")


def test_a_wrong_rule_is_caught_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """If gelu were taken for relu, rescaling would be suggested, tried and refused."""
    from symfast.find.tracer import RULES

    monkeypatch.setitem(RULES, "gelu", RULES["relu"])
    (group,) = sf.find_symmetries(mlp(nn.GELU()), torch.randn(4, 3))
    assert group.kinds == ("permutation",)
    assert group.unproved == ("rescale",)
    assert dict(group.errors)["rescale"] > 1e-3


def test_random_outputs_prove_nothing() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp(nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x) + torch.randn(4, 2)

    groups = sf.find_symmetries(Noisy(), torch.randn(4, 3))
    assert all(group.kinds == () for group in groups)
    assert any("differ when the model runs twice" in note for note in groups.notes)


def test_bad_models_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match="give a torch.nn.Module"):
        sf.find_symmetries(torch.zeros(3), torch.zeros(3))  # type: ignore[arg-type]

    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax(-1)

    with pytest.raises(TraceError, match="returns no floating-point tensor"):
        sf.find_symmetries(Choosing(), torch.ones(3))

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(TraceError, match="torch.export cannot trace this Branching"):
        sf.find_symmetries(Branching(), torch.ones(3))


def test_nothing_is_proved_on_nan() -> None:
    model = mlp(nn.ReLU())
    nn.init.constant_(model.get_parameter("0.weight"), float("nan"))
    groups = sf.find_symmetries(model, torch.randn(4, 3))
    assert all(group.kinds == () for group in groups)
    assert any("NaN" in note for note in groups.notes)
