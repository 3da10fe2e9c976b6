# SPDX-License-Identifier: Apache-2.0
"""What users touch: axes, series, files, own loops, Optuna, Ray, torchrun, pages."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import symfast as sf
from symfast.cli import app
from symfast.problems import Factorized
from symfast.problems.problem import Axis, Replicas, State, Stretch, cell_key
from symfast.problems.theory import smallest_kept
from symfast.sweep import iterate, objective, sweep
from symfast.sweep.config_file import read_sweep_file


def tiny(depth: int | tuple[int, ...] = 2) -> Factorized:
    return Factorized(torch.eye(3), torch.tensor([1.0, 0.5, 0.0]), depth=depth)


class Named:
    """A problem that does nothing but say which replicas it is given."""

    axes = {
        "schedule": Axis("constant", choices=("constant", "cosine")),
        "label_noise": Axis(0.0),
        "batch_size": Axis(8, low=1, integer=True),
    }
    options = {"fast": False, "count": 3}
    replica_bytes = 1

    def start(self, replicas: Replicas, *, dtype: torch.dtype, device: torch.device) -> State:
        zeros = torch.zeros(len(replicas), dtype=torch.int64)
        return {"steps": zeros, "status": zeros.clone()}

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        state["steps"] += stretch.steps
        return state

    def measure(self, state: State, replicas: Replicas) -> dict[str, torch.Tensor]:
        return {"key": replicas.keys, "kind": replicas.cells["schedule"], "at": state["steps"]}

    def weights(self, state: State) -> torch.Tensor:
        return state["steps"][:, None]

    def describe(self) -> dict[str, Any]:
        return {"kind": "Named"}


def test_any_named_axis_is_swept() -> None:
    result = sweep(Named(), noise=[0.1, 0.2], schedule=["cosine", "constant"], seeds=2, steps=4)
    assert result.table.label_noise.tolist() == [0.1, 0.1, 0.2, 0.2] * 2
    assert result.table.schedule.tolist() == ["cosine"] * 4 + ["constant"] * 4
    assert result.table.kind.tolist() == [1.0] * 4 + [0.0] * 4
    assert result.table.batch_size.tolist() == [8] * 8
    assert result.table.groupby("key").cell.nunique().tolist() == [1] * 4
    alone = sweep(Named(), label_noise=0.2, schedule="cosine", steps=4)
    assert alone.table.key[0] == result.table.key[2]


def test_keys_do_not_depend_on_the_grid() -> None:
    axes = Named.axes
    assert cell_key(axes, {"batch_size": 8}) == cell_key(axes, {})
    assert cell_key(axes, {"batch_size": 9}) != cell_key(axes, {})
    assert 0 <= cell_key(axes, {"label_noise": 0.3}) < 1 << 63


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"lr": 0.1}, TypeError, "no axis or option called 'lr'; it has schedule"),
        ({"noise": 0.1, "label_noise": 0.2}, TypeError, "the same axis"),
        ({"schedule": "linear"}, ValueError, "one of constant, cosine"),
        ({"batch_size": 2.5}, ValueError, "whole number"),
        ({"batch_size": 0}, ValueError, "must be 1 to inf"),
        ({"label_noise": "much"}, ValueError, "label_noise must be a number, not 'much'"),
        ({"label_noise": [None]}, ValueError, "must hold numbers"),
        ({"fast": 1}, ValueError, "fast must be a bool"),
        ({"count": 0}, ValueError, "at least 1"),
        ({"every": 0}, ValueError, "at least 1"),
    ],
)
def test_bad_keywords_are_refused(
    arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        sweep(Named(), **arguments)


def test_series_has_every_step(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"lr": [0.1, 0.2], "seeds": 2, "steps": 25, "every": 10}
    result = sweep(tiny(), out=tmp_path, chunk=3, **grid)
    assert result.series is not None
    rows = result.series.query("cell == 1 and seed == 1")
    assert sorted(rows.step) == [0, 10, 20, 25]
    final = result.table.query("cell == 1 and seed == 1")
    assert float(rows[rows.step == 25].loss.iloc[0]) == float(final.loss.iloc[0])
    plain = sweep(tiny(), **(grid | {"every": None}))
    pd.testing.assert_frame_equal(
        result.table.drop(columns="residual"), plain.table.drop(columns="residual")
    )
    assert plain.series is None


def test_own_loop_resumes(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"lr": [0.1, 0.2], "kind": ["a", "b"], "seeds": 2}
    seen = []
    runs = iterate(out=tmp_path, **grid)
    for cell, seed in runs:
        seen.append((cell["lr"], cell["kind"], seed))
        runs.record(loss=seed, status="diverged" if len(seen) == 2 else "finished")
        if len(seen) == 3:
            break
    rest = iterate(out=tmp_path, **grid)
    for cell, seed in rest:
        seen.append((cell["lr"], cell["kind"], seed))
        rest.record(loss=seed)
    assert len(seen) == len(set(seen)) == len(rest) == 8
    result = rest.result()
    assert result.table.status.tolist() == ["finished", "diverged"] + ["finished"] * 6
    assert list(iterate(out=tmp_path, **grid)) == []
    result.plot("loss")
    with pytest.raises(ValueError, match="another sweep"):
        iterate(out=tmp_path, lr=[0.1, 0.3])


def test_own_loop_says_what_is_wrong() -> None:
    runs = iterate(lr=[0.1, 0.2])
    with pytest.raises(RuntimeError, match="inside a loop"):
        runs.record(loss=1.0)
    with pytest.raises(RuntimeError, match="has no record"):
        list(runs)
    _ = next(iter(runs))
    with pytest.raises(ValueError, match="names a hyperparameter"):
        runs.record(lr=1.0)
    with pytest.raises(ValueError, match="status must be"):
        runs.record(status="lost")
    with pytest.raises(ValueError, match="at least one axis"):
        iterate()


def test_optuna_finds_the_better_penalty() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {"weight_decay": (1e-3, 1.0, "log"), "lr": [0.1, 1e6]}
    function = objective(tiny(), "loss", space, steps=200, seeds=2)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(function, n_trials=12)
    assert study.best_params["weight_decay"] < 0.1
    states = {trial.params["lr"]: trial.state.name for trial in study.trials}
    assert states == {0.1: "COMPLETE", 1e6: "PRUNED"}
    assert len(study.best_trial.user_attrs) == 2


@pytest.mark.parametrize(
    ("space", "error"),
    [({"size": (0, 1)}, TypeError), ({"tol": (0, 1)}, TypeError), ({"lr": (1, 0)}, ValueError)],
)
def test_bad_spaces_are_refused(space: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        objective(tiny(), "loss", space)


FILE = """
[problem]
kind = "Factorized"
data = "diabetes"
depth = [2, 3]
[axes]
weight_decay = {start = 0.01, stop = 1.0, count = 3, scale = "log"}
lr = [0.05, 0.1]
[sweep]
seeds = 2
steps = 200
tol = 1e-9
"""


def test_command_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(FILE)
    command = ["sweep", str(tmp_path / "a.toml"), "--json", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["rows"] == 24
    assert facts["config"]["options"]["tol"] == 1e-9
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "exact threshold" in page
    refused = CliRunner().invoke(app, [*command, "--steps", "7"])
    assert refused.exit_code == 2
    assert "exclude each other" in " ".join(refused.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a = ", "cannot be read as TOML"),
        ("x = 1", "must have the tables"),
        ("[axes]\nlr = 1", "no table"),
        ('[problem]\nkind = "Module"', "needs Python"),
        ("[problem]\ndepth = 2", "needs data"),
        ('[problem]\ndata = "wine"\nwidth = 3', "does not take"),
        ('[problem]\ndata = "wine"\n[axes]\nwidth = 3', "no axis 'width'"),
        ('[problem]\ndata = "wine"\n[sweep]\nwidth = 3', "no setting 'width'"),
        ('[problem]\ndata = "wine"\n[sweep]\ndtype = "half"', "dtype must be"),
        ('[problem]\ndata = "wine"\n[axes]\nlr = {start = 1}', "needs start, stop and count"),
        (
            '[problem]\ndata = "wine"\n[axes]\nlr = {start = 0, stop = 1, count = 2, scale="log"}',
            "between positive",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_sweep_file(tmp_path / "a.toml")


def test_page_shows_values_and_theory(tmp_path: Path) -> None:
    X = torch.linalg.qr(torch.randn(40, 6, dtype=torch.float64)).Q * 40**0.5
    problem = Factorized(X, torch.randn(40, dtype=torch.float64), depth=(2, 3))
    lam = torch.logspace(-2, 0, 5)
    result = sweep(problem, weight_decay=lam, lr=[0.02, 0.1], seeds=2, steps=5000)
    soft = next(x for x in result.theory if x.label == "soft threshold")
    rows = result.table.query("depth == 2 and lr == 0.1").groupby("weight_decay").sparsity.mean()
    assert rows.tolist() == soft.y
    page = result.to_html(tmp_path / "a.html").read_text()
    assert "soft threshold" in page
    assert page.count("<title>") > 20
    assert "http" not in page
    assert "<script" not in page
    assert len(result.plot("sparsity").axes[0].lines) == 2 + 3
    grid = sweep(tiny(), weight_decay=lam, lr=[0.01, 0.02, 0.05, 500.0], seeds=2, steps=300)
    page = grid.to_html(tmp_path / "b.html").read_text()
    assert page.count("<rect") == 2 * (20 + 32)
    assert "runs diverged" in page
    with pytest.raises(ValueError, match="no column of numbers"):
        grid.to_html(tmp_path / "c.html", metrics=["nonsense"])


def test_local_threshold_of_the_law() -> None:
    """Kolb et al. 2025, onset derived: lam = 0.2 gives 0.387, 0.407, 0.386 for depths 3, 4, 6."""
    lam = torch.tensor(0.2, dtype=torch.float64)
    found = [round(float(smallest_kept(lam, depth)), 3) for depth in (3, 4, 6)]
    assert found == [0.387, 0.407, 0.386]


def test_ctrl_c_leaves_a_directory_that_resumes(tmp_path: Path) -> None:
    # whoever runs the tests in the background of a shell has interrupts ignored, here too
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from symfast.cli import app; app()"
    command = [sys.executable, "-c", start, "sweep", "--steps", "4000000", "--seeds", "16"]
    command += ["--penalties", "64", "--out", str(tmp_path / "out"), "--quiet"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "manifest.json").exists():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "run it again" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_names_are_public() -> None:
    assert sf.problems.Module.__name__ == "Module"
