# SPDX-License-Identifier: Apache-2.0
"""Run truth cases and hold what came out."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from symfast.extras import need
from symfast.files import json_value
from symfast.ops import has_kernels
from symfast.verify import cases
from symfast.verify.case import Case, CaseResult

if TYPE_CHECKING:
    import pandas as pd

#: Cases that take longest, first: several processes then end at about the same time.
LONGEST = (20, 25, 1, 10, 11, 24, 14, 18, 21, 7)
#: Called before each case with (cases done, cases in all, name of the next), and at the end. With
#: several processes, before the first case and after each.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """One case that ran: its result, or the traceback of what it raised."""

    case: Case
    result: CaseResult | None
    seconds: float
    error: str = ""

    @property
    def verdict(self) -> Literal["passed", "FAILED", "ERROR"]:
        """Passed only if the case ran and all of its checks hold."""
        if self.result is None:
            return "ERROR"
        return "passed" if self.result.passed else "FAILED"


@dataclass(frozen=True)
class VerifyReport:
    """Everything `verify` measured.

    Attributes:
        outcomes: one per case, by number.
        quick: whether the small sizes ran.

    Example:
        >>> import symfast as sf
        >>> report = sf.verify(only=1, quick=True)
        >>> report.passed, report.rows[0]["verdict"]
        (True, 'passed')
    """

    outcomes: tuple[Outcome, ...]
    quick: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there is a case and every one of them passed."""
        return bool(self.outcomes) and all(x.verdict == "passed" for x in self.outcomes)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One plain row per check; a case that raised is one row with verdict ERROR."""
        rows: list[dict[str, Any]] = []
        for outcome in self.outcomes:
            where = {"case": outcome.case.number, "name": outcome.case.name}
            if outcome.result is None or not outcome.result.checks:
                rows.append(where | {
                    "claim": "the case runs and checks something", "source": outcome.case.source,
                    "expected": "no error", "measured": outcome.error or "no checks",
                    "tolerance": "", "verdict": "ERROR",
                })  # fmt: skip
                continue
            for check in outcome.result.checks:
                row = asdict(check)
                verdict = "passed" if row.pop("passed") else "FAILED"
                rows.append(where | row | {"verdict": verdict})
        return rows

    @property
    def table(self) -> "pd.DataFrame":
        """The rows as a pandas table: case, name, claim, source, expected, ..., verdict."""
        need("the table of a report", "demo", "pandas")
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_json(self) -> str:
        """One JSON object: passed, quick, facts, seconds per case, checks. NaN becomes null."""
        rows = [{k: json_value(v) for k, v in row.items()} for row in self.rows]
        seconds = {str(x.case.number): round(x.seconds, 3) for x in self.outcomes}
        whole = {"passed": self.passed, "quick": self.quick, "facts": self.facts,
                 "seconds": seconds, "checks": rows}  # fmt: skip
        return json.dumps(whole, indent=2, allow_nan=False)

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page with a figure per case; needs matplotlib and jinja2."""
        from symfast.report.verify_page import write_verify

        return write_verify(Path(path), self)

    def __str__(self) -> str:
        failed = sum(row["verdict"] != "passed" for row in self.rows)
        size = "quick" if self.quick else "full"
        seconds = sum(x.seconds for x in self.outcomes)
        took = f"{seconds:.0f} s"
        if self.facts.get("jobs", 1) > 1:
            took = f"{self.facts['wall']:.0f} s with {self.facts['jobs']} processes ({took} in all)"
        return (
            f"{len(self.outcomes)} cases ({size}), {len(self.rows)} checks, {failed} failed, {took}"
        )


