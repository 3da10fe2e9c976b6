# SPDX-License-Identifier: Apache-2.0
"""Laws of the group data class: elements act as written, views reach the model, copies rebind."""

import copy

import pytest
import torch
from torch import nn

import symfast as sf
from symfast.symmetry_group import AxisSlice, Member, SymmetryGroup, SymmetryGroupError


def linear_pair() -> tuple[nn.Sequential, SymmetryGroup]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
    members = tuple(
        Member(model.get_parameter(name), dim, name, role, AxisSlice(name, dim, 0, 1, 5))
        for name, dim, role in [
            ("0.weight", 0, "in"),
            ("0.bias", 0, "bias"),
            ("1.weight", 1, "out"),
        ]
    )
    return model, SymmetryGroup(members, ("permutation", "rotation"))


def test_units_are_the_unit_matrix() -> None:
    _, group = linear_pair()
    assert (group.m, group.n) == (5, 6)
    assert (group.units.m, group.units.n) == (5, 6)
    assert isinstance(group.units, sf.Units)


@pytest.mark.parametrize("kind", ["permutation", "sign_flip", "rescale", "rotation", "scale"])
def test_linear_pair_has_every_symmetry(kind: str) -> None:
    model, group = linear_pair()
    x = torch.randn(7, 3, dtype=torch.float64)
    before, weight = model(x), model[0].weight.clone()
    group.apply_(kind, torch.Generator().manual_seed(1))
    assert not torch.equal(weight, model[0].weight)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_rescaling_back_is_the_identity() -> None:
    model, group = linear_pair()
    weight = model[1].weight.clone()
    factors = torch.tensor([1.0, 2.0, 4.0, 0.5, -8.0], dtype=torch.float64)
    group.apply_scaling_(factors)
    assert not torch.equal(weight, model[1].weight)
    group.apply_scaling_(1 / factors)
    assert torch.equal(weight, model[1].weight)


def test_norm_members_only_permute() -> None:
    _, group = linear_pair()
    statistics = torch.arange(5, dtype=torch.float64)
    norm = Member(statistics, 0, "running_var", "norm")
    group = SymmetryGroup((*group.members, norm), ())
    group.apply_scaling_(torch.full((5,), 2.0, dtype=torch.float64))
    group.apply_rotation_(torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q)
    assert statistics.tolist() == [0, 1, 2, 3, 4]
    group.apply_permutation_(torch.tensor([4, 3, 2, 1, 0]))
    assert statistics.tolist() == [4, 3, 2, 1, 0]


def test_group_rebinds_to_another_model() -> None:
    model, group = linear_pair()
    other = copy.deepcopy(model)
    before = model[0].weight.clone()
    group.of(other).apply_permutation_(torch.tensor([1, 2, 3, 4, 0]))
    assert torch.equal(model[0].weight, before)
    assert torch.equal(other[0].weight, before.roll(-1, 0))
    with pytest.raises(SymmetryGroupError, match="has no parameter"):
        group.of(nn.Linear(3, 5))
    with pytest.raises(SymmetryGroupError, match="reaches index 4"):
        group.of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    "part",
    [
        AxisSlice("w", 1, 2, 1, 3),
        AxisSlice("w", 1, 0, 4, 3, 4),
        AxisSlice("w", 1, 1, 1, 2, 3, 4),
        AxisSlice("w", 1, 0, 1, 12, within=(0, 1, 3)),
    ],
)
def test_slice_and_its_indices_agree(part: AxisSlice) -> None:
    tensor = torch.arange(60.0).reshape(5, 12)
    view = part.of(tensor)
    rows = tensor if part.within is None else tensor[part.within[1] : part.within[2]]
    wanted = rows[:, part.indices()]  # (rows, units, inner)
    assert torch.equal(view, wanted if part.inner > 1 else wanted.squeeze(-1))
    view.mul_(-1)
    assert bool((tensor < 0).any())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.apply_("rot"), "choose one of permutation"),
        (lambda g: g.apply_permutation_(torch.tensor([0, 0, 1, 2, 3])), "permutation of 5 units"),
        (lambda g: g.apply_scaling_(torch.zeros(5)), "other than 0"),
        (lambda g: g.apply_rotation_(torch.ones(5, 5)), "orthogonal"),
    ],
)
def test_bad_elements_are_refused_and_change_nothing(call, words: str) -> None:  # type: ignore[no-untyped-def]
    model, group = linear_pair()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SymmetryGroupError, match=words):
        call(group)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(SymmetryGroupError, match="role"):
        Member(torch.zeros(2), 0, "x", "inner")
