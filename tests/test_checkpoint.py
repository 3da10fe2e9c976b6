# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: read lazily, damaged ones refused in words, the command's exit codes."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import symfast as sf
from symfast.checkpoint import CheckpointError, open_checkpoint
from symfast.cli import app


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = {f"layer.self.{x}.weight": torch.randn(12, 12) for x in ("query", "key", "value")}
    found["layer.output.dense.weight"] = torch.randn(12, 12)
    found["layer.self.query.weight"][4:8] = torch.randn(4, 2) @ torch.randn(2, 12)  # head 1
    found["layer.self.query.bias"] = torch.randn(12)
    found["position_ids"] = torch.arange(5)[None]
    found["half"] = torch.randn(5, 7).bfloat16()
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(weights(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_file_equals_live_module(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(2, 4, 3))
    live = sf.inspect(model).table
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    torch.save(model.state_dict(), tmp_path / "b.pt")
    torch.save({"epoch": 3, "model": model.state_dict()}, tmp_path / "c.pt")
    torch.save(model.state_dict(), tmp_path / "d.bin", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt", "c.pt", "d.bin"):
        table = sf.inspect(tmp_path / name).table
        assert table.equals(live), name


def test_heads_are_read_by_name(file: Path) -> None:
    assert not [d for d in sf.inspect(file).diagnoses if "head" in d.name]
    report = sf.inspect(file, heads=3)
    ranks = {d.name: d.row["product_rank"] for d in report.diagnoses if d.product is not None}
    assert len(ranks) == 6
    assert ranks["layer head 1 QK"] == 2
    assert ranks["layer head 0 QK"] == ranks["layer head 1 VO"] == 4
    (file.parent / "config.json").write_text('{"num_attention_heads": 3}')
    assert len(sf.inspect(file).diagnoses) == len(report.diagnoses)
    assert all(not d.kinds for d in report.diagnoses)  # nothing is proved by a name


def test_grouped_queries_share_keys(tmp_path: Path) -> None:
    part = {"q": 8, "k": 4, "v": 4}
    found = {f"a.{x}_proj.weight": torch.randn(rows, 6) for x, rows in part.items()}
    found["a.o_proj.weight"] = torch.randn(6, 8)
    save_file(found, tmp_path / "m.safetensors")
    report = sf.inspect(tmp_path / "m.safetensors", heads=(4, 2))
    (third,) = (d for d in report.diagnoses if d.name == "a head 3 QK")
    q, k = found["a.q_proj.weight"][6:8].double(), found["a.k_proj.weight"][2:4].double()
    assert third.product is not None
    torch.testing.assert_close(third.product, torch.linalg.svdvals(q.T @ k)[:2])


def test_what_cannot_be_measured_is_said(file: Path) -> None:
    notes = sf.inspect(file).notes
    assert any("position_ids: dtype I64" in note for note in notes)
    assert any("1 tensors of one dim" in note for note in notes)


def damaged(tmp_path: Path) -> dict[str, Path]:
    save_file(weights(), tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    torch.save(weights(), tmp_path / "good.pt")
    zipped = (tmp_path / "good.pt").read_bytes()
    files = {
        "empty.safetensors": b"",
        "cut.safetensors": whole[: len(whole) // 2],
        "header.safetensors": whole[:8] + b"{" + b"x" * 200,
        "huge.safetensors": (2**60).to_bytes(8, "little") + b"{}",
        "text.pt": b"hello, this is no checkpoint",
        "cut.pt": zipped[: len(zipped) // 2],
        "code.pt": pickle.dumps({"a": Path}, protocol=2),
        "list.pt": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2, 3], tmp_path / "list.pt")
    save_file({"b": torch.ones(3)}, tmp_path / "flat.safetensors")
    return {name: tmp_path / name for name in [*files, "flat.safetensors"]}


def test_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    for name, path in damaged(tmp_path).items():
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            sf.inspect(path)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (Path(tmp_path / "exploded"),)

    torch.save({"w": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match="never runs code"):
        sf.inspect(tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()


def test_tensors_are_read_one_by_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(file) as checkpoint:
        assert checkpoint.shapes["layer.self.key.weight"] == (12, 12)
        assert torch.equal(checkpoint.read("half"), weights()["half"])
        with pytest.raises(CheckpointError, match="nothing cannot be read"):
            checkpoint.read("nothing")


def test_command(file: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["inspect", str(file), "--html", str(tmp_path / "page.html")])
    assert shown.exit_code == 0, shown.output
    assert "layer.self.key.weight" in shown.output.replace("\n", "")
    assert (tmp_path / "page.html").exists()
    as_json = runner.invoke(app, ["inspect", str(file), "--json", "--heads", "3"])
    assert len(json.loads(as_json.stdout)["groups"]) == 5 + 6
    quiet = runner.invoke(app, ["inspect", str(file), "-q"])
    assert quiet.output.count("\n") == 1
    (tmp_path / "broken.safetensors").write_bytes(file.read_bytes()[:100])
    broken = runner.invoke(app, ["inspect", str(tmp_path / "broken.safetensors")])
    assert broken.exit_code == 1
    assert "failed" in broken.output
    torch.save({"bias": torch.ones(3)}, tmp_path / "flat.pt")
    flat = runner.invoke(app, ["inspect", str(tmp_path / "flat.pt")])
    assert flat.exit_code == 1
    assert "no floating tensor of two dims" in flat.output.replace("\n", " ")
    assert runner.invoke(app, ["inspect", str(tmp_path / "no.pt")]).exit_code == 2
    assert runner.invoke(app, ["inspect", str(file), "--tol", "3"]).exit_code == 2
