# SPDX-License-Identifier: Apache-2.0
"""The main job end to end: ``python -m symfast.demo`` or ``make demo``.

One kernel call trains a whole weight-decay sweep on real data; it is checked against scikit-learn,
the pure-Python reference and theory, timed against torch, and written as table, figures and page.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from symfast import ops
from symfast.factor_sweep import factor_sweep
from symfast.problems import SUPPORT, Factorized
from symfast.progress import progress_bar, with_speed
from symfast.reference import factor_sweep as reference
from symfast.report.demo_page import Check, Timing, write_demo
from symfast.sweep import SweepResult, sweep
from symfast.sweep.data import load
from symfast.sweep.eager import eager_sweep
from symfast.sweep.store import MANIFEST, TABLE

if TYPE_CHECKING:
    import pandas as pd

DEPTHS, PENALTIES, SEEDS, STEPS = (2, 3, 4), 24, 4, 20_000
LR, MOMENTUM = 0.1, 0.9
SLICE = 100  # steps of the slow opponents; their time for a step is scaled to STEPS
# Pairs of blood values, each asked to share one weight: swap mirrors (e_a - e_b) / sqrt 2.
PAIRS = (("s1", "s2"), ("s3", "s4"), ("s5", "s6"))


def run(out: Path) -> bool:
    """Do the whole job, print it and write ``out``; return whether every check holds.

    Example:
        >>> from symfast.demo import run  # doctest: +SKIP
        >>> run(Path("runs/demo"))  # doctest: +SKIP
        True
    """
    console = Console()
    X, y, names = load("diabetes")
    problem = Factorized(X, y, depth=DEPTHS)
    lam = torch.logspace(0, -2.5, PENALTIES, dtype=torch.float64) * 1.12 * problem.threshold()
    kernels = "compiled kernels" if ops.has_kernels() else "NO COMPILED KERNELS: pure Python"
    console.rule("[bold]symfast demo[/bold]")
    console.print(
        f"diabetes, {len(X)} x {X.shape[1]}: {PENALTIES} penalties x {SEEDS} seeds x depths "
        f"{DEPTHS} = {PENALTIES * SEEDS * len(DEPTHS)} trainings of {STEPS:,} steps, "
        f"float64, seeds 0-{SEEDS - 1}, cpu, {torch.get_num_threads()} threads, {kernels}"
    )
    out.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, TABLE):  # a demo computes anew, a sweep would read what is there
        (out / name).unlink(missing_ok=True)
    with progress_bar(shown=True, label="one kernel call") as move:
        result = sweep(
            problem, lr=LR, momentum=MOMENTUM, weight_decay=lam, seeds=SEEDS, steps=STEPS, out=out,
            progress=with_speed(move),
        )  # fmt: skip
    with console.status("scikit-learn's coordinate descent"):
        lasso = lasso_path(X, y, lam)
    mirror, threshold = mirror_sweep(X, y, names)
    with console.status(f"{SLICE} steps of the opponents"):
        timings, slices = time_opponents(problem, result)
    checks = [*check_lasso(problem, result, lasso), *slices, *check_mirror(mirror, threshold)]
    _print_checks(console, checks)
    _print_timings(console, timings)
    write_demo(out, result, mirror, threshold, lasso, names, checks, timings)
    console.print(f"written: {', '.join(sorted(str(p) for p in out.iterdir() if p.is_file()))}")
    return all(check.holds for check in checks)


def lasso_path(X: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Minimisers (penalties, d) of ``1/(2n)||X w - y||^2 + lam ||w||_1`` by scikit-learn.

    Example:
        >>> import torch
        >>> from symfast.demo import lasso_path
        >>> lasso_path(torch.eye(2), torch.tensor([2.0, 0.2]), torch.tensor([0.5])).tolist()
        [[1.0, 0.0]]
    """
    from sklearn.linear_model import Lasso

    rows = []
    for alpha in lam.tolist():
        model = Lasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
        rows.append(model.fit(X.numpy(), y.numpy()).coef_)
    return torch.from_numpy(np.array(rows))


def check_lasso(problem: Factorized, result: SweepResult, lasso: Tensor) -> list[Check]:
    """Depth 2 against scikit-learn: objective, coefficients and support at every penalty."""
    rows = (result.table.depth == 2).to_numpy()
    w = torch.tensor(result.weights[rows]).reshape(len(lasso), SEEDS, -1)
    lam = torch.tensor(result.table.weight_decay.to_numpy()[rows]).reshape(len(lasso), SEEDS)
    ours = problem.loss(w) + lam * w.abs().sum(-1)
    best = problem.loss(lasso) + lam[:, 0] * lasso.abs().sum(-1)
    gap = float(((ours - best[:, None]) / best[:, None]).max())
    same = (w.abs() > SUPPORT) == (lasso.abs() > SUPPORT)[:, None]
    exact = int(same.all(-1).sum())
    away = float((w - lasso[:, None]).abs().max())
    return [
        Check("depth 2 = Lasso: relative objective gap", "<= 1e-7", f"{gap:.1e}", gap <= 1e-7),
        Check("depth 2 = Lasso: largest coefficient error", "<= 1e-3", f"{away:.1e}", away <= 1e-3),
        Check(
            "depth 2 = Lasso: support at 1e-4",
            f"{same.shape[0] * SEEDS} of {same.shape[0] * SEEDS}",
            f"{exact} of {same.shape[0] * SEEDS}",
            bool(same.all()),
        ),
    ]


