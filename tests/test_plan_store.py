# SPDX-License-Identifier: Apache-2.0
"""Tables under a key: checked once, owned by the kernels, gone with their plan."""

import copy
import dataclasses
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from plan_problems import LAYOUTS, symmetries
from torch._subclasses import FakeTensorMode

import symfast as sf
from symfast import ops, plan_ops, plan_tables
from symfast.plan_tables import Tables
from symfast.reference import plan as reference
from symfast.tables import Part

PROJECT = 1
apply_ = torch.ops.symfast.plan_apply_.default
norms = torch.ops.symfast.plan_norms.default
coefficients = torch.ops.symfast.plan_coefficients.default


def problem(which: int = 6) -> tuple[torch.Tensor, Part]:
    """A parameter and the part of a plan on it; a dense frame by default."""
    w = torch.randn(12, 5, dtype=torch.float64)
    plan = sf.Plan([(sf.Units([(w, 0)]), symmetries(12, 3)[which])])
    return w, plan._compiled.parts[0]


def kept() -> int:
    """How many plans the kernels keep, or the reference does."""
    gc.collect()
    if ops.has_kernels():
        from symfast import _C

        return _C.plan_count()
    return len(plan_tables.KEPT)


def cloned(tables: Tables) -> Tables:
    """Tables that nobody else holds."""
    return Tables(
        *(getattr(tables, n).clone() for n in ("layout", "tasks", "chunks", "index", "frames")),
        tables.mirrors,
        tables.numel,
        tables.groups,
    )


@pytest.mark.parametrize("which", range(9))
def test_operators_equal_their_references(which: int) -> None:
    w, part = problem(which)
    tables = (part.tensors, part.tables)
    torch.testing.assert_close(norms(part.tensors, part.key), reference.plan_norms(*tables))
    before = torch.rand(part.tables.groups, dtype=torch.float64)
    for how in ((None, 1), (before, 1, True)):
        got = norms(part.tensors, part.key, *how)
        torch.testing.assert_close(got, reference.plan_norms(*tables, *how))
    found = coefficients(part.tensors, part.key)
    torch.testing.assert_close(found, reference.plan_coefficients(*tables))
    torch.testing.assert_close(found, plan_ops._coefficients(part.tensors, part.key))
    torch.testing.assert_close(
        norms(part.tensors, part.key), plan_ops._norms(*tables[:1], part.key)
    )
    other = w.clone()
    amounts = torch.rand(1, dtype=torch.float64)
    apply_(part.tensors, part.key, 2, 0.0, amounts, 1)
    plan_ops._check([other], part.key)
    plan_ops._apply_([other], part.key, 2, 0.0, amounts, 1)
    torch.testing.assert_close(w, other)


@pytest.mark.skipif(not ops.has_kernels(), reason="the reference reads the tables it is given")
@pytest.mark.parametrize("which", [1, 2, 5, 6])
def test_tables_changed_after_the_store_have_no_effect(which: int) -> None:
    _, part = problem(which)
    tables = cloned(part.tables)
    key = plan_ops.store(tables)
    wanted = coefficients(part.tensors, part.key)
    for table in (tables.layout, tables.tasks, tables.chunks, tables.index):
        table.fill_(1 << 40)
        table.resize_(0)
    tables.frames.resize_(0)
    tables.frames.set_(torch.zeros(0, dtype=torch.float64))
    assert torch.equal(coefficients(part.tensors, key), wanted)
    plan_ops.drop(key)


def test_plans_do_not_share() -> None:
    w = torch.ones(4)
    first, second = sf.Plan([(w, sf.SignFlip([0]))]), sf.Plan([(w, sf.SignFlip([1]))])
    keys = [plan._compiled.parts[0].key for plan in (first, second)]
    assert keys[0] != keys[1]
    first.project_()
    assert w.tolist() == [0.0, 1.0, 1.0, 1.0]
    del first
    second.project_()
    assert w.tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies_survive_the_original(twin: Callable[[sf.Plan], sf.Plan]) -> None:
    plan = sf.Plan([(torch.tensor([3.0, 4.0]), sf.SignFlip())])
    other = twin(plan)
    keys = {p._compiled.parts[0].key for p in (plan, other)}
    assert len(keys) == 2
    del plan
    gc.collect()
    assert other.norms().tolist() == [5.0]
    other.project_()
    assert other.norms().tolist() == [0.0]


def test_a_shallow_copy_keeps_the_tables_alive() -> None:
    plan = sf.Plan([(torch.tensor([3.0, 4.0]), sf.SignFlip())])
    other = copy.copy(plan)
    del plan
    gc.collect()
    assert other.norms().tolist() == [5.0]


def test_a_plan_takes_its_tables_with_it() -> None:
    before = kept()
    plans = [sf.Plan([(torch.ones(3), sf.SignFlip())]) for _ in range(5)]
    assert kept() == before + 5
    plans[0].load_state_dict(plans[0].state_dict())
    assert kept() == before + 5
    keys = [plan._compiled.parts[0].key for plan in plans]
    plans.clear()
    assert kept() == before
    assert not set(keys) & set(plan_tables.KEPT)


