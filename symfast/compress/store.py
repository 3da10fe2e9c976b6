# SPDX-License-Identifier: Apache-2.0
"""A compressed model on disk: weights, an exported program and the proof, all or nothing."""

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from symfast.compress.record import CompressionProof
from symfast.compress.workbench import first_line
from symfast.extras import need
from symfast.files import write_whole
from symfast.find.graph import ONE_AT_A_TIME, as_arguments


def write_compressed(
    out: str | Path, model: nn.Module, example_input: Any, proof: CompressionProof
) -> list[str]:
    """Write ``model.safetensors``, ``model.pt2`` and ``proof.json`` to a new directory.

    The program needs no Python code of yours: ``torch.export.load("model.pt2").module()``. The
    directory is filled beside its place and then renamed.

    Returns:
        notes: why there is no program, if the model cannot be exported.

    Raises:
        FileExistsError: if ``out`` exists.
        ModuleNotFoundError: if safetensors is not installed.

    Example:
        >>> import pathlib, symfast as sf, tempfile, torch
        >>> from symfast.compress.store import write_compressed
        >>> x, out = torch.ones(2, 3), pathlib.Path(tempfile.mkdtemp()) / "small"
        >>> small, proof = sf.compress(torch.nn.Linear(3, 2), x)
        >>> write_compressed(out, small, x, proof), sorted(path.name for path in out.iterdir())
        ([], ['model.pt2', 'model.safetensors', 'proof.json'])
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; give a directory that does not")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        write_weights(fresh / "model.safetensors", model)
        notes = _write_program(fresh / "model.pt2", model, example_input)
        facts = proof.facts() | {"notes": [*proof.notes, *notes]}
        (fresh / "proof.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n")
        fresh.chmod(0o755)
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return notes


def write_weights(path: str | Path, model: nn.Module) -> None:
    """Write the state_dict as safetensors, whole or not at all; tied weights once per name.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import load_file
        >>> from symfast.compress.store import write_weights
        >>> path = tempfile.mkdtemp() + "/a.safetensors"
        >>> write_weights(path, torch.nn.Linear(3, 2))
        >>> sorted(load_file(path))
        ['bias', 'weight']
    """
    need(str(path), "models", "safetensors")
    from safetensors.torch import save

    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    write_whole(path, save(state))


def _write_program(path: Path, model: nn.Module, example_input: Any) -> list[str]:
    """Export the model in evaluation mode."""
    args, kwargs = as_arguments(example_input)
    mode = model.training
    try:
        with ONE_AT_A_TIME, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # export warns of its own insides
            program = torch.export.export(model.eval(), args, kwargs, strict=False)
            torch.export.save(program, path)
    except Exception as error:  # export fails in as many ways as there are models
        path.unlink(missing_ok=True)
        return [f"no model.pt2: torch.export failed: {first_line(error)}"]
    finally:
        model.train(mode)
    return []
