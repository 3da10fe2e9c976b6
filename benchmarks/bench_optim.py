# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps against memory and against torch's fused ones; every result is asserted.

``pytest -s benchmarks/bench_optim.py`` prints the tables of this run. All contenders of a row run
in turns, so that a slow moment of the machine hits each of them, and on the same parameters,
gradients and states: where in the caches memory lies makes a tenth and more. Times are the best of
the turns, ratios the median of those of one turn: memory that other machines share changes its pace
within a run. Before each turn on large tensors other memory is walked. Every step must read its
operands once; a pass that reads as many bytes and writes none takes its turns beside it.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import every_turn, ratio, reading, stream_bandwidth, walk_elsewhere
from tables import cost, point, tables

import symfast as sf

pytestmark = pytest.mark.filterwarnings("default")
#: Bytes a step must read and write once, and those of them that it must read.
BYTES = {"SGD": 12, "SGD momentum": 20, "Adam": 28, "AdamW": 28}
READS = {"SGD": 8, "SGD momentum": 12, "Adam": 16, "AdamW": 16}
#: Operations on a weight, a multiply-add counting two.
FLOPS = {"SGD": 3, "SGD momentum": 6, "Adam": 15, "AdamW": 16}
RULES: dict[str, tuple[str, dict[str, float]]] = {
    "SGD": ("SGD", {}),
    "SGD momentum": ("SGD", {"momentum": 0.9}),
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {"weight_decay": 0.01}),
}
EXAMPLES = Path(__file__).parents[1] / "examples"
note, report = tables()


