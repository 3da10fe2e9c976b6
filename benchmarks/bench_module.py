# SPDX-License-Identifier: Apache-2.0
"""`problems.Module` against a hand-written vectorised SGD on torch.func.vmap, same job, same run.

The job: a 16-32-1 ReLU network, batch 32, every replica its own learning rate and decay, eight
seeds with minibatches of their own; with gradient noise in the second table.
"""

from collections.abc import Callable

import pytest
import torch
from machine import in_turns
from tables import tables
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from symfast.problems import Module
from symfast.problems.draws import GRADIENT_NOISE, minibatches, normals
from symfast.problems.problem import Replicas, Stretch

pytestmark = pytest.mark.filterwarnings("default")
STEPS = 20  # of a run
CPU = torch.device("cpu")
note, report = tables()


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


def trainer(problem: Module, replicas: Replicas) -> tuple[dict[str, Tensor], Callable[..., None]]:
    """State, and a function that trains it by some steps as a sweep does."""
    state = problem.start(replicas, dtype=torch.float32, device=CPU)

    def train(first: int, steps: int) -> None:
        counter = torch.zeros(2, dtype=torch.int64)
        problem.train(state, replicas, Stretch(first, steps, 1000, counter))

    return state, train


def counting(run: Callable[[int], object]) -> Callable[[], None]:
    """A call that goes on by STEPS steps each time, from step 10."""
    first = 10

    def call() -> None:
        nonlocal first
        run(first)
        first = 10 + (first - 10 + STEPS) % 900

    return call


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("count", [64, 1024, 4096])
@torch.no_grad()
def test_module(count: int, noise: float) -> None:
    """Wanted: 2x the best that is written by hand."""
    fast, plain = problem(compile=True), problem(compile=False)
    replicas = replicas_of(count, noise, fast)
    state, train = trainer(fast, replicas)
    check = Opponent(fast, replicas, philox=True)
    train(0, 10)  # compiles
    for number in range(10):
        check.step(number)
    torch.testing.assert_close(state["theta"], check.weights(), atol=2e-5, rtol=0)
    opponent, (_, eager) = Opponent(fast, replicas, philox=False), trainer(plain, replicas)

    def by_hand(first: int) -> None:
        for number in range(first, first + STEPS):
            opponent.step(number)

    runs: list[Callable[[int], object]] = [
        lambda first: train(first, STEPS),
        by_hand,
        lambda first: eager(first, STEPS),
    ]
    ours, theirs, uncompiled = (
        1e3 * seconds / STEPS for seconds in in_turns(*map(counting, runs), seconds=3.0)
    )
    note("Module 16-32-1, batch 32: milliseconds a step", replicas=count, noise=noise,
         compiled=f"{ours:.2f}", not_compiled=f"{uncompiled:.2f}", vmap_by_hand=f"{theirs:.2f}",
         ratio=f"{theirs / ours:.1f}x")  # fmt: skip
    assert theirs / ours > 1.3
