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
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), (shape, symmetry, constraint)
    return kept[0]


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
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


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