def verify(
    only: Iterable[int] | int | None = None,
    quick: bool = False,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> VerifyReport:
    """Run the truth cases: every system of the field against its closed form.

    A case that raises is reported as an error, the others still run. Every case runs on one
    thread and seeds itself, so that results do not depend on ``jobs``; the random state and the
    number of threads are left as they were.

    Args:
        only: numbers of the cases to run; all of them if left out.
        quick: smaller sizes that still prove the claims, about 70 s of one core (full: 340 s).
        jobs: cases at a time, each in a process of its own. They are spawned: a script that asks
            for more than one needs ``if __name__ == "__main__":`` around the call.
        progress: called with (cases done, cases in all, name of the next case).

    Raises:
        ModuleNotFoundError: without the packages of the extra "demo".
        ValueError: if ``only`` names a case that does not exist, or none; if jobs < 1.

    Example:
        >>> import symfast as sf
        >>> report = sf.verify(only=[19], quick=True)
        >>> report.passed, report.rows[0]["case"]
        (True, 19)
    """
    need("verify", "demo", "sklearn", "scipy", "pandas")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    chosen, start = _choose(only), time.perf_counter()
    told = progress or (lambda done, total, name: None)
    jobs = min(jobs, len(chosen))
    if jobs > 1:
        outcomes = _beside(chosen, quick, jobs, told)
    else:
        outcomes = []
        with torch.random.fork_rng(devices=[]), _one_thread():
            for number, case in enumerate(chosen):
                told(number, len(chosen), case.name)
                outcomes.append(_run(case, quick))
    told(len(chosen), len(chosen), "done")
    facts = {"torch": torch.__version__, "kernels": has_kernels(), "jobs": jobs,
             "wall": round(time.perf_counter() - start, 1)}  # fmt: skip
    return VerifyReport(tuple(outcomes), quick, facts)


def _beside(chosen: list[Case], quick: bool, jobs: int, told: Progress) -> list[Outcome]:
    """Run cases in processes of their own; one that dies is an error of its case alone."""
    order = sorted(chosen, key=lambda c: LONGEST.index(c.number) if c.number in LONGEST else 99)
    found: dict[int, Outcome] = {}
    told(0, len(chosen), order[0].name)

    def finished(case: Case, outcome: Outcome) -> None:
        found[case.number] = outcome
        told(len(found), len(chosen), case.name)

    # a process that dies takes the pool along, with cases that are running or waiting: what is
    # left runs again, each in a pool to itself, where only the case that kills loses its verdict
    left: list[Case] = []
    with _processes(jobs) as pool:
        futures = {pool.submit(_run_number, case.number, quick): case for case in order}
        for future in as_completed(futures):
            try:
                finished(futures[future], Outcome(futures[future], *future.result()))
            except Exception:
                left.append(futures[future])
    for case in left:
        with _processes(1) as pool:
            try:
                outcome = Outcome(case, *pool.submit(_run_number, case.number, quick).result())
            except Exception as broken:  # it died, or what it found cannot be sent
                error = f"its process failed: {type(broken).__name__}: {broken}"
                outcome = Outcome(case, None, 0.0, error)
        finished(case, outcome)
    return [found[case.number] for case in chosen]


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that an interrupt ends at once: cases that run are killed, none begins."""
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin)
    try:
        yield pool
    except BaseException:
        workers = list(pool._processes.values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        raise
    pool.shutdown()


def _begin() -> None:
    """One thread a case; Ctrl-C reaches all processes of a terminal, the parent acts on it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_number(number: int, quick: bool) -> tuple[CaseResult | None, float, str]:
    (case,) = _choose(number)
    outcome = _run(case, quick)
    return outcome.result, outcome.seconds, outcome.error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Chains and replicas are small: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _choose(only: Iterable[int] | int | None) -> list[Case]:
    known = {case.number: case for case in cases()}
    if only is None:
        return list(known.values())
    numbers = sorted({only} if isinstance(only, int) else set(only))
    missing = [number for number in numbers if number not in known]
    if missing or not numbers:
        names = ", ".join(map(str, known))
        raise ValueError(f"there is no truth case {missing}; choose from {names}")
    return [known[number] for number in numbers]


def _run(case: Case, quick: bool) -> Outcome:
    start = time.perf_counter()
    torch.manual_seed(case.number)
    try:
        result, error = case.run(quick), ""
    except Exception:  # one broken case must not hide the verdict on the others
        result, error = None, traceback.format_exc(limit=-3)
    return Outcome(case, result, time.perf_counter() - start, error)
