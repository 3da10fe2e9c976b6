# SPDX-License-Identifier: Apache-2.0
"""Stacked replicas of any model: equal to torch's own training, one replica at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symfast as sf
from symfast.problems import Module
from symfast.problems.draws import (
    GRADIENT_NOISE,
    LABEL_NOISE,
    MINIBATCH,
    minibatches,
    normals,
    words,
)
from symfast.problems.problem import cell_key

mse = nn.functional.mse_loss


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def data(samples: int = 40) -> tuple[Tensor, Tensor]:
    X = torch.randn(samples, 3, dtype=torch.float64)
    return X, X @ torch.randn(3, 2, dtype=torch.float64)


def train_alone(
    problem: Module, cell: dict[str, float], seed: int, steps: int, **defaults: float
) -> Tensor:
    """The user's own loop: autograd, torch.optim, the same minibatches and noise."""
    axes = problem.axes
    every = {name: cell.get(name, axis.default) for name, axis in axes.items()}
    torch.manual_seed(seed)
    model = make()
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(
            p, every["lr"], momentum=every["momentum"], weight_decay=every["weight_decay"]
        ),
        "adam": lambda p: torch.optim.Adam(
            p, every["lr"], (every["momentum"], 0.999), weight_decay=every["weight_decay"]
        ),
        "adamw": lambda p: torch.optim.AdamW(
            p, every["lr"], (every["momentum"], 0.999), weight_decay=every["weight_decay"]
        ),
    }
    optimizer = kinds[problem.optimizer](model.parameters())
    seeds, keys = torch.tensor([seed]), torch.tensor([cell_key(axes, every)])
    batch = int(every["batch_size"])
    for step in range(steps):
        x, y, number = problem.X, problem.Y, torch.tensor(step)
        if batch:
            rows = minibatches(seeds, step, 1, batch, len(x))[0, 0]
            x, y = x[rows], y[rows]
        z = normals(seeds, keys, number, y.numel(), LABEL_NOISE, y.dtype)[0]
        y = y + every["label_noise"] * z.view_as(y)
        optimizer.zero_grad()
        mse(model(x), y).backward()
        count = sum(p.numel() for p in model.parameters())
        noise = normals(seeds, keys, number, count, GRADIENT_NOISE, y.dtype)[0]
        pieces = noise.split([p.numel() for p in model.parameters()])
        for p, z in zip(model.parameters(), pieces, strict=True):
            assert p.grad is not None
            p.grad += every["gradient_noise"] * z.view_as(p)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    "cell",
    [
        {},
        {"momentum": 0.8, "weight_decay": 0.1},
        {"batch_size": 7, "label_noise": 0.3, "gradient_noise": 0.01, "weight_decay": 0.01},
    ],
    ids=["plain", "decay", "noise"],
)
def test_replica_equals_its_own_training(optimizer: Any, cell: dict[str, float]) -> None:
    problem = Module(make, mse, *data(), optimizer=optimizer)
    grid: dict[str, Any] = {name: [x, x / 2] for name, x in cell.items() if name != "batch_size"}
    grid |= {name: x for name, x in cell.items() if name == "batch_size"}
    result = sf.sweep(problem, seeds=2, steps=10, **grid)
    for row in (0, len(result.table) - 1):
        facts = result.table.iloc[row].to_dict()
        found = train_alone(problem, facts, int(facts["seed"]), 10)
        torch.testing.assert_close(torch.tensor(result.weights[row]), found, atol=1e-10, rtol=0)


def test_compiled_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is one graph; bench_module.py compares what inductor makes of it, slowly."""
    graph = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", graph)
    X, Y = data()
    grid: dict[str, Any] = {"lr": [0.01, 0.1], "gradient_noise": 0.1, "batch_size": 8, "steps": 5}
    eager = sf.sweep(Module(make, mse, X, Y), **grid)
    compiled = sf.sweep(Module(make, mse, X, Y, compile=True), **grid)
    near = {"atol": 1e-10, "rtol": 0.0}
    torch.testing.assert_close(torch.tensor(compiled.weights), torch.tensor(eager.weights), **near)


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plain: Callable[..., Tensor], **_: Any) -> Callable[..., Tensor]:
        def step(*_: Any) -> Tensor:
            raise RuntimeError("no compiler found")

        return step

    monkeypatch.setattr(torch, "compile", broken)
    problem = Module(make, mse, *data(), compile=True)
    with pytest.warns(UserWarning, match="uncompiled and slower: no compiler found"):
        result = sf.sweep(problem, steps=3)
    assert result.table.status.tolist() == ["finished"]


@pytest.mark.parametrize("every", [30, 100])
def test_stretches_and_batch_sizes_change_nothing(every: int) -> None:
    problem = Module(make, mse, *data())
    grid: dict[str, Any] = {
        "batch_size": [0, 4, 8],
        "schedule": ["cosine", "step"],
        "momentum": 0.9,
        "steps": 110,
    }
    whole = sf.sweep(problem, seeds=2, **grid)
    pieces = sf.sweep(problem, seeds=2, every=every, **grid)
    assert (whole.weights == pieces.weights).all()
    alone = sf.sweep(problem, seeds=[1], steps=110, batch_size=4, schedule="step", momentum=0.9)
    row = whole.table.query("batch_size == 4 and schedule == 'step' and seed == 1").index[0]
    near = {"atol": 1e-12, "rtol": 0.0}
    torch.testing.assert_close(
        torch.tensor(alone.weights[0]), torch.tensor(whole.weights[row]), **near
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that do not fit the caches together are trained one block after the other."""
    problem = Module(make, mse, *data())
    grid: dict[str, Any] = {"lr": [0.01, 0.02, 0.03, 1e6], "batch_size": [0, 4], "steps": 250}
    grid |= {"gradient_noise": 0.01, "seeds": 3}
    whole = sf.sweep(problem, **grid)
    monkeypatch.setattr("symfast.problems.stacked_data.BLOCK_NUMBERS", 1000)
    pieces = sf.sweep(problem, **grid)
    assert pieces.table.status.tolist() == whole.table.status.tolist()
    assert pieces.table.steps.tolist() == whole.table.steps.tolist()
    finished = (whole.table.status == "finished").to_numpy()
    torch.testing.assert_close(
        torch.tensor(pieces.weights[finished]), torch.tensor(whole.weights[finished]), atol=1e-12,
        rtol=0.0,
    )  # fmt: skip