def layers(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Parameters with gradients, the same numbers at every call."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(0.1 * torch.randn(*shape)) for shape in shapes]
    for p in made:
        p.grad = 1e-3 * torch.randn_like(p)
    return made


LARGE: list[tuple[int, ...]] = [(2048, 2048), (2048,), (2048, 2048)] * 2
SMALL: list[tuple[int, ...]] = [(32, 16), (32,), (16, 32)] * 155


def contenders(
    name: str, shapes: list[tuple[int, ...]]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our step and torch's fused one; they must agree on copies, then both take the same memory."""
    rule, options = RULES[name]
    mine, theirs = layers(shapes), layers(shapes)
    ours = getattr(sf.optim, rule)(mine, lr=1e-3, **options)
    torchs = getattr(torch.optim, rule)(theirs, lr=1e-3, fused=True, **options)
    for _ in range(3):
        ours.step()
        torchs.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    return ours.step, on_the_memory_of(ours, rule, **options)


def on_the_memory_of(ours: torch.optim.Optimizer, rule: str, **options: Any) -> Callable[[], Any]:
    """The step of torch's fused optimizer on the parameters and states of one of ours."""
    params = ours.param_groups[0]["params"]
    theirs = getattr(torch.optim, rule)(params, lr=1e-3, fused=True, **options)
    ours.step()
    theirs.step()
    for p in params:
        theirs.state[p].update((k, v) for k, v in ours.state[p].items() if k != "step")
    step: Callable[[], Any] = theirs.step
    return step


@pytest.mark.parametrize("name", list(RULES))
def test_large_tensors(benchmark: Any, name: str) -> None:
    ours, theirs = contenders(name, LARGE)
    n = sum(p.numel() for p in layers(LARGE))
    read = reading(READS[name] * n / 1e6)
    turns = every_turn(ours, theirs, read, seconds=1.5, between=walk_elsewhere())
    mine = min(turns[0])
    moved = BYTES[name] * n / mine / 1e9
    stream = stream_bandwidth(4 * n / 1e6 * (BYTES[name] / 4 - 1), 1)
    note(
        f"{n / 1e6:.1f}M parameters without a plan, against torch fused=True",
        rule=name,
        ms=f"{mine * 1e3:.2f}",
        of_torch_fused=f"{ratio(turns[0], turns[1]):.2f}",
        of_reading_its_operands_alone=f"{ratio(turns[0], turns[2]):.2f}",
        GB_s=f"{moved:.1f}",
        of_a_stream_of_that_mix=f"{moved / stream:.0%}",
    )
    point(f"{name} step", flops=FLOPS[name] * n, moved=BYTES[name] * n, seconds=mine)
    benchmark.pedantic(ours, rounds=2)


@pytest.mark.parametrize("exponent", [4, 5, 6, 7])
def test_cost_is_linear(benchmark: Any, exponent: int) -> None:
    ours, theirs = contenders("AdamW", [(10**exponent,)])
    turns = every_turn(ours, theirs, seconds=0.2)
    mine = min(turns[0])
    note(
        "AdamW on one tensor, against torch fused=True",
        weights=10**exponent,
        us=f"{mine * 1e6:.1f}",
        of_torch_fused=f"{ratio(*turns):.2f}",
    )
    cost("AdamW step", "weights", 10**exponent, mine)
    benchmark.pedantic(ours, rounds=2)


@pytest.mark.parametrize("name", list(RULES))
def test_small_tensors(benchmark: Any, name: str) -> None:
    ours, theirs = contenders(name, SMALL)
    turns = every_turn(ours, theirs, seconds=0.3)
    note(
        "465 small tensors without a plan, against torch fused=True",
        rule=name,
        us=f"{min(turns[0]) * 1e6:.0f}",
        of_torch_fused=f"{ratio(*turns):.2f}",
    )
    benchmark.pedantic(ours, rounds=2)


SYMMETRIES: dict[str, Callable[[int], sf.Swap | sf.SignFlip | sf.Direction]] = {
    "swap neighbours": lambda m: sf.Swap(range(0, m, 2), range(1, m, 2)),
    "swap halves": lambda m: sf.Swap(range(m // 2), range(m // 2, m)),
    "sign flip": lambda m: sf.SignFlip(),
    "direction k=1": lambda m: sf.Direction(torch.linalg.qr(torch.randn(m, 1)).Q),
    "direction k=4": lambda m: sf.Direction(torch.linalg.qr(torch.randn(m, 4)).Q),
}


def every_hidden_unit(params: list[torch.nn.Parameter], symmetry: str) -> sf.Plan:
    """Rows of the first layer, its bias, columns of the second, for every block of three."""
    entries = []
    for first, bias, second in zip(params[::3], params[1::3], params[2::3], strict=True):
        units = sf.Units([(first, 0), (bias, 0), (second, 1)])
        entries.append((units, SYMMETRIES[symmetry](len(bias))))
    return sf.Plan(entries)


def project_by_hand(params: list[torch.nn.Parameter], symmetry: str) -> Callable[[], None]:
    """The same projections in plain torch, in place, as people write them."""
    views = []
    for first, bias, second in zip(params[::3], params[1::3], params[2::3], strict=True):
        frame = torch.linalg.qr(torch.randn(len(bias), 4 if symmetry.endswith("4") else 1)).Q
        views += [(u.detach(), frame) for u in (first, bias[:, None], second.T)]

    def pairs(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = len(u) // 2
        return (u[::2], u[1::2]) if symmetry == "swap neighbours" else (u[:half], u[half:])

    def project() -> None:
        for u, frame in views:
            if symmetry == "sign flip":
                u.zero_()
            elif symmetry.startswith("swap"):
                a, b = pairs(u)
                torch.lerp(a, b, 0.5, out=a)
                b.copy_(a)
            else:
                u.addmm_(frame, frame.T @ u, alpha=-1)

    return project


@pytest.mark.parametrize("shapes", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("symmetry", list(SYMMETRIES))
def test_plan(benchmark: Any, symmetry: str, shapes: list[tuple[int, ...]]) -> None:
    mine = layers(shapes)
    plan = every_hidden_unit(mine, symmetry)
    ours = sf.optim.AdamW(mine, lr=1e-3, plan=plan)
    constrained, fused = ours.step, on_the_memory_of(ours, "AdamW")
    without = sf.optim.AdamW(mine, lr=1e-3)
    without.step()
    for p in mine:
        without.state[p].update((k, v) for k, v in ours.state[p].items() if k != "step")
    unconstrained = without.step

    def two_passes() -> None:
        fused()
        plan.project_()

    by_hand = project_by_hand(mine, symmetry)

    def peers() -> None:
        fused()
        by_hand()

    large = shapes is LARGE
    between = walk_elsewhere() if large else fused  # all find the caches alike
    contenders = constrained, unconstrained, fused, two_passes, peers
    turns = every_turn(*contenders, seconds=0.8 if large else 0.4, between=between)
    over = [ratio(turns[0], other) for other in turns]
    constrained()
    assert plan.norms().max().item() < 1e-3
    note(
        f"AdamW, every hidden unit constrained, {sum(p.numel() for p in mine) / 1e6:.2f}M "
        f"parameters in {len(shapes)} tensors",
        symmetry=symmetry,
        ms=f"{min(turns[0]) * 1e3:.2f}",
        of_ours_unconstrained=f"{over[1]:.2f}",
        of_torch_fused_unconstrained=f"{over[2]:.2f}",
        of_torch_fused_then_plan_project=f"{over[3]:.2f}",
        of_torch_fused_then_projections_in_torch=f"{over[4]:.2f}",
    )
    benchmark.pedantic(constrained, rounds=2)


def test_anchor(benchmark: Any) -> None:
    mine = layers(LARGE)
    decay = {"lr": 1e-3, "weight_decay": 0.01}
    anchored = sf.optim.SGD(mine, anchor=sf.Anchor(0.1), **decay).step
    plain = sf.optim.SGD(mine, **decay).step
    uneven = sf.optim.SGD(mine, anchor=sf.Anchor(0.1, spread=0.5), **decay).step
    noisy = sf.optim.SGD(mine, noise=0.1, **decay).step
    before = mine[0].detach().clone()
    plain()
    without = mine[0].detach().clone()
    mine[0].data.copy_(before)
    anchored()
    assert not torch.equal(mine[0], without)
    turns = every_turn(anchored, plain, uneven, noisy, between=walk_elsewhere())
    best = min(turns[0])
    n = sum(p.numel() for p in mine)
    note(
        "Decay toward an anchor drawn in registers, 12 bytes per weight",
        ms=f"{best * 1e3:.2f}",
        GB_s=f"{12 * n / best / 1e9:.1f}",
        of_SGD_with_plain_decay=f"{ratio(turns[0], turns[1]):.2f}",
        with_spread=f"{ratio(turns[2], turns[1]):.2f}",
        gradient_noise_instead=f"{ratio(turns[3], turns[1]):.2f}",
    )
    benchmark.pedantic(anchored, rounds=2)


def test_training_step(benchmark: Any) -> None:
    """The transformer of examples/sparsify.py: forward, backward and step, with and without."""
    spec = importlib.util.spec_from_file_location("sparsify", EXAMPLES / "sparsify.py")
    assert spec is not None
    assert spec.loader is not None
    sparsify = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sparsify)
    x, y = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))

    def trainer(constrained: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        model = sparsify.Transformer()
        up, down = model.layer.linear1, model.layer.linear2
        units = sf.Units([(up.weight, 0), (up.bias, 0), (down.weight, 1)])
        plan = sf.Plan([(units, sf.Swap(range(0, 64, 2), range(1, 64, 2)))])
        optimizer = sf.optim.AdamW(model.parameters(), plan=plan if constrained else None)

        def step() -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    constrained = trainer(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small gain nothing from more, and vary with them
    turns = every_turn(constrained, trainer(False), seconds=3.0)
    torch.set_num_threads(threads)
    note(
        "Whole training step of the example transformer, every hidden unit swapped",
        us=f"{min(turns[0]) * 1e6:.0f}",
        of_the_same_without_plan=f"{ratio(*turns):.3f}",
    )
    benchmark.pedantic(constrained, rounds=2)
