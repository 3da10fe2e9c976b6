# SPDX-License-Identifier: Apache-2.0
"""A model by the name of what makes it, its weights from a file, and example inputs by shape."""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symfast.checkpoint import CheckpointError, open_checkpoint

#: ``[name=]2,12[:dtype][<high]``
_INPUT = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:,\d+)*)(?::(?P<dtype>\w+))?(?:<(?P<high>\d+))?"
)
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    + (torch.int64, torch.int32, torch.bool)
}


class ModelSourceError(ValueError):
    """The model, its weights or its example inputs are not what they should be."""


def make_model(source: str, weights: str | Path | None = None) -> tuple[nn.Module, list[str]]:
    """Call ``module:factory`` of one's own Python code, and load the weights of a file into it.

    The module is looked up from the working directory on. The file is only read for tensors.

    Args:
        source: ``"package.module:factory"``; the factory is called without arguments (a class of
            modules is one).
        weights: a ``.safetensors`` or ``torch.save`` file with the state_dict; None keeps what the
            factory made.

    Returns:
        the model in evaluation mode, and notes on tensors of the file that it has no place for.

    Raises:
        ModelSourceError: (a ValueError) if there is no such factory, it makes no module, or the
            file's tensors are missing or of other shapes.
        CheckpointError: (a ValueError) if the file is damaged or no checkpoint.

    Example:
        >>> from symfast.model_source import make_model
        >>> make_model("torch.nn:Identity")
        (Identity(), [])
    """
    module_name, found, name = source.partition(":")
    if not found or not name:
        raise ModelSourceError(
            f"the model is {source!r}; wanted MODULE:FACTORY, Python code that makes the module. A "
            "pickled module or exported program (.pt2) is not loaded: it can run any code"
        )
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        factory: Any = importlib.import_module(module_name)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise ModelSourceError(f"{source} cannot be found: {error}") from error
    model = factory() if callable(factory) and not isinstance(factory, nn.Module) else factory
    if not isinstance(model, nn.Module):
        raise ModelSourceError(f"{source} made a {type(model).__name__}, not a torch.nn.Module")
    return model.eval(), [] if weights is None else _load(model, Path(weights))


def _load(model: nn.Module, path: Path) -> list[str]:
    """Copy the file's tensors into the model, all or none; names without a place come back."""
    wanted = model.state_dict()
    with open_checkpoint(path) as checkpoint:
        names = [*checkpoint.shapes, *checkpoint.skipped]
        missing = [name for name in wanted if name not in names]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise ModelSourceError(
                f"{path} lacks {', '.join(missing[:5])}{more}, which the model has; the file has "
                f"{', '.join(names[:5])}, ..."
            )
        state = {name: checkpoint.read(name) for name in wanted}
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise ModelSourceError(
                f"{name} is {tuple(value.shape)} in {path} and {tuple(wanted[name].shape)} in the "
                "model"
            )
    model.load_state_dict(state)
    extra = [name for name in names if name not in wanted]
    return [f"{path.name} also holds {', '.join(extra[:5])}: not used"] if extra else []


def make_inputs(specs: Sequence[str], seed: int = 0) -> Any:
    """Example inputs from shapes, or from a file of named tensors.

    A spec is ``[NAME=]SHAPE[:DTYPE][<HIGH]``, such as ``"8,3"`` (normal numbers, float32),
    ``"input_ids=2,12:int64<30522"`` (whole numbers below 30522), ``"mask=2,12:bool"`` (all true);
    integers without a limit are ones. With names the model gets keywords. A single spec that is a
    file (``.safetensors``, or ``torch.save`` of a dict) gives its tensors as keywords.

    Raises:
        ModelSourceError: (a ValueError) if a spec says nothing, or names and positions are mixed.

    Example:
        >>> from symfast.model_source import make_inputs
        >>> {k: (v.shape, v.dtype) for k, v in make_inputs(["x=2,3:float64"]).items()}
        {'x': (torch.Size([2, 3]), torch.float64)}
    """
    if len(specs) == 1 and Path(specs[0]).is_file():
        with open_checkpoint(specs[0]) as checkpoint:
            names = [*checkpoint.shapes, *checkpoint.skipped]
            if not names:
                raise CheckpointError(Path(specs[0]), "holds no tensors to give the model")
            return {name: checkpoint.read(name) for name in names}
    generator = torch.Generator().manual_seed(seed)
    matches = [(spec, _INPUT.fullmatch(spec)) for spec in specs]
    found = [(_name(spec, match), _draw(spec, match, generator)) for spec, match in matches]
    named = {name: value for name, value in found if name is not None}
    if named and len(named) < len(found):
        raise ModelSourceError("give every input a different name, or none of them a name")
    return named or tuple(value for _, value in found)


def _name(spec: str, match: "re.Match[str] | None") -> str | None:
    if match is None:
        raise ModelSourceError(
            f"the input {spec!r} is no file and no [NAME=]SHAPE[:DTYPE][<HIGH], such as 8,3 or "
            "input_ids=2,12:int64<30522"
        )
    return match["name"]


def _draw(spec: str, match: "re.Match[str] | None", generator: torch.Generator) -> Tensor:
    assert match is not None
    shape = [int(size) for size in match["shape"].split(",")]
    name = match["dtype"] or ("int64" if match["high"] else "float32")
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise ModelSourceError(f"the input {spec!r} has dtype {name}; choose {', '.join(_DTYPES)}")
    if match["high"] is not None and (dtype.is_floating_point or int(match["high"]) < 1):
        raise ModelSourceError(f"the input {spec!r}: <HIGH is for whole numbers below HIGH >= 1")
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    if match["high"] is None:
        return torch.ones(shape, dtype=dtype)
    return torch.randint(int(match["high"]), shape, generator=generator).to(dtype)