def time_opponents(problem: Factorized, result: SweepResult) -> tuple[list[Timing], list[Check]]:
    """Time kernel, reference and torch loop, and compare their weights after a slice of steps."""
    table = result.table
    depths, seeds = table.depth.tolist(), table.seed.tolist()
    lam = torch.tensor(table.weight_decay.to_numpy())
    start, depth = problem.draw(depths, seeds), torch.tensor(depths)

    def train(operator: Any, steps: int) -> tuple[Tensor, float]:
        begin = time.perf_counter()
        found = factor_sweep(
            problem.gram, problem.linear, start, steps=steps, lr=LR, momentum=MOMENTUM, lam=lam,
            depth=depth, factored=problem.factored, operator=operator,
        )  # fmt: skip
        return found.weight, time.perf_counter() - begin

    kernel = min(train(None, STEPS)[1] for _ in range(5))
    slow = min(train(reference.factor_sweep, SLICE // 5)[1] for _ in range(5)) / (SLICE // 5)
    eager_w, eager = time_eager(depths, seeds, lam, problem)
    fast_w, slow_w = train(None, SLICE)[0], train(reference.factor_sweep, SLICE)[0]
    note = f"typical step of {SLICE}, scaled to {STEPS:,}"
    timings = [
        Timing("symfast, one kernel call", kernel, f"all {STEPS:,} steps, best of 5 calls"),
        Timing("pure-Python reference", slow * STEPS, note),
        Timing("torch loop: autograd + SGD, replicas stacked", eager * STEPS, note),
    ]
    checks = [
        Check(f"kernel = {name}, {SLICE} steps", "<= 1e-10", f"{gap:.1e}", gap <= 1e-10)
        for name, gap in (
            ("pure-Python reference", float((fast_w - slow_w).abs().max())),
            ("torch autograd + SGD", float((fast_w - eager_w).abs().max())),
        )
    ]
    return timings, checks


def time_eager(
    depths: list[int], seeds: list[int], lam: Tensor, problem: Factorized
) -> tuple[Tensor, float]:
    """Weights and seconds a step of the torch loop, with one thread or all: whichever is faster."""
    threads = torch.get_num_threads()
    found = []
    for count in {1, threads}:
        torch.set_num_threads(count)
        found.append(
            eager_sweep(problem, depths, seeds, lam.tolist(), lr=LR, momentum=MOMENTUM, steps=SLICE)
        )
    torch.set_num_threads(threads)
    return min(found, key=lambda pair: pair[1])


def mirror_sweep(X: Tensor, y: Tensor, names: list[str]) -> tuple["pd.DataFrame", float]:
    """Penalty weights around the exact-penalty threshold; depth 1 is the quadratic penalty."""
    frame = torch.zeros(len(names), len(PAIRS), dtype=torch.float64)
    for column, (a, b) in enumerate(PAIRS):
        frame[names.index(a), column], frame[names.index(b), column] = 0.5**0.5, -(0.5**0.5)
    problem = Factorized(X, y, depth=(1, 2), frame=frame)
    threshold = problem.threshold()
    ratios = torch.logspace(-1, 1, PENALTIES, dtype=torch.float64)
    result = sweep(
        problem, lr=LR, momentum=MOMENTUM, weight_decay=ratios * threshold, seeds=SEEDS, steps=STEPS
    )
    table = result.table.assign(ratio=result.table.weight_decay / threshold)
    return table, threshold


def check_mirror(table: "pd.DataFrame", threshold: float) -> list[Check]:
    """The DCS constraint holds exactly above the threshold only; a quadratic penalty never does."""
    dcs, quadratic = table[table.depth == 2], table[table.depth == 1]
    above = float(dcs[dcs.ratio > 1.05].violation.max())
    below = float(dcs[dcs.ratio < 0.95].violation.min())
    least = float(quadratic.violation.min())
    name = f"mirror constraint, λ* = {threshold:.4f}:"
    return [
        Check(f"{name} violation above 1.05 λ*", "0 (<= 1e-12)", f"{above:.1e}", above <= 1e-12),
        Check(f"{name} violation below 0.95 λ*", "> 1e-3", f"{below:.1e}", below > 1e-3),
        Check(f"{name} quadratic penalty, best", "> 1e-3, never 0", f"{least:.1e}", least > 1e-3),
    ]


def _print_checks(console: Console, checks: list[Check]) -> None:
    table = Table(title="What was claimed and what was measured")
    for name in ("claim", "expected", "measured", "verdict"):
        table.add_column(name, justify="left" if name == "claim" else "right")
    for check in checks:
        verdict = "[green]holds[/green]" if check.holds else "[bold red]FAILS[/bold red]"
        table.add_row(check.claim, check.expected, check.measured, verdict)
    console.print(table)


def _print_timings(console: Console, timings: list[Timing]) -> None:
    table = Table(title="Time for the whole sweep on this machine")
    for name in ("who", "seconds", "symfast is faster by", "how measured"):
        table.add_column(name, justify="right" if name.startswith(("sec", "sym")) else "left")
    for timing in timings:
        factor = f"{timing.seconds / timings[0].seconds:,.0f}x"
        table.add_row(timing.name, f"{timing.seconds:,.2f}", factor, timing.note)
    console.print(table)


if __name__ == "__main__":
    sys.exit(0 if run(Path("runs/demo")) else 1)
