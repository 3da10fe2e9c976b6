# SPDX-License-Identifier: Apache-2.0
"""The directory of a sweep survives kills, rivals and damage."""

import json
import multiprocessing as mp
import os
import random
import resource
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from symfast.files import create, remove_orphans, replacing
from symfast.problems import Factorized
from symfast.sweep import SweepMismatchError, sweep
from symfast.sweep.store import Store
from symfast.sweep.train import Part

GRID: dict[str, Any] = {"weight_decay": [0.1, 0.2, 0.3, 0.4], "lr": [0.05, 0.1], "seeds": 5}
GRID |= {"steps": 20, "every": 10, "chunk": 2}


def tiny() -> Factorized:
    return Factorized(torch.eye(3), torch.tensor([1.0, 0.5, 0.0]))


def resume(out: Path, parent: Connection) -> None:
    """A child that resumes the sweep and tells how far it is, until it is killed or finishes."""
    torch.set_num_threads(1)
    parent.send(0)
    sweep(tiny(), out=out, progress=lambda done, total: parent.send(done), **GRID)
    parent.send("finished")


def live(out: Path, reports: int, seconds: float) -> bool:
    """Kill a child some time after some reports; return whether it finished before."""
    mine, theirs = mp.get_context("fork").Pipe()
    child = mp.get_context("fork").Process(target=resume, args=(out, theirs))
    child.start()
    finished = any(mine.recv() == "finished" for _ in range(reports))
    if not finished:
        time.sleep(seconds)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return finished


@pytest.mark.usefixtures("one_thread")
def test_fifty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    whole = sweep(tiny(), **GRID)
    chance, moments, out, runs = random.Random(0), set(), tmp_path / "run-0", 0
    for _ in range(50):
        while live(out, chance.randint(1, 25), chance.uniform(0, 0.01)):
            check_equal(out, whole.table, whole.series)
            runs += 1
            out = tmp_path / f"run-{runs}"
        moments.add(len(list(out.glob("part-*.parquet"))) if out.exists() else -1)
    assert len(moments) > 5, "the kills fell on too few different moments"
    check_equal(out, whole.table, whole.series, computed=True)


def check_equal(
    out: Path, table: pd.DataFrame, series: pd.DataFrame | None, computed: bool = False
) -> None:
    """The directory holds the whole sweep, and nothing else."""
    again = sweep(tiny(), out=out, **GRID)
    assert computed or again.seconds == 0
    pd.testing.assert_frame_equal(again.table, table)
    assert again.series is not None
    assert series is not None
    pd.testing.assert_frame_equal(again.series, series)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["manifest.json", "series.parquet", "sweep.parquet"]


@pytest.mark.usefixtures("one_thread")
def test_three_processes_share_a_directory(tmp_path: Path) -> None:
    whole, context, out = sweep(tiny(), **GRID), mp.get_context("fork"), tmp_path / "run"
    children = []
    for _ in range(3):
        mine, theirs = context.Pipe()
        children.append((context.Process(target=resume, args=(out, theirs)), mine))
    for child, _ in children:
        child.start()
    for child, pipe in children:
        while pipe.recv() != "finished":
            pass
        child.join()
    check_equal(out, whole.table, whole.series)


def test_shards_meet(tmp_path: Path) -> None:
    whole, grid = sweep(tiny(), **GRID), dict(GRID)
    first = sweep(tiny(), out=tmp_path, shard=(0, 2), **grid)
    assert (len(first.table), first.missing) == (20, 20)
    assert "20 missing" in repr(first)
    second = sweep(tiny(), out=tmp_path, shard=(1, 2), **grid)
    pd.testing.assert_frame_equal(second.table, whole.table)
    with pytest.raises(ValueError, match="rank below"):
        sweep(tiny(), out=tmp_path, shard=(2, 2), **grid)
    with pytest.raises(ValueError, match="need out"):
        sweep(tiny(), shard=(0, 2), **grid)


