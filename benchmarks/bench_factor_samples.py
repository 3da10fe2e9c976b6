# SPDX-License-Identifier: Apache-2.0
"""Product factors on minibatches with noise against a torch loop of all replicas at once.

``pytest -s benchmarks/bench_factor_samples.py`` prints the table of this run at its end. The loop
draws other random numbers, so that its result is asserted to be equal in the mean; the reference
draws the same ones and is asserted to be equal number by number.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tables import tables
from torch import Tensor

from symfast import build_info
from symfast.factor_steps import RandomSteps
from symfast.factor_sweep import factor_sweep
from symfast.problems import Factorized
from symfast.reference import factor_sweep as reference
from symfast.sweep.data import load

LR, DEPTH, SEEDS = 0.02, 2, 8

pytestmark = pytest.mark.filterwarnings("default")
note, report = tables()
TITLE = "Product factors on minibatches of the diabetes data, label noise 1"


@dataclass
class Job:
    """Penalties times eight seeds, batch B, without momentum."""

    cells: int
    batch: int
    dtype: torch.dtype
    problem: Factorized = field(init=False)

    def __post_init__(self) -> None:
        X, y, _ = load("diabetes")
        self.problem = Factorized(X, y, depth=DEPTH)
        self.x, self.y = self.problem.at.x.to(self.dtype), self.problem.at.y.to(self.dtype)
        self.lam = torch.logspace(-2, -0.5, self.cells, dtype=self.dtype)
        self.replicas = SEEDS * self.cells  # seed by seed
        start = self.problem.draw([DEPTH] * SEEDS, range(SEEDS)).to(self.dtype)
        self.start = start.repeat_interleave(self.cells, 0)

    def kernel(self, steps: int, **change: Any) -> Tensor:
        seed, cell = torch.arange(self.replicas) // self.cells, torch.arange(self.replicas)
        one = torch.ones(self.replicas, dtype=self.dtype)
        batch = torch.full_like(seed, self.batch)
        random = RandomSteps(self.x, self.y, seed, cell % self.cells, batch, one, 0 * one)
        gram, linear = self.problem.gram.to(self.dtype), self.problem.linear.to(self.dtype)
        lam = self.lam.repeat(SEEDS)
        return factor_sweep(
            gram, linear, self.start, lr=LR, lam=lam, steps=steps, random=random, **change
        ).weight

    def loop(self, steps: int) -> Tensor:
        """All replicas in one tensor; in place, a batch for each seed."""
        u, v = (f.clone() for f in self.start.unflatten(0, (SEEDS, self.cells)).unbind(2))
        keep = 1 - LR * 2 * self.lam[None, :, None] / DEPTH
        for _ in range(steps):
            rows = torch.randint(len(self.x), (SEEDS, self.batch))
            x, y = self.x[rows], self.y[rows, 0]
            target = torch.randn(SEEDS, self.cells, self.batch, dtype=self.dtype).add_(y[:, None])
            g = torch.baddbmm(target, u * v, x.mT, beta=-1) @ x
            push = g * (-LR / self.batch)
            u_push, v_push = push * v, push.mul_(u)
            u.mul_(keep).add_(u_push)
            v.mul_(keep).add_(v_push)
        return (u * v).flatten(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [4, 16, 64])
@pytest.mark.parametrize("cells", [128, 1024])
def test_minibatches(benchmark: Any, cells: int, batch: int, dtype: torch.dtype) -> None:
    """Kernel, reference and torch loop on the same job, in one run."""
    assert build_info()["kernels"], "no compiled kernels: there is nothing to measure"
    job, steps = Job(cells, batch, dtype), 1000
    benchmark.pedantic(lambda: job.kernel(steps), rounds=5, warmup_rounds=1)
    seconds = benchmark.stats.stats.min / steps
    begin = time.perf_counter()
    count = 100
    torch.manual_seed(0)  # below, five errors of a mean of eight: one run in fifty fails by chance
    job.loop(count)
    slow = (time.perf_counter() - begin) / count
    each = f"{seconds * 1e6:.1f} us a step, {seconds / job.replicas * 1e9:.1f} ns a replica"
    loop = f"{slow * 1e6:.0f} us, {slow / seconds:.0f}x"
    note(TITLE, replicas=job.replicas, batch=batch, dtype=str(dtype)[6:], by=each, loop=loop)

    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    same = job.kernel(3, operator=reference.factor_sweep)
    torch.testing.assert_close(job.kernel(3), same, atol=tolerance, rtol=0)
    ours, theirs = (job.problem.loss(f(300).double()) for f in (job.kernel, job.loop))
    by_seed = (ours - theirs).reshape(SEEDS, -1).mean(1)  # cells of a seed share their data
    assert abs(float(by_seed.mean())) < 5 * float(by_seed.std()) / SEEDS**0.5
