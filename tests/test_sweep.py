# SPDX-License-Identifier: Apache-2.0
"""The sweep on real and random problems: Lasso path, DCS threshold, store, figures, command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from symfast import ops
from symfast.cli import app
from symfast.problems import Factorized
from symfast.sweep import sweep
from symfast.sweep.data import load
from symfast.sweep.store import SweepMismatchError

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")


def small(depth: int | tuple[int, ...] = 2) -> Factorized:
    X = torch.randn(30, 4, dtype=torch.float64)
    return Factorized(X, X @ torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64), depth=depth)


def mirror_problem(depth: int | tuple[int, ...], k: int = 3) -> Factorized:
    frame = torch.linalg.qr(torch.randn(12, k, dtype=torch.float64)).Q
    X = torch.randn(60, 12, dtype=torch.float64)
    y = X @ torch.randn(12, dtype=torch.float64) + torch.randn(60, dtype=torch.float64)
    return Factorized(X, y, depth=depth, frame=frame)


def constrained_minimiser(problem: Factorized) -> Tensor:
    """Least squares on the plane O^T theta = 0."""
    assert problem.at.rotation is not None
    inside = problem.at.rotation[:, ~problem.factored]
    return inside @ torch.linalg.lstsq(problem.X @ inside, problem.y).solution


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lasso_path(dtype: torch.dtype) -> None:
    from symfast.demo import check_lasso, lasso_path

    X, y, _ = load("diabetes")
    problem = Factorized(X, y)
    lam = torch.logspace(0, -2.5, 24, dtype=torch.float64) * 1.12 * problem.threshold()
    result = sweep(problem, weight_decay=lam, seeds=4, steps=20_000, dtype=dtype)
    checks = check_lasso(problem, result, lasso_path(X, y, lam))
    assert all(check.holds for check in checks), checks


@needs_kernels
def test_orthonormal_design_is_soft_threshold() -> None:
    X = torch.linalg.qr(torch.randn(40, 6, dtype=torch.float64)).Q * 40**0.5
    problem = Factorized(X, torch.randn(40, dtype=torch.float64))
    result = sweep(problem, weight_decay=0.1, seeds=3, steps=20_000)
    z = problem.linear
    expected = (z.sign() * (z.abs() - 0.1).clamp(min=0)).expand(3, -1)
    near = {"atol": 1e-12, "rtol": 0.0}
    torch.testing.assert_close(torch.tensor(result.weights), expected, **near)


@needs_kernels
def test_dcs_threshold() -> None:
    """The mirror constraint holds exactly above the threshold, and only there."""
    problem = mirror_problem((1, 2))
    ratios = torch.tensor([0.25, 0.5, 0.8, 0.95, 1.05, 1.2, 2.0, 5.0], dtype=torch.float64)
    result = sweep(problem, weight_decay=ratios * problem.threshold(), seeds=2, steps=40_000)
    table = result.table.assign(ratio=result.table.weight_decay / problem.threshold())
    dcs = table.depth == 2
    assert table[dcs & (table.ratio > 1)].violation.max() < 1e-10
    assert table[dcs & (table.ratio < 1)].violation.min() > 1e-2
    assert table[~dcs].violation.min() > 1e-3  # the quadratic penalty never gets there
    above = torch.tensor(result.weights[(dcs & (table.ratio > 1)).to_numpy()])
    expected = constrained_minimiser(problem).expand_as(above)
    torch.testing.assert_close(above, expected, atol=1e-10, rtol=0)


@needs_kernels
def test_dcs_equals_proximal_gradient() -> None:
    problem = mirror_problem(2)
    lam = 0.5 * problem.threshold()
    result = sweep(problem, weight_decay=lam, steps=40_000)
    w, rate = (
        torch.zeros(12, dtype=torch.float64),
        1 / float(torch.linalg.eigvalsh(problem.gram)[-1]),
    )
    for _ in range(5000):
        w = w - rate * (problem.gram @ w - problem.linear)
        soft = w.sign() * (w.abs() - rate * lam).clamp(min=0)
        w = torch.where(problem.factored, soft, w)
    near = {"atol": 1e-10, "rtol": 0.0}
    torch.testing.assert_close(torch.tensor(result.weights[0]), problem.theta(w[None])[0], **near)


@needs_kernels
def test_replica_alone_is_bitwise_itself() -> None:
    problem = small((2, 3))
    grid = {"weight_decay": [0.05, 0.1, 0.2], "lr": [0.05, 0.1], "steps": 500}
    whole = sweep(problem, seeds=5, **grid)  # type: ignore[arg-type]
    row = whole.table.query("depth == 3 and lr == 0.1 and weight_decay == 0.2 and seed == 3")
    alone = sweep(
        Factorized(problem.X, problem.y, depth=3), weight_decay=0.2, lr=0.1, seeds=[3], steps=500
    )
    assert np.array_equal(whole.weights[row.index[0]], alone.weights[0])


def test_init_dwf_stays_in_its_range() -> None:
    X = torch.randn(60, 50, dtype=torch.float64)
    problem = Factorized(X, X[:, 0], depth=(2, 4), init="dwf", scale=0.1)
    for depth in (2, 4):
        product = problem.draw([depth] * 20, list(range(20)))[:, :depth].prod(1)
        assert float(product.abs().max()) < 0.2
        assert float(product.abs().min()) > 0.001


def test_diverged_cells_are_rows() -> None:
    result = sweep(small(), lr=[0.05, 500.0], weight_decay=[0.1, 0.2], seeds=2, steps=400)
    assert result.table.status.value_counts().to_dict() == {"finished": 4, "diverged": 4}
    assert result.table[result.table.lr == 500.0].steps.max() == 100
    result.plot("sparsity")


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    sweep(small(), seeds=3, steps=500, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1500, 1500)
    assert seen == sorted(seen)


def test_finished_directory_is_reused(tmp_path: Path) -> None:
    problem, grid = small(), {"weight_decay": [0.1, 0.2], "seeds": 2, "steps": 100}
    first = sweep(problem, out=tmp_path, **grid)  # type: ignore[arg-type]
    again = sweep(problem, out=tmp_path, **grid)  # type: ignore[arg-type]
    assert first.seconds > 0
    assert again.seconds == 0
    assert first.table.equals(again.table)
    assert np.array_equal(first.weights, again.weights)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1]
    assert manifest["versions"]["torch"] == torch.__version__


def test_unfinished_directory_is_completed(tmp_path: Path) -> None:
    problem, grid = small(), {"weight_decay": [0.1, 0.2, 0.3], "seeds": 3, "steps": 100, "chunk": 4}
    whole = sweep(problem, **grid)  # type: ignore[arg-type]
    calls = 0

    def dies(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(problem, out=tmp_path, progress=dies, **grid)  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("part-*.parquet"))) == 1
    resumed = sweep(problem, out=tmp_path, **grid)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "sweep.parquet"]
    assert resumed.table.equals(whole.table)


@pytest.mark.parametrize("change", [{"steps": 101}, {"seeds": 3}, {"dtype": torch.float32}])
def test_other_sweep_in_the_directory_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    problem, grid = small(), {"weight_decay": 0.1, "seeds": 2, "steps": 100}
    sweep(problem, out=tmp_path, **grid)  # type: ignore[arg-type]
    with pytest.raises(SweepMismatchError, match=next(iter(change))):
        sweep(problem, out=tmp_path, **(grid | change))  # type: ignore[arg-type]
    other = Factorized(problem.X * 2, problem.y)
    with pytest.raises(SweepMismatchError, match="data_sha256"):
        sweep(other, out=tmp_path, **grid)  # type: ignore[arg-type]


def test_figures_and_page(tmp_path: Path) -> None:
    result = sweep(small((2, 3)), weight_decay=[0.01, 0.1, 0.2], lr=[0.05, 0.1], seeds=2, steps=200)
    assert len(result.plot("loss").axes[0].lines) == 2  # the threshold lies outside
    assert result.plot("sparsity", x="weight_decay", y="lr").axes[0].get_ylabel().endswith("η")
    with pytest.raises(ValueError, match="no column of numbers called 'nonsense'"):
        result.plot("nonsense")
    page = result.to_html(tmp_path / "deep" / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": -1.0}, "lr must be finite and not negative"),
        ({"weight_decay": [0.1, 0.1]}, "same value twice"),
        ({"weight_decay": []}, "at least one value"),
        ({"seeds": 0}, "seeds must be"),
        ({"steps": 0}, "at least 1"),
        ({"dtype": torch.float16}, "dtype must be"),
    ],
)
def test_bad_sweeps_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sweep(small(), **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="problem must be"):
        sweep(torch.nn.Linear(2, 2), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"X": torch.ones(3)}, "X must be a matrix"),
        ({"y": torch.ones(4)}, "y must hold"),
        ({"X": torch.full((3, 2), torch.nan)}, "not finite"),
        ({"depth": 7}, "depth must be 1 to 6"),
        ({"depth": (2, 2)}, "must differ"),
        ({"frame": torch.ones(2, 1)}, "orthonormal"),
        ({"frame": torch.ones(3, 1)}, "frame must have shape"),
        ({"init": "zeros"}, "init must be"),
        ({"scale": -1.0}, "scale must be"),
    ],
)
def test_bad_problems_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Factorized(**({"X": torch.randn(3, 2), "y": torch.ones(3)} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["diabetes", "wine", "breast_cancer"])
def test_built_in_data_are_standardised(name: str) -> None:
    X, y, names = load(name)
    assert len(names) == X.shape[1]
    torch.testing.assert_close(X.square().mean(0), torch.ones(X.shape[1], dtype=torch.float64))
    assert float(y.mean().abs()) < 1e-12


def test_files_of_the_user(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(20, 3))
    csv, npz = tmp_path / "a.csv", tmp_path / "a.npz"
    np.savetxt(csv, table, delimiter=",", header="one,two,target", comments="")
    np.savez(npz, X=table[:, :2], y=table[:, 2])
    X, y, names = load(str(csv))
    assert names == ["one", "two"]
    torch.testing.assert_close(X, load(str(npz))[0])
    csv.write_text("a,b\n1,2\n1,x\n")
    for source, sentence in [
        (csv, "cannot be read"),
        (tmp_path / "b.npz", "there is no file"),
        ("x", "unknown"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            load(str(source))
    csv.write_text("a,b\n1,2\n1,3\n")
    with pytest.raises(ValueError, match="a is constant"):
        load(str(csv))


COMMAND = ["sweep", "--penalties", "4", "--seeds", "2", "--steps", "300"]


def test_command_json(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--depth", "2", "--depth", "3", "--json", "--out", str(out)]
    result = CliRunner().invoke(app, [*COMMAND, *options])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["rows"] == 16
    assert facts["status"] == {"finished": 16}
    assert len(facts["cells"]) == 8
    names = {"manifest.json", "sweep.parquet", "sparsity.png", "report.html"}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--quiet"], 0, ""),
        ([], 0, "8 finished"),
        (["--lr", "500"], 1, "diverged"),
        (["--data", "nonsense"], 2, "unknown data"),
        (["--depth", "9"], 2, "depth must be"),
        (["--penalties", "0"], 2, "penalties"),
        (["--dtype", "float16"], 2, "dtype"),
        (["--data", "missing.csv"], 2, "no file missing.csv"),
        (["--device", "nonsense"], 2, "cannot be used"),
    ],
)
def test_command_exit_codes(options: list[str], code: int, sentence: str) -> None:
    result = CliRunner().invoke(app, [*COMMAND, *options])
    assert result.exit_code == code, result.output
    assert sentence in " ".join(result.output.split())
    if options == ["--quiet"]:
        assert result.output == ""


def test_command_refuses_another_sweep(tmp_path: Path) -> None:
    first = CliRunner().invoke(app, [*COMMAND, "--quiet", "--out", str(tmp_path)])
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(app, [*COMMAND, "--quiet", "--lr", "0.05", "--out", str(tmp_path)])
    assert second.exit_code == 2
    assert "another sweep" in " ".join(second.output.replace("│", " ").split())
