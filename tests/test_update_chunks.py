# SPDX-License-Identifier: Apache-2.0
"""A step and a verb on the chunks of index frames, a few cache lines at a time, to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import symfast as sf

#: Sizes and the dim of the units: long and short stretches, odd ends, rows cut by sample.
SHAPES = {
    "far halves": ((128, 300), 0),
    "short stretches": ((24, 1100), 0),
    "rows": ((37, 512), 1),
    "few rows": ((4, 2048), 1),
    "wide rows": ((12, 9001), 0),
    "odd rows": ((50, 331), 1),
    "outer": ((3, 64, 130), 1),
    "kernels": ((5, 64, 13, 11), 1),
}


def near_with_holes(m: int) -> sf.Swap:
    """Pairs within groups of four, every third group left out: vectors of any width hold them."""
    first = [i + j for i in range(0, m - 3, 4) if i % 12 for j in range(2)]
    return sf.Swap(first, [i + 2 for i in first])


SYMMETRIES: dict[str, Callable[[int], Any]] = {
    "halves": lambda m: sf.Swap(range(m // 2), range(m // 2, m // 2 * 2)),
    "halves, second first": lambda m: sf.Swap(range(m // 2, m // 2 * 2), range(m // 2)),
    "part of halves": lambda m: sf.Swap(range(m // 3), range(m // 2, m // 2 + m // 3)),
    "neighbours": lambda m: sf.Swap(range(0, m - 1, 2), range(1, m, 2)),
    "near with holes": near_with_holes,
    "far": lambda m: sf.Swap(range(m // 2), [(i * 7) % (m // 2) + m // 2 for i in range(m // 2)]),
    "all flipped": lambda m: sf.SignFlip(),
    "two runs flipped": lambda m: sf.SignFlip([*range(m // 4), *range(m // 2, m)]),
    "clusters": lambda m: sf.Cluster([i // 5 if i % 7 else -1 for i in range(m)]),
}
VERBS = {"project": sf.Plan.project_, "shrink": sf.Plan.shrink_, "prox": sf.Plan.prox_}


def run(
    shape: str, symmetry: str, dtype: torch.dtype, constraint: str, options: dict[str, Any]
) -> list[torch.Tensor]:
    """Parameters and states after two fused steps, and after two steps and the verb."""
    sizes, dim = SHAPES[shape]
    make = torch.Generator().manual_seed(len(symmetry))
    first = torch.randn(sizes, generator=make, dtype=torch.float64).to(dtype)
    grads = [torch.randn(sizes, generator=make).to(dtype) for _ in range(2)]
    fused, plain = Parameter(first.clone()), Parameter(first.clone())
    pair = SYMMETRIES[symmetry](sizes[dim])
    plans = [sf.Plan([(sf.Units([(p, dim)]), pair)]) for p in (fused, plain)]
    together = sf.optim.AdamW(
        [fused], lr=0.1, **options, plan=plans[0], constraint=constraint, strength=0.7
    )
    apart = sf.optim.AdamW([plain], lr=0.1, **options)
    amount = () if constraint == "project" else (0.1 * 0.7,)
    for grad in grads:
        fused.grad, plain.grad = grad.clone(), grad.clone()
        together.step()
        apart.step()
        VERBS[constraint](plans[1], *amount)
    kept = [[p.detach(), *optimizer.state[p].values()] for p, optimizer in
            ((fused, together), (plain, apart))]  # fmt: skip
    for a, b in zip(*kept, strict=True):
        assert same_bits(a, b), (shape, symmetry, constraint)
    return kept[0]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, and zeros of one sign."""
    return torch.equal(a, b) and torch.equal(torch.signbit(a), torch.signbit(b))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("symmetry", list(SYMMETRIES))
def test_fused_is_step_then_verb(
    symmetry: str, shape: str, dtype: torch.dtype, capability: str
) -> None:
    for constraint in VERBS:
        run(shape, symmetry, dtype, constraint, {"weight_decay": 0.1})


@pytest.mark.parametrize("shape", ["far halves", "rows", "odd rows", "kernels"])
@pytest.mark.parametrize("symmetry", ["halves", "neighbours", "all flipped"])
def test_random_numbers_do_not_depend_on_the_walk(
    symmetry: str, shape: str, capability: str
) -> None:
    options = {"noise": 0.1, "anchor": sf.Anchor(0.1, spread=0.5), "weight_decay": 0.1, "seed": 3}
    run(shape, symmetry, torch.float32, "project", options)


@pytest.mark.parametrize("symmetry", list(SYMMETRIES))
def test_threads(symmetry: str) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(run("far halves", symmetry, torch.float32, "shrink", {}))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("constraint", ["shrink", "prox"])
@pytest.mark.parametrize("shape", ["few rows", "rows", "far halves"])
@pytest.mark.parametrize("symmetry", ["neighbours", "halves", "all flipped"])
def test_signs_of_zeros(symmetry: str, shape: str, constraint: str) -> None:
    """Whatever a verb makes of two zeros, the step makes the same."""
    sizes, dim = SHAPES[shape]
    found = []
    for fused in (True, False):
        p = Parameter(torch.full(sizes, -0.0))
        p.grad = torch.zeros(sizes)
        plan = sf.Plan([(sf.Units([(p, dim)]), SYMMETRIES[symmetry](sizes[dim]))])
        options = {"plan": plan, "constraint": constraint, "strength": 0.5} if fused else {}
        sf.optim.SGD([p], lr=0.1, **options).step()
        if not fused:
            VERBS[constraint](plan, 0.1 * 0.5)
        found.append(p.detach())
    assert same_bits(*found)


def test_groups_with_rates_of_their_own_and_views() -> None:
    """Two groups, each with its amount; columns of one wider parameter."""
    make = torch.Generator().manual_seed(2)
    values = [torch.randn(64, 600, generator=make), torch.randn(40, 512, generator=make)]
    grads = [torch.randn(v.shape, generator=make) for v in values]
    found = []
    for fused in (True, False):
        a, b = (Parameter(v.clone()) for v in values)
        a.grad, b.grad = (g.clone() for g in grads)
        rows = (sf.Units([(a.detach()[:, 50:450], 0)]), sf.Swap(range(0, 64, 2), range(1, 64, 2)))
        plan = sf.Plan([rows, (sf.Units([(b, 1)]), sf.SignFlip())])
        groups = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.3}]
        options: dict[str, Any] = {"plan": plan, "constraint": "shrink"} if fused else {}
        sf.optim.SGD(groups, lr=1.0, **({**options, "strength": 0.5} if fused else {})).step()
        if not fused:
            plan.shrink_(torch.tensor([0.1 * 0.5, 0.3 * 0.5]))
        found.append([a.detach(), b.detach()])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_numbers_that_overflow_a_sum_stay_where_no_pair_is() -> None:
    """A unit without a partner keeps its bits: it is not its own average."""
    large = torch.full((16, 512), 3e38)
    p = Parameter(large.clone())
    p.grad = torch.zeros_like(p)
    plan = sf.Plan([(sf.Units([(p, 1)]), near_with_holes(512))])
    sf.optim.SGD([p], lr=0.1, plan=plan).step()
    lone = torch.arange(512) % 12 < 4
    assert torch.equal(p.detach()[:, lone], large[:, lone])
    assert p.detach()[:, ~lone].isinf().any()
