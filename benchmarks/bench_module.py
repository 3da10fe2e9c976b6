# SPDX-License-Identifier: Apache-2.0
"""`problems.Module` against a hand-written vectorised SGD on torch.func.vmap, same job, same run.

The job: a 16-32-1 ReLU network, batch 32, every replica its own learning rate and decay, eight
seeds with minibatches of their own; with gradient noise in the second table.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from symfast.problems import Module
from symfast.problems.draws import GRADIENT_NOISE, minibatches, normals
from symfast.problems.problem import Replicas, Stretch

pytestmark = pytest.mark.filterwarnings("default")
ROWS: list[str] = []
STEPS = 20
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    ROWS.clear()
    yield
    print("\n".join(["", f"{torch.get_num_threads()} threads, medians of a step", *ROWS]))


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))


def problem(compile: bool) -> Module:
    X = torch.randn(512, 16)
    return Module(make, nn.functional.mse_loss, X, X[:, :1].sin(), compile=compile)


def replicas_of(count: int, noise: float, problem: Module) -> Replicas:
    """Cells of eight seeds; the learning rate differs from cell to cell."""
    cells = {
        name: torch.full((count,), 0.0 if axis.choices else float(axis.default)).double()
        for name, axis in problem.axes.items()
    }
    number = torch.arange(count)
    cells["lr"] = 0.01 + 0.04 * (number // 8).double() / count
    cells["weight_decay"] = 1e-3 * (1 + number // 8).double() / count
    cells["batch_size"] = torch.full((count,), 32.0).double()
    cells["gradient_noise"] = torch.full((count,), noise).double()
    return Replicas(cells, seeds=number % 8, keys=number // 8)


class Opponent:
    """What a careful user writes: stacked parameters, vmap(grad), foreach updates in place."""

    def __init__(self, problem: Module, replicas: Replicas, philox: bool) -> None:
        self.problem, self.replicas, self.philox = problem, replicas, philox
        theta = problem.start(replicas, dtype=torch.float32, device=CPU)["theta"]
        named = problem.model.parameters(theta)
        self.parameters = {name: p.clone() for name, p in named.items()}
        skeleton = problem.model.skeleton

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.mse_loss(functional_call(skeleton, parameters, (x,)), y)

        self.gradient = vmap(grad(loss))
        rates = (replicas.cells["lr"].float(), replicas.cells["weight_decay"].float())
        self.rates = [
            [x.view(-1, *[1] * (p.ndim - 1)) for p in self.parameters.values()] for x in rates
        ]
        self.drawn = minibatches(replicas.seeds.unique(), 0, 1000, 32, len(problem.X))
        self.sigma = float(replicas.cells["gradient_noise"][0])

    def noise(self, step: int) -> list[Tensor]:
        """Gradient noise: torch.randn, or the numbers that symfast draws for a comparison."""
        if not self.philox:
            return [torch.randn_like(p) for p in self.parameters.values()]
        seeds, keys = self.replicas.seeds, self.replicas.keys
        count = sum(self.problem.model.sizes)
        z = normals(seeds, keys, torch.tensor(step), count, GRADIENT_NOISE, torch.float32)
        return list(self.problem.model.parameters(z).values())

    def step(self, number: int) -> None:
        rows = self.drawn[:, number][self.replicas.seeds]
        x, y = self.problem.X[rows], self.problem.Y[rows]
        g = list(self.gradient(self.parameters, x, y).values())
        values = list(self.parameters.values())
        if self.sigma:
            torch._foreach_add_(g, self.noise(number), alpha=self.sigma)
        lr, decay = self.rates
        torch._foreach_addcmul_(g, values, decay)
        torch._foreach_addcmul_(values, g, lr, value=-1)

    def weights(self) -> Tensor:
        return torch.cat([p.flatten(1) for p in self.parameters.values()], 1)


def median(step: Callable[[int], Any], begin: int) -> float:
    """Median seconds of a step, after warming up."""
    seconds = []
    for number in range(begin, begin + STEPS + 3):
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:])


def trainer(problem: Module, replicas: Replicas) -> tuple[dict[str, Tensor], Callable[..., None]]:
    """State, and a function that trains it by some steps as a sweep does."""
    state = problem.start(replicas, dtype=torch.float32, device=CPU)

    def train(first: int, steps: int) -> None:
        counter = torch.zeros(2, dtype=torch.int64)
        problem.train(state, replicas, Stretch(first, steps, 1000, counter))

    return state, train


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("count", [64, 1024, 4096])
@torch.no_grad()
def test_module(count: int, noise: float) -> None:
    fast = problem(compile=True)
    replicas = replicas_of(count, noise, fast)
    state, train = trainer(fast, replicas)
    check = Opponent(fast, replicas, philox=True)
    train(0, 10)  # compiles
    for number in range(10):
        check.step(number)
    torch.testing.assert_close(state["theta"], check.weights(), atol=2e-5, rtol=0)
    seconds = []
    for attempt in range(5):
        begin = time.perf_counter()
        train(10 + attempt * STEPS, STEPS)
        seconds.append((time.perf_counter() - begin) / STEPS)
    ours = statistics.median(seconds)
    by_hand = median(Opponent(fast, replicas, philox=False).step, 10)
    plain_state, plain = trainer(problem(compile=False), replicas)
    del plain_state
    plain(0, 3)
    begin = time.perf_counter()
    plain(3, STEPS)
    eager = (time.perf_counter() - begin) / STEPS
    ratio = by_hand / ours
    ROWS.append(
        f"{count:>5} replicas, noise {noise:g}: symfast {1e3 * ours:8.3f} ms, uncompiled "
        f"{1e3 * eager:8.3f} ms, vmap by hand {1e3 * by_hand:8.3f} ms, {ratio:.1f}x"
    )
    assert ratio > 1
