# SPDX-License-Identifier: Apache-2.0
"""Planted structure: everything planted is found, nothing else; what a report shows."""

import json
from collections import UserDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import symfast as sf
from symfast.diagnosis import diagnose, diagnose_alike
from symfast.symmetry_group import Member, SymmetryGroup

HIDDEN = 64
CONSTANT, DEAD, UNREAD = {3, 9, 40, 63}, {0, 10, 11, 50}, {5, 6, 30, 31}
EQUAL = {20: 1, 33: 1, 45: 44, 62: 2}
SCALED = {21: 4, 34: 7, 46: 8, 61: 12}


def planted(dtype: torch.dtype, activation: nn.Module) -> nn.Sequential:
    """A network with dead, constant, unread, equal and rescaled (or flipped) hidden units."""
    model = nn.Sequential(nn.Linear(20, HIDDEN), activation, nn.Linear(HIDDEN, 5)).to(dtype)
    W, b, V = model[0].weight, model[0].bias, model[2].weight
    factor = -1.0 if isinstance(activation, nn.Tanh) else 2.7
    with torch.no_grad():
        W[sorted(CONSTANT | DEAD)] = 0
        b[sorted(DEAD)] = 0
        V[:, sorted(UNREAD)] = 0
        for unit, first in EQUAL.items():
            W[unit], b[unit] = W[first], b[first]
        for unit, first in SCALED.items():
            W[unit], b[unit] = W[first] * factor, b[first] * factor
    return model


def hand_made(model: nn.Sequential, kinds: tuple[str, ...], activation: str) -> SymmetryGroup:
    members = (
        Member(model[0].weight, 0, "0.weight", "in"),
        Member(model[0].bias, 0, "0.bias", "bias"),
        Member(model[2].weight, 1, "2.weight", "out"),
    )
    return SymmetryGroup(members, kinds, where="hidden", activation=activation)


@pytest.mark.parametrize("middle", [nn.ReLU(), nn.Tanh()])
def test_everything_planted_is_found_and_nothing_else(
    dtype: torch.dtype, middle: nn.Module
) -> None:
    relu = isinstance(middle, nn.ReLU)
    kinds = ("permutation", "rescale" if relu else "sign_flip")
    model = planted(dtype, middle)
    found = diagnose(hand_made(model, kinds, "relu" if relu else "tanh"))
    assert set(found.units["dead"]) == DEAD
    assert set(found.units["constant"]) == CONSTANT
    assert set(found.units["unread"]) == UNREAD
    assert set(found.units["duplicates"]) == set(EQUAL)
    up_to = "up_to_scale" if relu else "up_to_sign"
    assert set(found.units[up_to]) == set(EQUAL) | set(SCALED)
    assert ("up_to_sign" if relu else "up_to_scale") not in found.row  # no symmetry of this one
    assert found.row["distinct"] == HIDDEN - 4 * 4


