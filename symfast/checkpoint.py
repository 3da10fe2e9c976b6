# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files read tensor by tensor: safetensors, or pickles without code (weights only)."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symfast.codes import ACCUMULATE
from symfast.extras import need


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or holds more than tensors."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")


@dataclass(frozen=True)
class Heads:
    """How many query and key-value heads the attention layers of a checkpoint have."""

    query: int
    key_value: int


class Checkpoint:
    """Names and shapes of a checkpoint; a tensor is read when it is asked for.

    Attributes:
        shapes: shape of every tensor that symfast can measure (float64, float32, bfloat16 or
            float16), by name, in the order of the file.
        dtypes: their types.
        skipped: name and reason of the others.

    Example:
        >>> import tempfile, torch
        >>> from symfast.checkpoint import open_checkpoint
        >>> path = tempfile.mkdtemp() + "/model.pt"
        >>> torch.save({"fc.weight": torch.ones(2, 3)}, path)
        >>> with open_checkpoint(path) as checkpoint:
        ...     checkpoint.shapes, checkpoint.read("fc.weight").sum().item()
        ({'fc.weight': (2, 3)}, 6.0)
    """

    def __init__(
        self,
        path: Path,
        facts: dict[str, tuple[tuple[int, ...], torch.dtype | str]],
        read: Callable[[str], Tensor],
    ) -> None:
        self.path = path
        usable = {name: dtype in ACCUMULATE for name, (_, dtype) in facts.items()}
        self.shapes = {name: shape for name, (shape, _) in facts.items() if usable[name]}
        self.dtypes = {name: facts[name][1] for name in self.shapes}
        self.skipped = {
            name: f"dtype {str(dtype).removeprefix('torch.')}"
            for name, (_, dtype) in facts.items()
            if not usable[name]
        }
        self._read = read
        self._turn = threading.Lock()

    def read(self, name: str) -> Tensor:
        """Read one tensor; threads wait for their turn.

        Raises:
            CheckpointError: (a ValueError) if its bytes are damaged.
        """
        try:
            with self._turn:
                return self._read(name)
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(self.path, f"{name} cannot be read: {error}") from error


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Checkpoint]:
    """Open a ``.safetensors`` file lazily, or a ``torch.save`` file of tensors (weights only).

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: (a ValueError) if it is damaged or no checkpoint.
        ModuleNotFoundError: if safetensors is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.checkpoint import open_checkpoint
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.pt"
        >>> _ = path.write_text("not a checkpoint")
        >>> try:
        ...     with open_checkpoint(path):
        ...         pass
        ... except ValueError as error:
        ...     print("is no checkpoint" in str(error))
        True
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a .safetensors, .pt or .bin file")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        with _open_safetensors(path) as checkpoint:
            yield checkpoint
    elif start[:2] in (b"PK", b"\x80\x02"):
        yield _open_pickle(path)
    else:
        raise CheckpointError(
            path, "is no checkpoint; it starts neither as safetensors nor as a torch.save file"
        )


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Checkpoint]:
    need(str(path), "models", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(path, f"is no readable safetensors file: {error}") from error

    def read(name: str) -> Tensor:
        try:
            tensor: Tensor = file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(path, f"{name} cannot be read: {error}") from error
        return tensor

    with file:
        facts: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {}
        for name in file.keys():  # noqa: SIM118  # no mapping, only this method
            part = file.get_slice(name)
            dtype = part.get_dtype()
            facts[name] = (tuple(part.get_shape()), _SAFETENSORS.get(dtype, dtype))
        yield Checkpoint(path, facts, read)


_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


def _open_pickle(path: Path) -> Checkpoint:
    import pickle
    import zipfile

    try:
        stored = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            path,
            "holds more than tensors, and symfast never runs code of a file; save "
            f"model.state_dict() instead ({str(error).splitlines()[0]})",
        ) from error
    except Exception as error:  # damaged bytes fail in as many ways as there are bytes
        raise CheckpointError(path, f"is no readable torch.save file: {error}") from error
    tensors = _tensors(stored)
    if not tensors:
        raise CheckpointError(path, "holds no tensors by name; wanted a state_dict")
    facts = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return Checkpoint(path, dict(facts), tensors.__getitem__)


def _tensors(stored: Any) -> dict[str, Tensor]:
    """Dense tensors of a state_dict, or of the state_dict inside a training checkpoint."""
    if not isinstance(stored, dict):
        return {}
    tensors = {
        str(name): tensor
        for name, tensor in stored.items()
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided
    }
    if tensors:
        return tensors
    for key in ("state_dict", "model", "model_state_dict", "module"):
        if inside := _tensors(stored.get(key)):
            return inside
    return {}


def read_heads(path: str | Path) -> Heads | None:
    """Numbers of heads from the ``config.json`` beside a checkpoint, or None.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.checkpoint import read_heads
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text('{"num_attention_heads": 12}')
        >>> read_heads(folder / "model.safetensors")
        Heads(query=12, key_value=12)
    """
    config = Path(path).parent / "config.json"
    if not config.is_file():
        return None
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # another program's file: its damage is not this checkpoint's
        return None
    query = facts.get("num_attention_heads") if isinstance(facts, dict) else None
    if not isinstance(query, int) or query < 1:
        return None
    key_value = facts.get("num_key_value_heads", query)
    return Heads(query, key_value if isinstance(key_value, int) and key_value >= 1 else query)


#: (query, key, value, output) of attention layers under the names people save them by.
_ATTENTION = (
    ("self.query", "self.key", "self.value", "output.dense"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("wq", "wk", "wv", "wo"),
    ("to_q", "to_k", "to_v", "to_out.0"),
)


def attention_layers(names: Iterator[str] | list[str]) -> dict[str, tuple[str, str, str, str]]:
    """Weights (query, key, value, output) of every attention layer, by the layer's name.

    Example:
        >>> from symfast.checkpoint import attention_layers
        >>> list(attention_layers([f"a.{x}_proj.weight" for x in "qkvo"]))
        ['a']
    """
    known = set(names)
    found: dict[str, tuple[str, str, str, str]] = {}
    for query, *others in _ATTENTION:
        ending = re.compile(rf"^(.*?){re.escape(query)}\.weight$")
        for name in sorted(known):
            match = ending.match(name)
            if match is None:
                continue
            prefix = match.group(1)
            key, value, output = (f"{prefix}{other}.weight" for other in others)
            if {key, value, output} <= known:
                layer = prefix.rstrip(".") or query
                found.setdefault(layer, (name, key, value, output))
    return found
