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


@pytest.mark.timeout(280)
def test_ray_survives_a_killed_worker(tmp_path: Path) -> None:
    """Two local workers; the first chunk kills its own process, once."""
    pytest.importorskip("ray")
    script = f"""
import os, signal, pathlib, ray, torch
import symfast as sf
from symfast.problems import Factorized
class Deadly(Factorized):
    def train(self, state, replicas, stretch):
        flag = pathlib.Path({str(tmp_path / "killed")!r})
        if 0.3 in replicas.cells["weight_decay"] and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(state, replicas, stretch)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
problem = Deadly(torch.eye(3), torch.tensor([1.0, 0.5, 0.0]))
grid = dict(weight_decay=[0.1, 0.2, 0.3, 0.4], seeds=2, steps=50, chunk=2)
result = sf.sweep(problem, out={str(tmp_path / "out")!r}, ray=True, **grid)
whole = sf.sweep(Factorized(problem.X, problem.y), **grid)
assert result.table.equals(whole.table), result.table
assert (result.weights == whole.weights).all()
print("equal")
"""
    environment = os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert "equal" in found.stdout, found.stderr[-2000:]
    assert (tmp_path / "killed").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "sweep.parquet",
    ]
