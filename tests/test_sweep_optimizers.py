# SPDX-License-Identifier: Apache-2.0
"""Optimizers by name, in files and on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from symfast.cli import app
from symfast.cli_sweep import Optimizer
from symfast.problems import Factorized
from symfast.sweep import sweep
from symfast.sweep.config_file import read_sweep_file
from symfast.sweep.data import load
from symfast.sweep.optimizers import NAMES

# adamw warns that its decay is no penalty
pytestmark = pytest.mark.filterwarnings("ignore:AdamW shrinks factors:UserWarning")
BASE = {"lr": 0.01, "weight_decay": 0.05}
WANTED = {
    "sgd": ("sgd", {"momentum": 0.0}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "adam": ("adam", {"momentum": 0.9, "beta2": 0.999, "eps": 1e-8}),
    "adamw": ("adamw", {"momentum": 0.9, "beta2": 0.999, "eps": 1e-8}),
}


def test_the_command_has_the_names_of_files() -> None:
    """It writes them out, since type checkers want an Enum's names in the source."""
    assert [optimizer.value for optimizer in Optimizer] == list(NAMES) == list(WANTED)


def in_python(rule: Any, axes: dict[str, float]) -> list[float]:
    X, y, _ = load("diabetes")
    table = sweep(Factorized(X, y, optimizer=rule), steps=50, seeds=2, **BASE, **axes).table
    return [float(x) for x in table.loss]


def by_file(tmp_path: Path, optimizer: str, extra: str = "") -> list[float]:
    lines = "".join(f"{name} = {value}\n" for name, value in BASE.items())
    (tmp_path / "a.toml").write_text(
        f'[problem]\ndata = "diabetes"\noptimizer = "{optimizer}"\n'
        f"[axes]\n{lines}{extra}[sweep]\nseeds = 2\nsteps = 50\n"
    )
    found = read_sweep_file(tmp_path / "a.toml")
    return [float(x) for x in sweep(found.problem, **found.arguments).table.loss]


def by_flags(*flags: str) -> dict[str, Any]:
    command = ["sweep", "--json", "--penalties", "2", "--seeds", "1", "--steps", "20", *flags]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("name", WANTED)
def test_file_means_what_python_means(tmp_path: Path, name: str) -> None:
    rule, axes = WANTED[name]
    assert by_file(tmp_path, name) == in_python(rule, axes)


def test_axes_of_a_file_go_before_the_name(tmp_path: Path) -> None:
    found = by_file(tmp_path, "momentum", "momentum = 0.5\n")
    assert found == in_python("sgd", {"momentum": 0.5})
    found = by_file(tmp_path, "adam", "momentum = 0.8\nbeta2 = 0.99\neps = 1e-6\n")
    assert found == in_python("adam", {"momentum": 0.8, "beta2": 0.99, "eps": 1e-6})


@pytest.mark.parametrize("name", WANTED)
def test_flags_reach_the_kernel(name: str) -> None:
    rule, axes = WANTED[name]
    config = by_flags("--optimizer", name)["config"]
    assert config["problem"].get("optimizer", "sgd") == rule
    assert {key: config["grid"][key] for key in axes} == {key: [axes[key]] for key in axes}
    assert config["grid"]["lr"] == [0.1 if rule == "sgd" else 0.001]


def test_numbers_are_flags() -> None:
    flags = [
        "--optimizer",
        "adam",
        "--lr",
        "0.02",
        "--momentum",
        "0.8",
        "--beta2",
        "0.99",
        "--eps",
        "1e-6",
    ]
    axes = by_flags(*flags)["config"]["grid"]
    found = [axes[name] for name in ("lr", "momentum", "beta2", "eps")]
    assert found == [[0.02], [0.8], [0.99], [1e-6]]


def test_no_name_is_momentum() -> None:
    plain, named = by_flags(), by_flags("--optimizer", "momentum")
    assert plain["cells"] == named["cells"]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["sweep", "--beta2", "0.9"])
    assert said.exit_code == 2
    assert "goes with --optimizer adam or" in " ".join(said.output.replace("│", " ").split())
    with pytest.raises(ValueError, match="one of sgd, momentum, adam, adamw, not 'lion'"):
        by_file(tmp_path, "lion")
    said = CliRunner().invoke(app, ["sweep", str(tmp_path / "a.toml"), "--optimizer", "adam"])
    assert said.exit_code == 2
    assert "exclude each other" in " ".join(said.output.replace("│", " ").split())


def test_adam_finds_the_lasso() -> None:
    """Coupled decay: the same minimum of the penalised loss as gradient descent."""
    X = torch.eye(3, dtype=torch.float64)
    y = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    ends = [
        sweep(Factorized(X, y, optimizer=rule), weight_decay=0.1, lr=lr, steps=20_000).table
        for rule, lr in (("sgd", 0.1), ("adam", 1e-3))
    ]
    assert abs(float(ends[0].objective[0]) - float(ends[1].objective[0])) < 1e-6
