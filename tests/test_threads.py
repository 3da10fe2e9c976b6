# SPDX-License-Identifier: Apache-2.0
"""Many Python threads at once, each with work of its own: what one thread alone computes.

An interpreter without the GIL imports the kernels without taking it back; with the GIL, threads
still meet inside them, where torch lets go of it.
"""

import pickle
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_plan_threads import run_together
from thread_work import WORK, factor_steps, functions, optimizer_steps, sweeps
from torch import Tensor

import symfast as sf
from symfast.problems.problem import Problem
from symfast.sweep import SweepResult

ROUNDS = 6
SEEDS = 2  # a thread for each, and for each piece of work


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n} threads in a kernel")
def test_threads_do_not_disturb_each_other(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = {(work, seed): work(seed) for work in WORK for seed in range(SEEDS)}
        barrier = threading.Barrier(len(alone))

        def check(work: Callable[[int], Tensor], seed: int) -> None:
            torch.set_num_threads(threads)  # of this thread
            barrier.wait(60)
            for _ in range(ROUNDS):
                assert torch.equal(work(seed), alone[work, seed]), work.__name__

        run_together([lambda key=key: check(*key) for key in alone])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("work", [optimizer_steps, factor_steps, functions, sweeps])
def test_work_while_another_thread_compiles(
    work: Callable[[int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is the whole process's: nothing here may take it for this thread's."""
    wanted = work(0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(work(0), wanted)


def in_a_fresh_process(how: str) -> list[str]:
    """What the first use of everything computes there."""
    command = [sys.executable, Path(__file__).with_name("thread_work.py"), how, str(SEEDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(900)  # five processes that import torch
def test_many_threads_use_everything_for_the_first_time_at_once() -> None:
    """Imports, registries, tables and regions are made once, whoever comes first."""
    alone = in_a_fresh_process("alone")
    assert len(set(alone)) == SEEDS * len(WORK)
    for _ in range(3):
        assert in_a_fresh_process("together") == alone


def test_one_plan_for_many_threads() -> None:
    """Verbs that only read may run on one plan at once."""
    w = torch.randn(400, 30)
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap(range(200), range(200, 400)))])
    wanted = plan.norms().clone()

    def read() -> None:
        for _ in range(50):
            assert torch.equal(plan.norms(), wanted)
            assert plan.coefficients() is not None
            assert torch.equal(pickle.loads(pickle.dumps(plan)).norms(), wanted)

    run_together([read] * 6)


@pytest.mark.parametrize("kind", ["TwoLayer", "Factorized"])
def test_one_problem_for_many_threads(kind: str) -> None:
    """Sweeps write into nothing of their problem, and a result is read by several."""
    X = torch.randn(30, 4, dtype=torch.float64)
    two_layer = kind == "TwoLayer"
    problem: Problem = (
        sf.problems.TwoLayer(X, X[:, :1], hidden=3)
        if two_layer
        else sf.problems.Factorized(X, X[:, 0])
    )

    def trained() -> SweepResult:
        return sf.sweep(problem, weight_decay=[0.01, 0.1], seeds=2, steps=30, batch_size=4)

    wanted = trained()

    def train_and_read() -> None:
        for _ in range(5):
            assert (trained().weights == wanted.weights).all()
            assert wanted.table.status.eq("finished").all()

    run_together([train_and_read] * 4)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is always with the GIL"
)
def test_the_kernels_do_not_ask_for_the_gil() -> None:
    code = "import sys, torch; a = sys._is_gil_enabled(); import symfast._C"
    subprocess.run([sys.executable, "-c", f"{code}; assert sys._is_gil_enabled() == a"], check=True)
