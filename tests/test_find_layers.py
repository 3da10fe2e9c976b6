# SPDX-License-Identifier: Apache-2.0
"""Every layer that the documentation lists, with exactly the symmetries that it has."""

from typing import Any

import pytest
import torch
from torch import nn
from traced_layers import (
    Bag,
    Cell,
    Chain,
    Cross,
    Normed,
    Pair,
    SharedKeys,
    Stream,
    Tied,
    encoder,
)

import symfast as sf
from symfast.find.graph import make_exact
from symfast.find.proof import TOLERANCE, Proof, relative_change

ALL = ("permutation", "sign_flip", "rescale", "rotation", "scale")
FREE = ("permutation", "rescale")

torch.manual_seed(0)  # the models below are made at import

# model, input, groups wanted as (where, m, kinds), once each or counted
CASES: dict[str, tuple[nn.Module, Any, list[tuple[str, int, tuple[str, ...]]]]] = {
    "convolution in three dims": (
        Chain(nn.Conv3d(2, 6, 2), nn.Conv3d(6, 4, 2), nn.Conv3d(4, 2, 1)),
        torch.randn(2, 2, 4, 4, 4),
        [("first -> relu -> middle", 6, FREE), ("middle -> relu -> last", 4, FREE)],
    ),
    "grouped": (
        Chain(nn.Conv2d(2, 6, 2), nn.Conv2d(6, 8, 2, groups=2), nn.Conv2d(8, 2, 1)),
        torch.randn(2, 2, 5, 5),
        [("first -> relu -> middle", 3, FREE)] * 2 + [("middle -> relu -> last", 4, FREE)] * 2,
    ),
    "transposed": (
        Chain(nn.Conv1d(2, 6, 2), nn.ConvTranspose1d(6, 4, 2), nn.Conv1d(4, 2, 1)),
        torch.randn(2, 2, 5),
        [("first -> relu -> middle", 6, FREE), ("middle -> relu -> last", 4, FREE)],
    ),
    "transposed in three dims": (
        Chain(nn.Conv3d(2, 6, 2), nn.ConvTranspose3d(6, 4, 2), nn.Conv3d(4, 2, 1)),
        torch.randn(2, 2, 4, 4, 4),
        [("first -> relu -> middle", 6, FREE), ("middle -> relu -> last", 4, FREE)],
    ),
    "transposed and grouped": (
        Chain(nn.Conv2d(2, 6, 2), nn.ConvTranspose2d(6, 8, 2, groups=2), nn.Conv2d(8, 2, 1)),
        torch.randn(2, 2, 5, 5),
        [("first -> relu -> middle", 3, FREE)] * 2 + [("middle -> relu -> last", 4, FREE)] * 2,
    ),
    "depthwise with a multiplier": (
        Chain(nn.Conv1d(2, 4, 2), nn.Conv1d(4, 8, 2, groups=4), nn.Conv1d(8, 2, 1)),
        torch.randn(2, 2, 6),
        [("first -> relu -> middle", 1, ("rescale",))] * 4
        + [("middle -> relu -> last", 2, FREE)] * 4,
    ),
    "group norm": (
        Normed(nn.GroupNorm(4, 8)),
        torch.randn(2, 3, 7, 7),
        [("first -> relu -> last", 2, ("permutation",))] * 4
        + [("norm -> relu -> last", 8, ("rescale",))],
    ),
    "instance norm": (
        Normed(nn.InstanceNorm2d(8, affine=True)),
        torch.randn(2, 3, 7, 7),
        [
            ("first -> norm", 8, ("sign_flip",)),
            ("first -> relu -> last", 8, ("permutation",)),
            ("norm -> relu -> last", 8, ("rescale",)),
        ],
    ),
    "cross attention": (
        Cross(),
        (torch.randn(2, 3, 8), torch.randn(2, 5, 6), torch.randn(2, 5, 5)),
        [("attention -> attention", 4, ALL), ("attention -> attention.out_proj", 4, ALL)] * 2
        + [
            ("attention -> heads -> attention.out_proj", 2, ("permutation",)),
            ("attention.out_proj -> last", 8, ALL),
        ],
    ),
    "grouped queries": (
        SharedKeys(),
        torch.randn(2, 5, 6),
        [("q -> k", 4, ALL), ("v -> o", 4, ALL)] * 2
        + [("v + q + k -> heads -> o", 2, ("permutation",))],
    ),
    "lstm cell": (
        Cell(nn.LSTMCell(5, 4)),
        torch.randn(3, 2, 3),
        [
            ("first -> relu -> cell", 5, FREE),
            ("cell -> lstm -> cell + last", 4, ("permutation",)),
            ("cell -> cell + last", 4, ("sign_flip",)),
        ],
    ),
    "gru cell": (
        Cell(nn.GRUCell(5, 4)),
        torch.randn(3, 2, 3),
        [
            ("first -> relu -> cell", 5, FREE),
            ("cell -> gru -> cell + last", 4, ("permutation",)),
            ("cell -> cell + last", 4, ("sign_flip",)),
        ],
    ),
    "tied embedding": (
        Tied(),
        torch.randint(7, (2, 4)),
        [
            ("embed + up + down", 6, ("permutation", "sign_flip", "rotation")),
            ("up -> relu -> down", 9, FREE),
        ],
    ),
    "bilinear": (
        Pair(),
        torch.randn(4, 3),
        [
            ("a -> relu -> both", 4, FREE),
            ("b -> both", 5, ALL),
            ("both -> relu -> last", 6, FREE),
        ],
    ),
    "layer norm": (
        Stream(),
        torch.randn(4, 3),
        [
            ("first + down -> last + up", 6, ("permutation",)),
            ("norm -> last + up", 6, ("sign_flip", "rescale")),
            ("up -> silu -> down", 8, ("permutation",)),
        ],
    ),
    "encoder layer": (
        encoder(),
        torch.randn(2, 3, 8),
        [("self_attn -> self_attn", 4, ALL), ("self_attn -> self_attn.out_proj", 4, ALL)] * 2
        + [
            ("self_attn -> heads -> self_attn.out_proj", 2, ("permutation",)),
            ("linear1 -> relu -> linear2", 12, FREE),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_exactly_what_a_layer_has_is_found_and_holds_on_other_inputs(name: str) -> None:
    model, example, wanted = CASES[name]
    groups = sf.find_symmetries(model, example)
    assert sorted((group.where, group.m, group.kinds) for group in groups) == sorted(wanted)
    assert not any(group.unproved for group in groups)
    assert groups.notes == []
    torch.manual_seed(3)
    fresh = torch.utils._pytree.tree_map(
        lambda x: torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 7),
        example,
    )
    proof = Proof(make_exact(model, fresh), seed=7)
    for group in groups:
        for kind in group.kinds:
            assert proof.change([(group.of(proof.exact.model), kind)]) <= TOLERANCE


def test_what_is_not_followed_is_said() -> None:
    groups = sf.find_symmetries(Bag(), torch.randint(7, (2, 4)))
    assert list(groups) == []
    assert groups.notes == [
        "operator embedding_bag in bag is not known: its units stay fixed",
    ]


def test_changes_are_relative_to_the_largest_output() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert relative_change([torch.ones(2)], [nan]) == float("inf")
    assert relative_change([torch.tensor([4.0, 1.0])], [torch.tensor([4.0, 3.0])]) == 0.5
    assert relative_change([torch.zeros(2)], [torch.tensor([0.0, 1e-12])]) == pytest.approx(1e-12)
    assert relative_change([torch.ones(2)], [torch.ones(3)]) == float("inf")


def test_an_output_of_zeros_hides_nothing() -> None:
    class WithZeros(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.b(torch.relu(self.a(x)))
            return y, y - y.detach()

    (group,) = sf.find_symmetries(WithZeros(), torch.randn(4, 3))
    assert group.kinds == FREE
