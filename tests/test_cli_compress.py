# SPDX-License-Identifier: Apache-2.0
"""``symfast compress`` and ``symfast align``: files in and out, exit codes, nothing half-done."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner, Result

import symfast as sf
from symfast.cli import app
from symfast.model_source import ModelSourceError, make_inputs, make_model


class Planted(nn.Sequential):
    """A hidden layer of eight units."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def no_module() -> int:
    return 3


MODEL = f"{__name__}:Planted"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Two of the eight units repeat another."""
    model = Planted()
    with torch.no_grad():
        for unit in (6, 7):
            model[0].weight[unit], model[0].bias[unit] = (
                2 * model[0].weight[1],
                2 * model[0].bias[1],
            )
    path = tmp_path / "net.safetensors"
    save_file(model.state_dict(), path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_compress_writes_a_smaller_model_and_its_proof(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    done = run("compress", MODEL, "--weights", weights, "-i", "8,3", "--out", out)
    assert done.exit_code == 0, done.output
    assert "parameters 50 -> 38" in done.output
    state = load_file(out / "model.safetensors")
    assert state["0.weight"].shape == (6, 3)
    proof = json.loads((out / "proof.json").read_text())
    assert proof["parameters_after"] == 38
    assert proof["stored_error"] < 1e-6
    assert [step["action"] for step in proof["steps"]] == ["duplicate", "cut"]
    full = Planted()
    full.load_state_dict(load_file(weights))
    plain = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    plain.load_state_dict(state)
    x = torch.randn(8, 3)
    program = torch.export.load(out / "model.pt2").module()
    torch.testing.assert_close(plain(x), full(x))
    torch.testing.assert_close(program(x), full(x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors", "small"]


def test_compress_speaks_json_and_is_quiet(weights: Path) -> None:
    shown = run("compress", MODEL, "--weights", weights, "-i", "8,3", "--json")
    assert json.loads(shown.stdout)["removed"] == {"0 -> relu -> 2": 2}
    assert run("compress", MODEL, "--weights", weights, "-i", "8,3", "-q").output.count("\n") == 1


def test_nothing_is_half_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    store = importlib.import_module("symfast.compress.store")  # sf.compress is a function
    monkeypatch.setattr(store, "_write_program", full_disk)
    done = run("compress", MODEL, "--weights", weights, "-i", "8,3", "--out", out)
    assert done.exit_code == 1
    assert "no space left" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_what_cannot_be_exported_is_said(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("torch.export.save", refuse)
    done = run("compress", MODEL, "--weights", weights, "-i", "8,3", "--out", tmp_path / "small")
    assert done.exit_code == 0, done.output
    assert "no such operator" in done.output
    assert not (tmp_path / "small" / "model.pt2").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["net.pt2", "-i", "8,3"], 2, "MODULE:FACTORY"),
        (["nowhere:net", "-i", "8,3"], 2, "cannot be found"),
        ([f"{__name__}:no_module", "-i", "8,3"], 2, "not a torch.nn.Module"),
        ([MODEL, "-i", "eight"], 2, "no file and no"),
        ([MODEL, "-i", "8,3:int7"], 2, "has dtype int7"),
        ([MODEL, "-i", "8,3:float32<7"], 2, "whole numbers below"),
        ([MODEL, "-i", "8,3<0"], 2, "whole numbers below"),
        ([MODEL, "-i", "8,3", "-i", "x=2"], 2, "different name"),
        ([MODEL, "-i", "8,4"], 1, "failed"),
        ([MODEL, "-i", "8,3", "--weights", "none.pt"], 2, "is no file"),
        ([MODEL, "-i", "8,3", "--out", "."], 2, "exists"),
        ([MODEL, "-i", "8,3", "--tol", "-1"], 2, "tol"),
    ],
)
def test_wrong_arguments_in_words(arguments: list[str], code: int, sentence: str) -> None:
    done = run("compress", *arguments)
    assert done.exit_code == code, done.output
    assert sentence in " ".join(done.output.replace("│", " ").split())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ModelSourceError, match=r"lacks 0\.weight"):
        make_model(MODEL, tmp_path / "other.pt")
    wide = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2))
    torch.save(wide.state_dict() | {"extra": torch.ones(1)}, tmp_path / "wide.pt")
    with pytest.raises(ModelSourceError, match=r"\(9, 3\) in .* and \(8, 3\) in the model"):
        make_model(MODEL, tmp_path / "wide.pt")
    torch.save(Planted().state_dict() | {"extra": torch.ones(1)}, tmp_path / "more.pt")
    assert "extra: not used" in make_model(MODEL, tmp_path / "more.pt")[1][0]
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    done = run("compress", MODEL, "-i", "8,3", "--weights", tmp_path / "broken.safetensors")
    assert done.exit_code == 1


def test_inputs_from_shapes_and_files(tmp_path: Path) -> None:
    ids, mask = make_inputs(["4,5<7", "4:bool"])
    assert ids.dtype == torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < 7
    assert mask.tolist() == [True] * 4
    save_file({"x": torch.ones(2, 3)}, tmp_path / "x.safetensors")
    found = make_inputs([str(tmp_path / "x.safetensors")])
    assert torch.equal(found["x"], torch.ones(2, 3))


def test_align_brings_a_shuffled_model_back(weights: Path, tmp_path: Path) -> None:
    model = Planted()
    save_file(model.state_dict(), tmp_path / "anchor.safetensors")
    x = torch.randn(8, 3)
    before = model(x)
    sf.find_symmetries(model, x)[0].apply_("permutation")
    torch.save(model.state_dict(), tmp_path / "moved.pt")
    out = tmp_path / "aligned.safetensors"
    options = ("--anchor", tmp_path / "anchor.safetensors", "-i", "8,3")
    done = run("align", MODEL, "--weights", tmp_path / "moved.pt", *options, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["after"] < 1e-5 < facts["before"]
    assert {move["kind"] for move in facts["moves"]} <= {"permutation", "rescale"}
    model.load_state_dict(load_file(out))
    torch.testing.assert_close(model(x), before)
    shown = run("align", MODEL, "--weights", tmp_path / "moved.pt", *options)
    assert "distance" in shown.output
    other = run("align", f"{__name__}:no_module", "--weights", weights, *options)
    assert other.exit_code == 2
