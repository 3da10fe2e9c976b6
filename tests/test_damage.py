# SPDX-License-Identifier: Apache-2.0
"""Damaged files: every command says in one sentence which file it is, and ends with a code."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from symfast.cli import app
from symfast.monitor_store import MonitorStore, read_monitor
from symfast.sweep import SweepResult, sweep
from symfast.sweep.config_file import read_sweep_file

TOML = """
[problem]
kind = "Factorized"
data = "diabetes"
[axes]
weight_decay = [0.1, 0.2]
[sweep]
seeds = 1
steps = 20
every = 10
chunk = 1
"""


class Pair(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def noise(content: bytes) -> bytes:
    """As many random bytes."""
    return np.random.default_rng(0).bytes(len(content))


def flipped(content: bytes) -> bytes:
    """A twentieth of the bytes replaced."""
    chance, found = random.Random(0), bytearray(content)
    for _ in range(len(found) // 20 + 8):
        found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)


#: What can happen to a file's bytes.
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zero length": lambda content: b"",
    "first half": lambda content: content[: len(content) // 2],
    "all but the end": lambda content: content[:-9],
    "random": noise,
    "a twentieth random": flipped,
    "text": lambda content: b"Not what you think\n" * 20,
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(done: Result) -> str:
    """What the command said, in one line without the frame that typer draws."""
    return " ".join(done.output.replace("│", " ").split())


def fails_in_words(done: Result, path: Path) -> None:
    """Exit code 1 or 2, a sentence that names the file, no traceback."""
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code in (1, 2), words(done)
    assert path.name in words(done).replace(" ", ""), words(done)
    assert "Traceback" not in done.output


@pytest.fixture(params=["safetensors", "pt"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"model.{request.param}"
    state = Pair().state_dict()
    if request.param == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "a twentieth random"])
def test_checkpoints(checkpoint: Path, damage: str, tmp_path: Path) -> None:
    checkpoint.write_bytes(DAMAGE[damage](checkpoint.read_bytes()))
    good = tmp_path / "good.safetensors"
    save_file(Pair().state_dict(), good)
    model, shape, out = f"{__name__}:Pair", ["--input", "8,3"], tmp_path / "out"
    commands: list[list[object]] = [
        ["inspect", checkpoint, "--html", out],
        ["compress", model, "--weights", checkpoint, *shape, "--out", out],
        ["compress", model, "--weights", good, "--input", checkpoint, "--out", out],
        ["align", model, "--weights", good, "--anchor", checkpoint, *shape, "--out", out],
    ]
    for command in commands:
        fails_in_words(run(*command), checkpoint)
        assert not out.exists()


def test_a_checkpoint_with_flipped_bytes_is_read_or_refused(checkpoint: Path) -> None:
    """Flipped bits of a weight are a weight; a broken header or archive is said."""
    content = checkpoint.read_bytes()
    for seed in range(60):
        chance, found = random.Random(seed), bytearray(content)
        for _ in range(chance.randint(1, 12)):
            found[chance.randrange(len(found))] = chance.randrange(256)
        checkpoint.write_bytes(bytes(found))
        done = run("inspect", checkpoint, "--quiet")
        if done.exit_code:
            fails_in_words(done, checkpoint)


def test_checkpoints_of_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"0.weight": torch.ones(2, 2)}, path)
    compress = ["compress", f"{__name__}:Pair", "--weights", path, "--input", "8,3"]
    fails_in_words(run(*compress), path)
    save_file({name: x[:1].clone() for name, x in Pair().state_dict().items()}, path)
    fails_in_words(run(*compress), path)
    save_file({"text": torch.ones(3, dtype=torch.int32)}, path)
    fails_in_words(run("inspect", path), path)


@pytest.mark.parametrize("name", ["zero length", "first half", "random", "text"])
def test_sweep_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_bytes(DAMAGE[name](TOML.replace("kind", "k='\n").encode()))
    fails_in_words(run("sweep", path), path)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[axes]", "[axis]", "tables problem, axes and sweep only"),
        ("[problem]", "problem = 3\n[axes.a]", "tables problem, axes and sweep only"),
        ('kind = "Factorized"', 'kind = "Perceptron"', "kind must be one of"),
        ('kind = "Factorized"', "kind = 7", "kind must be one of"),
        ('data = "diabetes"', "data = [1]", "data"),
        ("weight_decay = [0.1, 0.2]", "weight_decay = {start = 1}", "needs start, stop and count"),
        ("weight_decay = [0.1, 0.2]", 'weight_decay = ["a"]', "weight_decay"),
        (
            "weight_decay = [0.1, 0.2]",
            'weight_decay = {start = "a", stop = 1, count = 2}',
            "weight_decay",
        ),
        ("weight_decay = [0.1, 0.2]", "color = 1", "no axis 'color'"),
        ("steps = 20", 'steps = "many"', "steps"),
        ("steps = 20", "stops = 20", "no setting 'stops'"),
        ("seeds = 1", "seeds = -1", "seeds"),
        ("seeds = 1", "dtype = 3", "dtype"),
        ("chunk = 1", "chunk = 0", "chunk"),
    ],
)
def test_sweep_files_of_another_schema(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "sweep.toml"
    assert old in TOML
    path.write_text(TOML.replace(old, new))
    done = run("sweep", path)
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code in (1, 2)
    assert sentence in words(done)


def load(directory: Path) -> SweepResult:
    """The finished sweep, by Python."""
    file = read_sweep_file(directory / "sweep.toml")
    return sweep(file.problem, out=directory / "run", **file.arguments)


@pytest.fixture
def swept(tmp_path: Path) -> Callable[[], Result]:
    """A finished sweep in ``run``, and the command that reads it again."""
    (tmp_path / "sweep.toml").write_text(TOML)

    def again() -> Result:
        return run("sweep", tmp_path / "sweep.toml", "--out", tmp_path / "run", "--quiet")

    assert again().exit_code == 0
    return again


@pytest.mark.parametrize("name", list(DAMAGE))
@pytest.mark.parametrize("file", ["sweep.parquet", "manifest.json"])
def test_directories_of_sweeps(
    swept: Callable[[], Result], tmp_path: Path, file: str, name: str
) -> None:
    path = tmp_path / "run" / file
    before = path.read_bytes()
    path.write_bytes(DAMAGE[name](before))
    damaged = path.read_bytes()
    fails_in_words(swept(), path)
    assert path.read_bytes() == damaged, "it is the user's to delete"
    path.write_bytes(before)
    assert swept().exit_code == 0


@pytest.mark.parametrize("name", list(DAMAGE))
@pytest.mark.usefixtures("swept")
def test_series_of_sweeps(tmp_path: Path, name: str) -> None:
    """The command does not read them; Python does when it is asked for them."""
    path = tmp_path / "run" / "series.parquet"
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    with pytest.raises(ValueError, match=r"series\.parquet is damaged"):
        _ = load(tmp_path).series


def test_directories_of_another_schema(swept: Callable[[], Result], tmp_path: Path) -> None:
    for name in ("series.parquet", "sweep.parquet"):
        pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "run" / name)
    fails_in_words(swept(), tmp_path / "run" / "sweep.parquet")
    with pytest.raises(ValueError, match=r"series\.parquet has no column 'cell'"):
        _ = load(tmp_path).series


@pytest.mark.parametrize("name", list(DAMAGE))
def test_monitored_rows(tmp_path: Path, name: str) -> None:
    store = MonitorStore(tmp_path)
    for step in range(3):
        store.write([{"step": step, "group": "fc", "rank": 1.0}])
    part = tmp_path / "part-000001.parquet"
    part.write_bytes(DAMAGE[name](part.read_bytes()))
    with pytest.raises(ValueError, match=r"part-000001\.parquet is damaged"):
        read_monitor(tmp_path)
    with pytest.raises(ValueError, match=r"part-000001\.parquet is damaged"):
        store.finish()
    assert len(list(tmp_path.iterdir())) == 3  # nothing was removed
    part.unlink()
    assert read_monitor(tmp_path).step.tolist() == [0, 2]


def test_rows_of_another_schema(tmp_path: Path) -> None:
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "part-000000.parquet")
    with pytest.raises(ValueError, match="no column 'group'"):
        read_monitor(tmp_path)
