# SPDX-License-Identifier: Apache-2.0
"""More than one process: shares of torchrun, and a Ray cluster that loses a worker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from symfast.cli import app
from symfast.sweep.cluster import shard_of_environment


def test_torchrun_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sweep", "--penalties", "4", "--seeds", "2", "--steps", "50", "--json"]
    command += ["--out", str(tmp_path)]
    rows = []
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 0, found.output
        rows.append(json.loads(found.stdout)["rows"])
    assert rows == [0, 8]  # one chunk: it is rank 0's
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="not a rank"):
        shard_of_environment()


_CLUSTER = """
import os, pathlib, signal, ray, torch
import symfast as sf
from symfast.problems import Factorized
from symfast.sweep import cluster
from typer.testing import CliRunner
from symfast.cli import app

work = pathlib.Path(WORK)
class Deadly(Factorized):
    deadly = 0.3
    def train(self, state, replicas, stretch):
        flag = work / f"killed {self.deadly}"
        if self.deadly in replicas.cells["weight_decay"] and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(state, replicas, stretch)
class Deadlier(Deadly):
    deadly = 0.2

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
data = torch.eye(3), torch.tensor([1.0, 0.5, 0.0])
grid = dict(weight_decay=[0.1, 0.2, 0.3, 0.4], seeds=2, steps=50, chunk=2)
whole = sf.sweep(Factorized(*data), **grid)
result = sf.sweep(Deadly(*data), out=work / "out", ray=True, **grid)
assert (work / "killed 0.3").exists()
assert result.table.equals(whole.table), result.table
assert (result.weights == whole.weights).all()

cluster.RETRIES = 0  # given up: said in words, and completed by a rerun
try:
    sf.sweep(Deadlier(*data), out=work / "again", ray=True, **grid)
except RuntimeError as error:
    assert "rerun computes the rest" in str(error), error
else:
    raise AssertionError("a chunk whose worker died was not missed")
assert (work / "killed 0.2").exists()
result = sf.sweep(Deadlier(*data), out=work / "again", ray=True, **grid)
assert result.table.equals(whole.table), result.table

command = ["sweep", "--penalties", "3", "--steps", "50", "--json", "--out"]
found = CliRunner().invoke(app, [*command, str(work / "shell"), "--ray"])
assert found.exit_code == 0, found.output
assert CliRunner().invoke(app, [*command, str(work / "alone")]).exit_code == 0
tables = [(work / name / "sweep.parquet").read_bytes() for name in ("shell", "alone")]
assert tables[0] == tables[1]
print("equal")
"""


@pytest.mark.timeout(600)
def test_ray_survives_a_killed_worker(tmp_path: Path) -> None:
    """Two local workers that kill themselves: rerun, given up and completed; then from a shell."""
    pytest.importorskip("ray")
    script = _CLUSTER.replace("WORK", repr(str(tmp_path)))
    environment = os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert "equal" in found.stdout, found.stderr[-2000:]
    for name in ("out", "again"):
        there = sorted(path.name for path in (tmp_path / name).iterdir())
        assert there == ["manifest.json", "sweep.parquet"]
