# SPDX-License-Identifier: Apache-2.0
"""A plan as a value: copies, saves, follows its parameters, and refuses in words."""

import copy
import io
import json
import pickle

import pytest
import torch
from plan_problems import LAYOUTS, symmetries, unit_matrix

import symfast as sf


def small() -> tuple[torch.nn.Linear, sf.Plan]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 4)
    return layer, sf.Plan([(sf.Units([(layer.weight, 0), (layer.bias, 0)]), sf.Swap([0], [2]))])


def test_deepcopy_follows_the_copied_model() -> None:
    layer, plan = small()
    twin_layer, twin = copy.deepcopy((layer, plan))
    twin.project_()
    assert torch.equal(twin_layer.weight[0], twin_layer.weight[2])
    assert not torch.equal(layer.weight[0], layer.weight[2])


def test_pickle_round_trip() -> None:
    layer, plan = small()
    plan2 = pickle.loads(pickle.dumps(plan))
    torch.testing.assert_close(plan2.norms(), plan.norms(), rtol=0, atol=0)
    buffer = io.BytesIO()
    torch.save(plan.state_dict(), buffer)
    buffer.seek(0)
    plan.load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("which", range(9))
def test_state_dict_survives_json(which: int) -> None:
    w = torch.randn(8, 3, dtype=torch.float64)
    plan = (
        sf.Plan([(w, symmetries(8, 1)[which])])
        if which != 7
        else sf.Plan([(sf.Units([(w, 0)]), symmetries(8, 1)[which])])
    )
    norms = plan.norms()
    plan.load_state_dict(json.loads(json.dumps(plan.state_dict())))
    assert torch.equal(plan.norms(), norms)


def test_state_dict_for_other_parameters_is_refused() -> None:
    _, plan = small()
    other = sf.Plan([(torch.randn(4), sf.SignFlip())])
    with pytest.raises(ValueError, match="saved plan is for parameters"):
        other.load_state_dict(plan.state_dict())
    assert other.groups == 1


def test_plan_follows_swapped_data() -> None:
    layer, plan = small()
    layer.load_state_dict({k: torch.randn_like(v) for k, v in layer.state_dict().items()})
    plan.project_()
    assert torch.equal(layer.weight[0], layer.weight[2])
    layer.weight.data = torch.randn(4, 3)
    plan.project_()
    assert torch.equal(layer.weight[0], layer.weight[2])


def test_views_of_one_flat_parameter_cost_one_tensor() -> None:
    flat = torch.randn(100)
    entries = [(flat[i * 10 : i * 10 + 10], sf.SignFlip([i])) for i in range(10)]
    plan = sf.Plan(entries)
    assert "1 tensors" in repr(plan)
    plan.project_()
    assert flat.view(10, 10).diagonal().abs().max() == 0


def test_changed_parameters_are_refused_and_nothing_is_written() -> None:
    a, b = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(3).double())
    plan = sf.Plan([(a, sf.SignFlip()), (b, sf.SignFlip())])
    b.data = torch.ones(5, dtype=torch.float64)
    for call in (plan.project_, plan.reflect_, lambda: plan.shrink_(0.5), lambda: plan.prox_(0.5)):
        with pytest.raises(RuntimeError, match="make a new plan"):
            call()
        assert a.tolist() == [1.0] * 4
    with pytest.raises(RuntimeError, match="make a new plan"):
        plan.norms()
    b.data = torch.ones(3)
    with pytest.raises(RuntimeError, match="dtype|make a new plan"):
        plan.project_()


def test_nan_propagates_where_it_belongs() -> None:
    for which in range(8):
        w = torch.ones(6, 4, dtype=torch.float64)
        w[0, 1] = torch.nan
        symmetry = sf.SignFlip([0, 2]) if which == 0 else symmetries(6, 2)[which]
        plan = sf.Plan([(sf.Units([(w, 0)]), symmetry)])
        plan.project_()
        assert bool(w[:, [0, 2, 3]].isfinite().all())
        assert bool(w[:, 1].isnan().any())


def test_version_counter_guards_autograd() -> None:
    layer, plan = small()
    x = torch.randn(2, 3, requires_grad=True)
    loss = layer(x).square().sum()
    plan.project_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_verbs_compile_in_one_graph() -> None:
    layer, plan = small()

    def step(x: torch.Tensor) -> torch.Tensor:
        plan.shrink_(0.5)
        plan.project_()
        assert not plan.norms().requires_grad
        return layer(x).sum() + plan.norms().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    before = layer.weight.detach().clone()
    compiled(torch.ones(2, 3)).backward()
    assert torch.equal(layer.weight[0], layer.weight[2])
    torch.testing.assert_close(layer.weight[0], (before[0] + before[2]) / 2)
    assert layer.weight.grad is not None


