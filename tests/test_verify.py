# SPDX-License-Identifier: Apache-2.0
"""The truth cases hold, and the machinery around them reports what fails."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import symfast as sf
from symfast.cli import app
from symfast.report.verify_page import draw
from symfast.verify import cases
from symfast.verify import run as runner
from symfast.verify.case import (
    Case,
    CaseResult,
    Check,
    Curves,
    Series,
    at_least,
    at_most,
    near,
)

# torch's forward mode compiles its decompositions with it where it is used first
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
HERE = (4, 5, 6, 7, 15, 16, 17, 18, 19, 22)


@pytest.mark.parametrize("number", HERE)
def test_truth_case_holds(number: int) -> None:
    """Quick sizes at the tolerances of the full ones."""
    report = sf.verify(only=number, quick=True)
    assert report.passed, [row for row in report.rows if row["verdict"] != "passed"]
    (outcome,) = report.outcomes
    assert outcome.result is not None
    assert outcome.result.curves is not None
    for series in outcome.result.curves.series:
        assert len(series.x) == len(series.y) > 0
        assert all(math.isfinite(value) for value in series.y)


def test_every_case_has_its_own_number() -> None:
    numbers = [case.number for case in cases()]
    assert numbers == sorted(set(numbers))
    assert set(HERE) <= set(numbers)


def one(*checks: Check) -> Case:
    curves = Curves("x", "y", (Series("a", [0.0, 1.0], [0.0, math.nan]),), yscale="log")
    return Case(90, "made up", "nobody", lambda quick: CaseResult(checks, curves))


def broken(quick: bool) -> CaseResult:
    raise ZeroDivisionError("nothing there")


GOOD, BAD = at_most("holds", "nobody", 0.0, 1.0), at_most("fails", "nobody", math.nan, 1.0)


def use(monkeypatch: pytest.MonkeyPatch, *found: Case) -> None:
    monkeypatch.setattr(runner, "cases", lambda: found)


def test_failures_fail_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, one(GOOD, BAD), Case(91, "broken", "nobody", broken), Case(92, "empty", "",
        lambda quick: CaseResult(())))  # fmt: skip
    report = sf.verify()
    assert not report.passed
    assert [x.verdict for x in report.outcomes] == ["FAILED", "ERROR", "FAILED"]
    assert [row["verdict"] for row in report.rows] == ["passed", "FAILED", "ERROR", "ERROR"]
    assert "ZeroDivisionError: nothing there" in report.rows[2]["measured"]
    assert json.loads(report.to_json())["checks"][1]["measured"] is None
    assert list(report.table.case) == [90, 90, 91, 92]
    page = report.to_html(tmp_path / "new" / "page.html").read_text()
    assert page.count("data:image/png") == 1
    assert "90. made up: FAILED" in page


def test_nothing_is_not_a_pass() -> None:
    assert not CaseResult(()).passed
    assert not sf.VerifyReport((), True).passed
    with pytest.raises(ValueError, match="there is no truth case"):
        sf.verify(only=[4, 999])
    with pytest.raises(ValueError, match="choose from"):
        sf.verify(only=[])


@pytest.mark.parametrize(("checks", "code"), [((GOOD,), 0), ((GOOD, BAD), 1)])
def test_command(
    checks: tuple[Check, ...], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, one(*checks))
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["verify", "--quick", "--html", str(page)])
    assert result.exit_code == code
    assert "nobody" in result.stdout
    assert page.is_file()
    result = CliRunner().invoke(app, ["verify", "--json", "--only", "90"])
    assert result.exit_code == code
    assert json.loads(result.stdout)["passed"] is (code == 0)
    assert CliRunner().invoke(app, ["verify", "--only", "7"]).exit_code == 2


@pytest.mark.parametrize("page", ["/dev/null/page.html", "."])
def test_a_page_that_cannot_be_written_ends_the_command_before_any_work(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Case(90, "never", "", broken))
    result = CliRunner().invoke(app, ["verify", "--html", page])
    assert result.exit_code == 1
    assert "verify failed: the page cannot be written" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_ends_the_command_at_once(jobs: str) -> None:
    """As a terminal does it: every process of the group gets the signal."""
    # whoever runs the tests in the background of a shell has interrupts ignored, here too
    start = (
        "import os, signal, threading; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from symfast.cli import app; threading.Timer(5, os.killpg, (0, signal.SIGINT)).start(); "
        "app()"
    )
    cases = [word for number in ("1", "10", "11", "20") for word in ("--only", number)]
    command = [sys.executable, "-c", start, "verify", *cases, "--jobs", jobs]
    child = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, words = child.communicate(timeout=30)  # the cases themselves take minutes
    assert child.returncode == 130, words
    assert out == ""
    assert words.endswith("interrupted; nothing was written\n")


def test_random_state_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Case(90, "draws", "", lambda quick: CaseResult((at_most("", "", float(
        torch.rand(())), 1.0),))))  # fmt: skip
    before = torch.get_rng_state()
    first, second = sf.verify().rows[0]["measured"], sf.verify().rows[0]["measured"]
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_change_nothing() -> None:
    seen: list[tuple[int, int]] = []
    beside = sf.verify(
        only=(3, 9), quick=True, jobs=2, progress=lambda done, total, _: seen.append((done, total))
    )
    assert beside.facts["jobs"] == 2
    assert beside.rows == sf.verify(only=(3, 9), quick=True).rows
    assert seen == [(0, 2), (1, 2), (2, 2), (2, 2)]
    assert "with 2 processes" in str(beside)
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        sf.verify(only=3, jobs=0)


def dies_of_case_9(number: int, quick: bool) -> tuple[CaseResult | None, float, str]:
    if number == 9:
        os._exit(1)
    return runner._run_number(number, quick)


def test_only_the_case_that_kills_its_process_loses_its_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "_run_number", dies_of_case_9)
    report = sf.verify(only=(3, 9, 19), quick=True, jobs=2)
    assert [x.verdict for x in report.outcomes] == ["passed", "ERROR", "passed"]
    assert "its process failed" in report.outcomes[1].error


def test_a_process_killed_once_costs_no_verdict() -> None:
    killed: list[int] = []

    def kill(done: int, total: int, _: str) -> None:
        if done == 1 and not killed:
            child = multiprocessing.active_children()[0]
            killed.append(child.pid or 0)
            child.kill()

    report = sf.verify(only=(3, 9, 19), quick=True, jobs=2, progress=kill)
    assert killed
    assert report.passed


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, one(GOOD))
    seen: list[tuple[int, int, str]] = []
    sf.verify(progress=lambda *call: seen.append(call))
    assert seen == [(0, 1, "made up"), (1, 1, "done")]


def test_comparisons_fail_on_nan() -> None:
    for check in (at_most("", "", math.nan, 1), at_least("", "", math.nan, 1),
                  near("", "", 1.0, math.nan, 1), near("", "", math.nan, 1.0, 1)):  # fmt: skip
        assert not check.passed
    assert near("", "", -10.0, -9.5, 0.05, relative=True).passed
    assert not near("", "", -10.0, -9.4, 0.05, relative=True).passed


def test_figures_survive_zero_and_nan() -> None:
    figure = draw(one(GOOD).run(True).curves)  # type: ignore[arg-type]
    assert figure.axes[0].get_lines()[0].get_ydata()[0] == 1e-17
