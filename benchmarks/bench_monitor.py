# SPDX-License-Identifier: Apache-2.0
"""What monitoring costs a training: ``pytest -s benchmarks/bench_monitor.py`` prints the row."""

import time
from typing import Any

import pytest
import torch
from tables import tables

import symfast as sf
from symfast.symmetry_group import Member, SymmetryGroup

note, report = tables()
pytestmark = pytest.mark.filterwarnings("default")


def perceptron() -> tuple[torch.nn.Module, list[SymmetryGroup]]:
    """An MLP of 3 x 512 hidden units, and the groups of their symmetries."""
    sizes = [64, 512, 512, 512, 10]
    layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    model = torch.nn.Sequential(*[x for fc in layers for x in (fc, torch.nn.ReLU())][:-1])
    groups = [
        SymmetryGroup(
            (
                Member(fc.weight, 0, "weight", "in"),
                Member(fc.bias, 0, "bias", "bias"),
                Member(after.weight, 1, "weight", "out"),
            ),
            ("permutation", "rescale"),
            activation="relu",
            where=f"hidden {i}",
        )
        for i, (fc, after) in enumerate(zip(layers, layers[1:], strict=False))
    ]
    return model, groups


def test_monitor_overhead(benchmark: Any) -> None:
    """Its training, measured every 100 steps."""
    torch.manual_seed(0)
    model, groups = perceptron()
    optimizer = torch.optim.Adam(model.parameters())
    X, y = torch.randn(128, 64), torch.randint(10, (128,))

    def train(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(X), y).backward()
            optimizer.step()
        return time.perf_counter() - start

    train(20)
    with sf.monitor(optimizer, groups, every=100) as log:
        first, log.seconds = log.seconds, 0.0
        whole = train(400)
    note(
        "Monitoring 3 groups of 512 units every 100 steps",
        first_ms=f"{first * 1e3:.0f}",
        later_ms=f"{log.seconds / 4 * 1e3:.0f}",
        of_the_training=f"{log.seconds / whole:.1%}",
        a_step_ms=f"{(whole - log.seconds) / 400 * 1e3:.2f}",
    )
    benchmark.extra_info["share"] = log.seconds / whole
    assert log.rows
    benchmark.pedantic(log.measure, rounds=3)
