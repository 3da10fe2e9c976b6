# SPDX-License-Identifier: Apache-2.0
"""Plans in many threads and in forked processes."""

import gc
import os
import signal
import threading
from collections.abc import Callable

import pytest
import torch

import symfast as sf
from symfast import plan_ops, plan_tables

apply_ = torch.ops.symfast.plan_apply_.default


def run_together(workers: list[Callable[[], None]]) -> None:
    """Run all at once; the first error of any is raised."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_run_verbs_while_others_make_and_drop_plans() -> None:
    gc.collect()
    before = len(plan_tables.KEPT)
    results = [torch.randn(300, 40) for _ in range(2)]

    def verbs(w: torch.Tensor) -> None:
        plan = sf.Plan([(w, sf.Swap(range(150), range(150, 300)))])
        for _ in range(200):
            plan.reflect_()
            plan.norms()

    def churn() -> None:
        for _ in range(100):
            w = torch.ones(6)
            sf.Plan([(w, sf.SignFlip([1]))]).project_()
            assert w.tolist() == [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]

    wanted = [w.clone() for w in results]
    run_together([*(lambda w=w: verbs(w) for w in results), churn, churn])
    assert all(torch.equal(w, v) for w, v in zip(results, wanted, strict=True))
    gc.collect()
    assert len(plan_tables.KEPT) <= before


def forever(call: Callable[[], object]) -> None:
    """Until it raises."""
    while True:
        call()


def test_a_plan_dropped_under_a_running_verb_is_refused_next_time() -> None:
    w = torch.randn(12, 5)
    key = plan_ops.store(sf.Plan([(w, sf.SignFlip([2]))])._compiled.parts[0].tables)
    started = threading.Event()

    def verbs() -> None:
        apply_([w], key, 0)
        started.set()
        with pytest.raises(RuntimeError, match="no plan under key"):
            forever(lambda: apply_([w], key, 0))

    def dropper() -> None:
        started.wait(60)
        plan_ops.drop(key)

    run_together([verbs, dropper])


def fork_while(churn: Callable[[], object], good: Callable[[], bool], children: int) -> None:
    """Fork while another thread repeats ``churn``; ``good`` must hold in every child, soon."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            churn()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        for _ in range(children):
            child = os.fork()
            if child == 0:  # no pytest in here
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(20)  # ends a child that waits for a mutex nobody holds
                os._exit(exit_code(good))
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def exit_code(good: Callable[[], bool]) -> int:
    try:
        return 0 if good() else 1
    except BaseException:
        return 2


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
ignored = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forks
@ignored
def test_plans_survive_a_fork() -> None:
    plan = sf.Plan([(torch.tensor([3.0, 4.0]), sf.SignFlip())])

    def store() -> None:
        plan_ops.drop(plan_ops.store(plan._compiled.parts[0].tables))

    fork_while(store, lambda: plan.norms().tolist() == [5.0], 20)


def constrained_step(w: torch.nn.Parameter) -> None:
    """A step and its constraint, of a plan that no optimizer has seen before."""
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap([0], [1]))])
    sf.optim.SGD([w], lr=1.0, plan=plan).step()


@forks
@ignored
def test_steps_survive_a_fork() -> None:
    """Which elements a plan's chunks may update is worked out under a mutex, here for long."""
    large, small = (torch.nn.Parameter(torch.ones(n, 2)) for n in (1 << 20, 3))
    large.grad = torch.zeros_like(large)
    small.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])

    def good() -> bool:
        torch.set_num_threads(1)
        constrained_step(small)
        return small.tolist() == [[0.5, 1.0], [0.5, 1.0], [1.0, 1.0]]

    constrained_step(large)  # imports what it needs: a child may inherit Python's import locks
    fork_while(lambda: constrained_step(large), good, 20)