def test_keys_that_do_not_exist_and_keys_that_do() -> None:
    w, part = problem()
    tables, key = cloned(part.tables), plan_ops.store(part.tables)
    with pytest.raises(RuntimeError, match="already"):
        torch.ops.symfast.plan_store.default(key, *vars(tables).values())
    with pytest.raises(RuntimeError, match="already"):
        plan_ops._store(key, *vars(tables).values())
    plan_ops.drop(key)
    plan_ops.drop(key)
    for missing in (key, 0, -1, (1 << 63) - 1):
        for call in (
            lambda k=missing: apply_([w], k, PROJECT),
            lambda k=missing: norms([w], k),
            lambda k=missing: coefficients([w], k),
            lambda k=missing: torch.ops.symfast.plan_check.default([w], k),
            lambda k=missing: plan_ops._norms([w], k),
        ):
            with pytest.raises(RuntimeError, match="there is no plan under key .* dropped"):
                call()


@pytest.mark.skipif(not ops.has_kernels(), reason="the reference does not check tables")
def test_bad_tables_are_refused_once_and_not_kept() -> None:
    _, part = problem()
    before = kept(), len(plan_tables.KEPT)
    for name in ("layout", "tasks", "chunks"):
        tables = cloned(part.tables)
        getattr(tables, name).sub_(1 << 50)
        with pytest.raises(RuntimeError, match="symfast: .*(task|chunk|parameter|reach)"):
            plan_ops.store(tables)
    assert (kept(), len(plan_tables.KEPT)) == before


@pytest.mark.skipif(not ops.has_kernels(), reason="the reference does not check tables")
@pytest.mark.parametrize("units", [[], [0]], ids=str)
def test_every_group_has_a_norm(units: list[int]) -> None:
    """Also one without mirrors, whose norm is zero."""
    plan = sf.Plan([(torch.ones(4, 3), sf.SignFlip(units)), (torch.ones(2), sf.SignFlip())])
    assert plan.norms().tolist() == [len(units) * 3**0.5, 2**0.5]
    tables = dataclasses.replace(plan._compiled.parts[0].tables, groups=0)
    with pytest.raises(RuntimeError, match="there are 0 groups, but task 0 has more"):
        plan_ops.store(tables)


@pytest.mark.skipif(not ops.has_kernels(), reason="the reference does not count amounts")
@pytest.mark.parametrize(("per", "needed"), [(1, 4), (2, 8)])
def test_amounts_are_counted(per: int, needed: int) -> None:
    w = torch.ones(4, 3)
    part = sf.Plan([(w[i], sf.SignFlip([0, 1])) for i in range(4)])._compiled.parts[0]
    with pytest.raises(RuntimeError, match=f"{needed - 1} amounts.* needs {needed}"):
        apply_(part.tensors, part.key, 2, 0.0, torch.ones(needed - 1), per)
    with pytest.raises(RuntimeError, match="missing"):
        apply_(part.tensors, part.key, 2, 0.5, None, per)
    assert w.tolist() == [[1.0, 1.0, 1.0]] * 4


def test_amounts_may_have_any_stride() -> None:
    w = torch.ones(4, 3)
    plan = sf.Plan([(w[i], sf.SignFlip([0, 1])) for i in range(4)])
    plan.shrink_(torch.tensor([0.5, 9.0] * 4)[::2])
    assert w.tolist() == [[0.5, 0.5, 1.0]] * 4
    plan.shrink_(torch.tensor(0.5))  # one number in a tensor serves all groups
    assert w.tolist() == [[0.25, 0.25, 1.0]] * 4


@pytest.mark.parametrize("layout", ["first", "conv"])
def test_opcheck(layout: str) -> None:
    plan = sf.Plan([(sf.Units([LAYOUTS[layout](12, torch.float32)]), sf.Swap([0], [5]))])
    part = plan._compiled.parts[0]
    part.tensors[0].requires_grad_()  # a verb bumps versions itself; autograd knows nothing of it
    opcheck = torch.library.opcheck
    opcheck(coefficients, (part.tensors, part.key))
    opcheck(norms, (part.tensors, part.key))
    part.tensors[0].requires_grad_(False)
    opcheck(apply_, (part.tensors, part.key, 2, 0.5))
    opcheck(apply_, (part.tensors, part.key, 2, 0.5, torch.ones(1), 1))


def test_results_are_not_differentiated() -> None:
    layer = torch.nn.Linear(3, 4)
    plan = sf.Plan([(sf.Units([(layer.weight, 0)]), sf.Swap([0], [2]))])
    assert not plan.norms().requires_grad
    assert not plan.coefficients()[0].requires_grad
    plan.project_()
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad


def test_fakes_know_sizes_and_devices() -> None:
    w, part = problem(2)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(w)
        assert norms([fake], part.key).shape == (part.tables.mirrors,)
        assert coefficients([fake], part.key).dtype == torch.float64
        assert coefficients([fake], part.key).shape == (part.tables.numel,)
    for call in (norms, coefficients, torch.ops.symfast.plan_check.default):
        with pytest.raises(RuntimeError, match="on one device"):
            call([w.to("meta")], part.key)
    with pytest.raises(RuntimeError, match="on one device"):
        apply_([w], part.key, 2, 0.0, torch.ones(1, device="meta"), 1)
    plan = sf.Plan([(w.to("meta"), sf.SignFlip())])
    plan.project_()
    assert plan.norms().shape == (1,)


def test_a_compiled_graph_runs_its_own_plan() -> None:
    w, v = torch.ones(4), torch.ones(4)
    plans = [sf.Plan([(w, sf.SignFlip([0]))]), sf.Plan([(v, sf.SignFlip([1]))])]

    def step(number: int) -> None:
        plans[number].project_()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    compiled(0)
    compiled(1)
    assert (w.tolist(), v.tolist()) == ([0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0])
    plans[0].load_state_dict(sf.Plan([(w, sf.SignFlip([2]))]).state_dict())
    compiled(0)
    assert w.tolist() == [0.0, 1.0, 0.0, 1.0]
