# SPDX-License-Identifier: Apache-2.0
"""Killed while it writes, a monitor loses nothing it had written, a command leaves no half file.

Children are forked, count their own accesses to files below one directory, and die at a random one
or shortly after, which is where the bytes go out. tests/test_store.py does the same to sweeps.
"""

import json
import multiprocessing as mp
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import symfast as sf
from symfast.cli import app
from symfast.monitor_store import MonitorStore, read_monitor
from symfast.verify.run import verify

KILLS = 50
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "tempfile.mkdtemp")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def die_below(directory: Path, touches: int, delay: float) -> None:
    """End this process some time after that many accesses to files of a directory."""
    seen, place = 0, str(directory)

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in TOUCHES and str(arguments[0]).startswith(place):
            seen += 1
            if seen == touches:
                if delay == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                signal.setitimer(signal.ITIMER_REAL, delay)  # its default action ends the process

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.addaudithook(count)


def killed(work: Callable[[], None], directory: Path, touches: int, delay: float) -> bool:
    """Whether a child that works died of it; a child that ends before has exit code 0."""

    def child() -> None:
        die_below(directory, touches, delay)
        work()

    process = mp.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    code = process.exitcode
    assert code in (0, -signal.SIGKILL, -signal.SIGALRM), f"the child ended with {code}"
    return code != 0


def test_a_monitor_keeps_what_it_wrote(tmp_path: Path) -> None:
    """Each child goes on where the files end; a row counts once the next one is being written."""
    chance, kills, out = random.Random(0), 0, tmp_path / "rows"
    said = tmp_path / "said"  # one byte a row: it grows in one system call
    said.touch()

    def work() -> None:
        store, begin = MonitorStore(out), said.stat().st_size
        with said.open("ab", buffering=0) as file:
            for step in range(begin, begin + 6):
                store.write([{"step": step, "group": "fc", "rank": float(step)}])
                file.write(b".")
        store.finish()

    while kills < KILLS:
        kills += killed(work, out, chance.randint(1, 30), chance.choice([0, chance.random() / 300]))
        written = said.stat().st_size
        if written:
            rows = read_monitor(out)
            assert rows.step.tolist()[:written] == list(range(written))
            assert len(rows) - written in (0, 1)  # one may be there that was not said yet
            assert (rows["rank"] == rows.step).all()
    MonitorStore(out).finish()
    assert [path.name for path in out.iterdir()] == ["monitor.parquet"]


class Pair(nn.Sequential):
    """Two layers with four hidden units."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@dataclass
class Command:
    """A command that writes ``out``, and what a whole ``out`` looks like."""

    arguments: list[str]
    out: Path
    is_whole: Callable[[Path], bool]
    share: int  # of the kills
    touches: int = 4  # of one run, below the directory of ``out``
    kills: int = 0
    states: set[bool] = field(default_factory=set)

    def run(self) -> None:
        app([*self.arguments, str(self.out), "--quiet"], standalone_mode=False)


def is_page(path: Path) -> bool:
    text = path.read_text()
    return text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")


def is_small_model(path: Path) -> bool:
    names = sorted(file.name for file in path.iterdir())
    program = torch.export.load(path / "model.pt2").module()
    return (
        names == ["model.pt2", "model.safetensors", "proof.json"]
        and "parameters_after" in json.loads((path / "proof.json").read_text())
        and len(load_file(path / "model.safetensors")) == 4
        and program(torch.ones(8, 3)).shape == (8, 2)
    )


@pytest.fixture
def commands(tmp_path: Path) -> list[Command]:
    model, anchor = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    for path in (model, anchor):
        save_file(Pair().state_dict(), path)
    source, shape = f"{__name__}:Pair", ["--input", "8,3"]
    places = [tmp_path / name for name in ("page", "aligned", "small")]
    for place in places:
        place.mkdir()
    page, aligned, small = places
    align = ["align", source, "--weights", model, "--anchor", anchor, *shape, "--out"]
    return [
        Command(["inspect", model, "--html"], page / "page.html", is_page, 20),
        Command(align, aligned / "w.safetensors", lambda path: len(load_file(path)) == 4, 22),
        Command(
            ["compress", source, "--weights", model, *shape, "--out"],
            small / "out", is_small_model, 8, touches=12,
        ),
    ]  # fmt: skip


@pytest.mark.timeout(900)
def test_commands_leave_whole_files_or_none(commands: list[Command]) -> None:
    chance = random.Random(1)
    assert sum(command.share for command in commands) == KILLS
    for command in commands:  # what this imports, no child has to
        command.run()
        assert command.is_whole(command.out)
        command.out.rename(command.out.with_name("first"))
    while left := [command for command in commands if command.kills < command.share]:
        command = left[0]
        touches, delay = chance.randint(1, command.touches), chance.choice([0, 1e-5, 1e-4, 1e-3])
        command.kills += killed(command.run, command.out.parent, touches, delay)
        there = command.out.exists()
        command.states.add(there)
        assert not there or command.is_whole(command.out)
        if there and command.out.is_dir():  # the command makes a new directory each time
            command.out.rename(command.out.with_name(f"done-{command.kills}-{chance.random()}"))
    for command in commands:
        assert command.states == {True, False} or command.out.is_file()
        if not command.out.exists():
            command.run()
        assert command.is_whole(command.out)


def test_pages_of_verify_and_reports_as_json(tmp_path: Path) -> None:
    """The same of what a result writes when it is asked to."""
    report, inspected = verify(only=[1], quick=True), sf.inspect(nn.Linear(3, 2))
    report.to_html(tmp_path / "first.html")  # what this imports, no child has to
    chance = random.Random(2)
    writers: dict[str, Callable[[Path], object]] = {
        "verify.html": report.to_html,
        "inspect.json": inspected.to_json,
    }
    for name, write in writers.items():
        out, kills = tmp_path / name / name, 0
        out.parent.mkdir()
        while kills < 10:
            touches = chance.randint(1, 3)
            kills += killed(lambda: write(out), out.parent, touches, chance.choice([0, 1e-4]))  # noqa: B023
            if out.exists():
                assert is_page(out) if name.endswith("html") else json.loads(out.read_text())
        write(out)
        assert [path.name for path in out.parent.iterdir()] == [name]