def test_divergence_is_a_status() -> None:
    result = sf.sweep(Module(make, mse, *data()), lr=[0.1, 1e6], steps=250)
    assert result.table.status.tolist() == ["finished", "diverged"]
    assert result.table.steps.tolist() == [250, 100]


def test_classes_have_error_rates() -> None:
    X = torch.randn(60, 3, dtype=torch.float64)
    Y = (X[:, 0] > 0).long()
    problem = Module(make, nn.functional.cross_entropy, X, Y, test=(X[:10], Y[:10]))
    result = sf.sweep(problem, lr=1.0, steps=300, every=150)
    assert result.table.error[0] < 0.05
    assert {"test_loss", "test_error"} <= set(result.table.columns)
    assert result.series is not None
    assert result.series.step.tolist() == [0, 150, 300]
    assert result.series.loss.is_monotonic_decreasing
    assert "label_noise" not in problem.axes


def test_plan_holds_on_every_replica() -> None:
    def tie(stacked: dict[str, Tensor], replicas: int) -> sf.Plan:
        members = [(stacked["0.weight"], 0), (stacked["0.bias"], 0), (stacked["2.weight"], 1)]
        return sf.Plan(
            [(sf.Units(members, replicas=replicas), sf.Swap([0], [1]))], replicas=replicas
        )

    problem = Module(make, mse, *data(), make_plan=tie)
    grid: dict[str, Any] = {"lr": [0.05, 0.1], "seeds": 2, "steps": 20, "batch_size": 8}
    result = sf.sweep(problem, **grid)
    first = torch.tensor(result.weights)[:, :15].view(-1, 5, 3)
    assert torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first[:, 0], first[:, 2])
    kinds = ["shrink", "none", "prox", "project"]
    every = sf.sweep(problem, constraint=kinds, strength=[0.0, 2.0], **grid)
    apart = torch.tensor(every.weights)[:, :15].view(-1, 5, 3)
    apart = (apart[:, 0] - apart[:, 1]).norm(dim=1).view(4, 2, 2, 2)  # kind, lr, strength, seed
    assert bool((apart[3] == 0).all())
    torch.testing.assert_close(apart[:3, :, 0], apart[1:2, :, 0].expand(3, 2, 2))
    assert bool((apart[0, :, 1] < apart[0, :, 0]).all())
    assert bool((apart[2, :, 1] < apart[2, :, 0]).all())
    free = sf.sweep(Module(make, mse, problem.X, problem.Y), **grid)
    assert (
        free.table.loss.tolist()
        == every.table.query("constraint == 'none' and strength == 0").loss.tolist()
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"make_model": lambda: nn.BatchNorm1d(3)}, "statistics"),
        (
            {"make_model": lambda: nn.Sequential(make(), nn.Dropout(0.5))},
            "Dropout",
        ),
        ({"make_model": nn.Tanh}, "no parameters"),
        ({"make_model": lambda: 3}, "must return a torch.nn.Module"),
        ({"optimizer": "lion"}, "optimizer must be"),
        ({"Y": torch.randn(7, 2)}, "same number of samples"),
        ({"X": torch.full((40, 3), torch.inf)}, "not finite"),
        ({"test": torch.randn(3)}, "pair"),
    ],
)
def test_bad_problems_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    X, Y = data()
    with pytest.raises(ValueError, match=sentence):
        Module(**({"make_model": make, "loss": mse, "X": X, "Y": Y} | arguments))


def test_numbers_depend_on_their_name_alone() -> None:
    seeds, keys, step = torch.tensor([3, 4]), torch.tensor([5, 6]), torch.tensor(2)
    both = normals(seeds, keys, step, 10, LABEL_NOISE, torch.float64)
    one = normals(seeds[1:], keys[1:], step, 7, LABEL_NOISE, torch.float64)
    assert torch.equal(both[1:, :7], one)
    drawn = minibatches(seeds, 0, 400, 64, 10)
    counts = drawn.flatten().bincount(minlength=10)
    assert abs(counts.double() / counts.sum() - 0.1).max() < 0.005
    same = words(seeds, keys, step, torch.zeros(2, dtype=torch.int64), MINIBATCH)
    assert all(bool(((w >= 0) & (w < 1 << 32)).all()) for w in same)


class Projected(torch.nn.Module):
    """A linear layer on fixed features, which are a float32 buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.eye(3)[:, :2].clone())
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x @ self.features)


def test_buffers_follow_the_parameters() -> None:
    """Whatever dtype the sweep runs in, and the layer sees the first two inputs only."""
    X = torch.randn(20, 3)
    problem = Module(Projected, torch.nn.functional.mse_loss, X, X[:, :1])
    for dtype in (torch.float32, torch.float64):
        found = sf.sweep(problem, lr=0.1, steps=200, dtype=dtype)
        assert float(found.table.loss.max()) < 1e-6
