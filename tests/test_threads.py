# SPDX-License-Identifier: Apache-2.0
"""Many Python threads at once, each with work of its own: what one thread alone computes.

An interpreter without the GIL imports the kernels without taking it back; with the GIL, threads
still meet inside them, where torch lets go of it.
"""

import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable

import pytest
import torch
from test_plan_threads import run_together
from torch import Tensor

import symfast as sf

ROUNDS = 6


def optimizer_steps(seed: int) -> Tensor:
    """Constrained AdamW, its anchor drawn in registers."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.nn.Parameter(torch.randn(64, 33, generator=generator))
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap(range(32), range(32, 64)))])
    optimizer = sf.optim.AdamW([w], lr=0.1, plan=plan, anchor=sf.Anchor(0.1, seed=seed))
    for _ in range(8):
        w.grad = torch.randn(64, 33, generator=generator)
        optimizer.step()
    assert torch.equal(w[:32], w[32:])
    return w.detach()


def factor_steps(seed: int) -> Tensor:
    """Product factors with momentum."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.nn.Parameter(torch.rand(500, generator=generator) + 0.5)
    optimizer = sf.FactorSGD([{"params": [w], "depth": 3}], lr=0.01, lam=0.1, momentum=0.9)
    for _ in range(8):
        w.grad = torch.randn(500, generator=generator)
        optimizer.step()
    return w.detach()


def functions(seed: int) -> Tensor:
    """A mirror with gradients, and polar factors."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(300, 24, generator=generator, requires_grad=True)
    A = torch.randn(40, 12, 12, generator=generator)
    Q = sf.polar(A)
    projected = sf.project(theta, torch.linalg.qr(torch.randn(24, 3, generator=generator)).Q)
    (gradient,) = torch.autograd.grad(projected.square().sum(), theta)
    return torch.cat([projected.detach().flatten(), gradient.flatten(), Q.flatten()])


def sweeps(seed: int) -> Tensor:
    """Whole trainings of both kernels."""
    X = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for problem in (
        sf.problems.TwoLayer(X, X[:, :1], hidden=3),
        sf.problems.Factorized(X, X[:, 0]),
    ):
        result = sf.sweep(problem, lr=[0.01, 0.02], seeds=2, steps=40)
        found.append(torch.as_tensor(result.weights).double().flatten())
    return torch.cat(found)


WORK: list[Callable[[int], Tensor]] = [optimizer_steps, factor_steps, functions, sweeps]


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n} threads in a kernel")
def test_threads_do_not_disturb_each_other(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = {(work, seed): work(seed) for work in WORK for seed in range(2)}
        barrier = threading.Barrier(len(alone))

        def check(work: Callable[[int], Tensor], seed: int) -> None:
            torch.set_num_threads(threads)  # of this thread
            barrier.wait(60)
            for _ in range(ROUNDS):
                assert torch.equal(work(seed), alone[work, seed]), work.__name__

        run_together([lambda key=key: check(*key) for key in alone])
    finally:
        torch.set_num_threads(before)


def test_one_plan_for_many_threads() -> None:
    """Verbs that only read may run on one plan at once."""
    w = torch.randn(400, 30)
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap(range(200), range(200, 400)))])
    wanted = plan.norms().clone()

    def read() -> None:
        for _ in range(50):
            assert torch.equal(plan.norms(), wanted)
            assert plan.coefficients() is not None

    run_together([read] * 6)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is always with the GIL"
)
def test_the_kernels_do_not_ask_for_the_gil() -> None:
    code = "import sys, torch; a = sys._is_gil_enabled(); import symfast._C"
    subprocess.run([sys.executable, "-c", f"{code}; assert sys._is_gil_enabled() == a"], check=True)