def test_overlap_is_refused_or_ordered() -> None:
    torch.manual_seed(0)
    w = torch.randn(6, 6, dtype=torch.float64)
    entries = [(sf.Units([(w, 0)]), sf.Swap([0], [1])), (sf.Units([(w, 1)]), sf.SignFlip([3]))]
    with pytest.raises(ValueError, match="touch the same elements"):
        sf.Plan(entries)
    before = w.clone()
    plan = sf.Plan(entries, overlap="order")
    plan.project_()
    before[:2] = before[:2].mean(0)
    before[:, 3] = 0
    torch.testing.assert_close(w, before)
    sf.Plan([(w, sf.Swap([0], [1])), (w, sf.Swap([2], [3]))])  # disjoint units of one tensor
    with pytest.raises(ValueError, match="share memory"):
        sf.Plan([(sf.Units([(w, 0), (w, 1)]), sf.SignFlip())])
    with pytest.raises(ValueError, match="touch the same"):
        sf.Plan([(w[:4], sf.SignFlip()), (w[3:], sf.SignFlip())])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sf.Plan([(torch.ones(3, dtype=torch.int64), sf.SignFlip())]), "float64, float32"),
        (lambda: sf.Plan([(torch.ones(3, dtype=torch.complex64), sf.SignFlip())]), "float64"),
        (lambda: sf.Plan([(torch.ones(1).expand(3), sf.SignFlip())]), "more than once"),
        (lambda: sf.Plan([(torch.ones(3), sf.SignFlip([3]))]), "units 0 to 2"),
        (lambda: sf.Plan([(torch.ones(3), sf.Swap([0], [-1]))]), "unit -1"),
        (lambda: sf.Swap([0, 1], [1, 2]), "more than once"),
        (lambda: sf.Swap([0], [1, 2]), "as many"),
        (lambda: sf.SignFlip([0.5]), "whole numbers"),
        (lambda: sf.Plan([(torch.ones(3), sf.Cluster([0, 0]))]), "2 labels for 3 units"),
        (lambda: sf.Direction(torch.ones(3, 1)), "orthonormalize=True"),
        (lambda: sf.Direction(torch.full((3, 1), torch.nan)), "NaN"),
        (lambda: sf.Mirror(torch.ones(2, 3)), "cannot be orthonormal"),
        (lambda: sf.Plan([(torch.ones(5), sf.Mirror(torch.eye(3)))]), "does not fit"),
        (lambda: sf.Plan([(torch.tensor(1.0), sf.SignFlip())]), "single number"),
        (lambda: sf.Plan([torch.ones(3)]), "pair"),
        (lambda: sf.Plan([(torch.ones(3), "swap")]), "must be SignFlip"),
        (lambda: sf.Units([]), "at least one"),
        (lambda: sf.Units([(torch.ones(3), 1)]), "no dim 1"),
        (lambda: sf.Units([(torch.ones(3), 0), (torch.ones(4), 0)]), "same number of units"),
        (lambda: sf.Plan([(torch.ones(3), sf.SignFlip())]).shrink_(torch.ones(2)), "shape"),
        (lambda: sf.Plan([(torch.ones(3), sf.SignFlip())]).prox_(-1.0), "negative"),
        (lambda: sf.Plan([(torch.ones(3), sf.SignFlip())]).prox_(1.0, mode="l2"), "mode"),
        (lambda: sf.Plan([(torch.ones(3), sf.SignFlip())], overlap="race"), "overlap"),
    ],
)
def test_bad_input_is_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_nan_frame_is_refused_when_the_plan_is_made() -> None:
    frame = torch.full((4, 2), torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        sf.Plan([(torch.ones(4), sf.Mirror(frame, check=False))])


def test_empty_things_work() -> None:
    for target in (torch.ones(0), torch.ones(0, 3), torch.ones(4, 0)):
        plan = sf.Plan([(target, sf.SignFlip())])
        plan.project_()
        plan.prox_(0.1, mode="group")
        assert plan.norms().tolist() == [0.0]
        assert plan.coefficients()[0].numel() == 0
    plan = sf.Plan([])
    plan.reflect_()
    assert plan.norms().shape == (0,)
    assert plan.coefficients() == []
    batch = sf.Plan([(torch.ones(0, 3), sf.Mirror(torch.ones(0, 3, 1)))])
    batch.project_()
    assert batch.groups == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_threads(layout: str) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    tensor, dim = LAYOUTS[layout](600, torch.float32)
    big = torch.cat([tensor] * 40, dim=1) if tensor.ndim == 2 and dim == 0 else tensor
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for which in range(8):
                copied = big.clone(memory_format=torch.preserve_format)
                plan = sf.Plan([(sf.Units([(copied, dim)]), symmetries(600, 0)[which])])
                norms = plan.norms(per="mirror")
                plan.shrink_(0.3)
                results.append((count, which, norms, unit_matrix(sf.Units([(copied, dim)]))))
    finally:
        torch.set_num_threads(threads)
    for count, which, norms, units in results:
        _, _, first_norms, first_units = results[which]
        assert torch.equal(norms, first_norms), (count, which)
        assert torch.equal(units, first_units), (count, which)