def test_a_network_without_structure_is_clean() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30)).double()
        found = diagnose(hand_made(model, ("permutation", "rescale"), "relu"))
        assert not any(found.units.values())
        assert found.row["rank"] == 40
        assert found.row["distinct"] == 40


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_planted_rank(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    model = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
    with torch.no_grad():
        left, right = torch.randn(shape[0], 7).double(), torch.randn(7, shape[1]).double()
        model.weight.copy_(left @ right)
    row = sf.inspect(model).diagnoses[0].row
    assert row["rank"] == 7
    assert 1 < row["stable_rank"] <= row["effective_rank"] <= 7 + 1e-3


def test_found_groups_charges_and_activity() -> None:
    """A live model with an example: proved groups, dormant units, head ranks, charges."""
    model = planted(torch.float64, nn.ReLU())
    with torch.no_grad():
        model[0].bias[25] = -1e3  # writes, but never fires
    report = sf.inspect(model, torch.randn(200, 20, dtype=torch.float64))
    (row,) = (d.row for d in report.diagnoses if d.row["m"] == HIDDEN)
    units = next(d.units for d in report.diagnoses if d.row["m"] == HIDDEN)
    assert set(units["duplicates"]) == set(EQUAL)
    assert {25} | DEAD <= set(units["dormant"])
    assert set(units["still"]) >= {25} | DEAD | CONSTANT
    assert 0 < row["imbalance"] <= 1
    assert row["sign_locked"] is None if "sign_locked" in row else True


def test_head_ranks_of_a_live_attention() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return out

    model = Block().double()
    W = model.attention.in_proj_weight
    with torch.no_grad():
        W[0:8] = torch.randn(8, 3).double() @ torch.randn(3, 16).double()  # query of head 0
    report = sf.inspect(model, torch.randn(2, 5, 16, dtype=torch.float64))
    ranks = {d.name: d.row["product_rank"] for d in report.diagnoses if d.product is not None}
    assert sorted(ranks.values()) == [3, 8, 8, 8]
    query, key = W.detach()[:8], W.detach()[16:24]
    (low,) = (d for d in report.diagnoses if d.row.get("product_rank") == 3)
    wanted = torch.linalg.svdvals(query.T @ key)[:8]
    assert low.product is not None
    torch.testing.assert_close(low.product[:3], wanted[:3], rtol=1e-9, atol=0)


def test_mirror_distances_equal_plans_norms() -> None:
    U = torch.randn(6, 9, dtype=torch.float64)
    row = diagnose(SymmetryGroup((Member(U, 0, "w", "in"),), (), where="w")).row
    scale = float(U.norm() / 6**0.5)
    flips = min(float(sf.Plan([(U, sf.SignFlip([j]))]).norms()) for j in range(6))
    swaps = min(
        float(sf.Plan([(U, sf.Swap([a], [b]))]).norms()) for a in range(6) for b in range(a)
    )
    v = torch.linalg.svd(U).U[:, -1:]
    direction = float(sf.Plan([(sf.Units([(U, 0)]), sf.Direction(v))]).norms())
    assert row["to_sign_flip"] == pytest.approx(flips / scale)
    assert row["to_swap"] == pytest.approx(swaps / scale)
    assert row["to_direction"] == pytest.approx(direction / scale)


@pytest.mark.parametrize(("m", "n"), [(300, 4), (4, 300)])
def test_tall_and_wide_groups_find_their_nearest_pair(m: int, n: int) -> None:
    U = torch.randn(m, n, dtype=torch.float64)
    found = diagnose(SymmetryGroup((Member(U, 0, "w", "in"),), (), where="w"))
    nearest = float(torch.pdist(U).min()) / 2**0.5 / float(U.norm() / m**0.5)
    assert found.row["to_swap"] == pytest.approx(nearest)
    assert found.distances is not None
    assert found.distances.shape == (min(m, 64), min(m, 64))
    without = diagnose(SymmetryGroup((Member(U, 0, "w", "in"),), ()), pairs_up_to=m - 1)
    assert without.row["to_swap"] is None


@pytest.mark.parametrize("m", [60, 64, 65, 100, 192, 500])
@pytest.mark.parametrize("wide", [True, False])
def test_map_of_distances_is_the_smallest_of_each_tile(m: int, wide: bool) -> None:
    """Tiles a with ``a * 64 // m`` equal; the nearest pair is found among equals to rounding."""
    U = torch.randn(m, m + 9 if wide else m // 2, dtype=torch.float64)
    U[m // 3] = U[m // 2] + 1e-9
    found = diagnose(SymmetryGroup((Member(U, 0, "w", "in"),), (), where="w"))
    assert found.distances is not None
    exact = torch.cdist(U, U, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    size = min(m, 64)
    tile = torch.arange(m) * size // m
    scale = float(U.norm() / m**0.5)
    wanted = torch.full((size, size), torch.inf, dtype=torch.float64)
    for a in range(size):
        rows = exact[tile == a].amin(0)
        wanted[a] = torch.stack([rows[tile == b].amin() for b in range(size)])
    wanted = torch.where(wanted.isinf(), 0, wanted) / scale
    torch.testing.assert_close(found.distances, wanted.float(), rtol=1e-5, atol=1e-6)
    nearest = float(exact.min()) / 2**0.5 / scale
    assert found.row["to_swap"] == pytest.approx(nearest, rel=1e-6)


def test_groups_measured_together_are_the_groups_alone() -> None:
    """Also with dead, equal, rank-deficient and broken ones among them."""
    heads = torch.randn(7, 2, 8, 20)
    heads[1, 0, 3] = 0
    heads[2, :, 5] = heads[2, :, 1]
    heads[3, 0, 4:] = torch.randn(4, 4) @ heads[3, 0, :4]
    heads[4, 1, 2, 2] = torch.nan
    heads[5] = 0
    groups = [
        SymmetryGroup(
            (Member(q, 0, "q", "in"), Member(k, 0, "k", "out")),
            ("rescale", "rotation"),
            where=f"head {number}",
        )
        for number, (q, k) in enumerate(heads)
    ]
    together = diagnose_alike(groups)
    for found, group in zip(together, groups, strict=True):
        alone = diagnose(group)
        assert found.name == group.where
        assert found.units == alone.units
        for name, value in alone.row.items():
            same = isinstance(value, float)
            assert found.row[name] == (pytest.approx(value, rel=1e-9) if same else value), name
    assert [d.row["status"] for d in together].count("ok") == 6


def test_what_is_found_does_not_depend_on_the_number_of_threads() -> None:
    model = nn.Sequential(*(nn.Linear(n, m) for m, n in [(300, 200), (200, 300), (64, 64)] * 3))
    before = torch.get_num_threads()
    texts = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            facts = json.loads(sf.inspect(model).to_json())
            texts.append(facts["groups"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert texts[0] == texts[1] == texts[2]


def test_nan_is_reported_and_the_rest_measured() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[1, 1] = float("inf")
    report = sf.inspect(model)
    assert [d.row["status"] for d in report.diagnoses] == ["holds NaN or infinity", "ok"]
    assert "1 group with NaN or infinity" in report.summary()
    assert json.loads(report.to_json())["groups"][0]["rank"] is None


def test_report_in_every_form(tmp_path: Path) -> None:
    report = sf.inspect(planted(torch.float32, nn.ReLU()))
    assert report.table.shape[0] == 2
    assert report.table.loc[0, "duplicates"] == len(EQUAL)
    assert "0.weight" in str(report)
    assert "4 duplicate" in report.summary()
    stored = json.loads(report.to_json(tmp_path / "report.json"))
    assert stored["groups"][0]["units"]["duplicates"] == sorted(EQUAL)
    assert json.loads((tmp_path / "report.json").read_text()) == stored
    page = report.to_html(tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    assert "Duplicate units" in page


def test_nothing_is_changed_and_modes_and_hooks_are_put_back() -> None:
    model = planted(torch.float64, nn.ReLU()).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    sf.inspect(model, torch.randn(4, 20, dtype=torch.float64))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [module.training for module in model] == [True, False, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert state is not None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sf.inspect(3), "give a torch.nn.Module or a path"),
        (lambda: sf.inspect("x", torch.ones(1)), "no forward pass"),
        (lambda: sf.inspect(nn.Linear(2, 2), tol=2.0), "tol is"),
        (lambda: sf.inspect("missing.safetensors"), "is no file"),
        (lambda: sf.inspect("missing.safetensors", heads=0), "heads is"),
    ],
)
def test_bad_arguments_are_refused(call: object, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=sentence):
        call()  # type: ignore[operator]


def test_inputs_may_be_any_mapping() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = planted(torch.float64, nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layers(x)
            return out

    inputs = UserDict({"x": torch.randn(9, 20, dtype=torch.float64)})
    report = sf.inspect(Named(), inputs)
    assert any(d.row.get("dormant") is not None for d in report.diagnoses)