def peak_of(cells: int, out: Path, result: Connection) -> None:
    """Bytes of the peak of a child, a sweep of some cells included."""
    torch.set_num_threads(1)
    X = torch.randn(20, 64, dtype=torch.float64)
    lam = torch.linspace(0.1, 1, cells, dtype=torch.float64)
    sweep(Factorized(X, X[:, 0]), weight_decay=lam, steps=1, out=out, chunk=500, keep_weights=True)
    result.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def test_memory_is_bounded_by_a_chunk(tmp_path: Path) -> None:
    """40 chunks need no more than 4: 36 chunks of weights alone would be 9 MB, with states 90."""
    context, peaks = mp.get_context("spawn"), []
    for cells in (2_000, 40_000):
        mine, theirs = context.Pipe()
        child = context.Process(target=peak_of, args=(cells, tmp_path / str(cells), theirs))
        child.start()
        peaks.append(mine.recv())
        child.join()
    # What grows with the sweep is its list of cells: at most 1,000 bytes a cell, so that 10^6
    # cells stay below 1 GB beside one chunk (CHUNK_BYTES = 1 GB).
    assert (peaks[1] - peaks[0]) / 38_000 < 1_000
    assert pq.read_metadata(tmp_path / "40000" / "sweep.parquet").num_rows == 40_000


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    sweep(tiny(), out=tmp_path, shard=(0, 2), **GRID)
    part = tmp_path / "part-000002.parquet"
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"part-000002\.parquet is damaged .* delete it"):
        sweep(tiny(), out=tmp_path, **GRID)
    assert not (tmp_path / "sweep.parquet").exists()
    part.unlink()
    whole = sweep(tiny(), **GRID)
    check_equal_after(tmp_path, whole.table)


def check_equal_after(out: Path, table: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(sweep(tiny(), out=out, **GRID).table, table)


def test_a_part_of_the_wrong_length_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, {"a": 1}, rows=4, chunk=2)
    with pytest.raises(ValueError, match="part 0 has 2 rows, not 1"):
        store.write(0, Part(pd.DataFrame({"x": [1]}), None, None))
    store.write(0, Part(pd.DataFrame({"x": [1, 2]}), None, None))
    (tmp_path / "part-000001.parquet").write_bytes((tmp_path / "part-000000.parquet").read_bytes())
    store.rows = 3
    with pytest.raises(ValueError, match="holds 2 rows instead of 1"):
        store.join()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a sweep manifest"),
        ('{"format": 1, "config": {}}', "is not a sweep manifest"),
        ('{"format": 2, "config": {}, "rows": 1, "chunk": 0, "versions": {}}', "is not a sweep"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=f"manifest.json {sentence}"):
        sweep(tiny(), out=tmp_path, **GRID)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_table_without_a_manifest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sweep.parquet").write_text("mine")
    with pytest.raises(ValueError, match=r"has a sweep.parquet but no manifest.json"):
        sweep(tiny(), out=tmp_path, **GRID)
    assert (tmp_path / "sweep.parquet").read_text() == "mine"


@pytest.mark.parametrize("change", [{"every": 5}, {"lr": 0.05}, {"keep_weights": False}])
def test_another_configuration_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    sweep(tiny(), out=tmp_path, **GRID)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SweepMismatchError, match=next(iter(change))):
        sweep(tiny(), out=tmp_path, **(GRID | change))
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_another_chunk_size_resumes(tmp_path: Path) -> None:
    sweep(tiny(), out=tmp_path, shard=(0, 2), **GRID)
    whole = sweep(tiny(), out=tmp_path, **(GRID | {"chunk": 7}))
    pd.testing.assert_frame_equal(whole.table, sweep(tiny(), **GRID).table)


def test_other_versions_are_said(tmp_path: Path) -> None:
    sweep(tiny(), out=tmp_path, shard=(0, 2), **GRID)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="was begun with"):
        sweep(tiny(), out=tmp_path, **GRID)


def test_weights_that_were_not_kept(tmp_path: Path) -> None:
    result = sweep(tiny(), out=tmp_path, **(GRID | {"keep_weights": False}))
    with pytest.raises(ValueError, match="weights were not kept"):
        _ = result.weights
    assert "w" not in pq.read_schema(tmp_path / "sweep.parquet").names


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create(path, {"one": 1})
    before = path.read_bytes()

    def fill() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk"):
        fill()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", before)]


def test_orphans_of_the_living_are_spared(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as file:
        file.write(b"x")
        remove_orphans(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
