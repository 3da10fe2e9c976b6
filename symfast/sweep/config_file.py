# SPDX-License-Identifier: Apache-2.0
"""A sweep as a TOML file: problem, axes, settings."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from symfast import problems
from symfast.problems import Problem
from symfast.sweep.data import load
from symfast.sweep.optimizers import by_name
from symfast.symmetry import Symmetry, symmetry_from_dict

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser, before it joined the standard library
    import tomli as tomllib

_SETTINGS = {"seeds", "steps", "every", "out", "dtype", "device", "keep_weights", "chunk"}


@dataclass(frozen=True, eq=False)
class SweepFile:
    """What a file asks for: ``sweep(problem, **arguments)``."""

    problem: Problem
    arguments: dict[str, Any]


def read_sweep_file(path: str | Path) -> SweepFile:
    """Read a sweep from a TOML file.

    ``[problem]``: kind (a class of `symfast.problems`), data (see `symfast.sweep.data.load`) and
    further arguments of the class. Its optimizer is sgd (no momentum, unless an axis has it),
    momentum (sgd with 0.9, unless an axis has it), adam or adamw; mirrors of a TwoLayer are a list
    of tables such as ``{kind = "swap", a = [0], b = [1]}``, the ``to_dict`` of a symmetry.
    ``[axes]``: a value, a list of values, or a table of start, stop, count and a scale "linear" or
    "log".
    ``[sweep]``: seeds, steps, every, out, dtype, device, keep_weights, chunk, and options of the
    problem.

    Raises:
        ValueError: if the file cannot be read, or asks for what does not exist.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.sweep.config_file import read_sweep_file
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "lasso.toml"
        >>> _ = path.write_text('''
        ... [problem]
        ... kind = "Factorized"
        ... data = "diabetes"
        ... depth = [2, 3]
        ... [axes]
        ... weight_decay = {start = 0.01, stop = 1.0, count = 3, scale = "log"}
        ... [sweep]
        ... seeds = 2
        ... steps = 500
        ... ''')
        >>> [round(x, 9) for x in read_sweep_file(path).arguments["weight_decay"]]
        [0.01, 0.1, 1.0]
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as TOML: {error}") from error
    unknown = sorted(set(content) - {"problem", "axes", "sweep"})
    if unknown or any(not isinstance(x, dict) for x in content.values()):
        raise ValueError(f"{path} must have the tables problem, axes and sweep only, not {unknown}")
    if "problem" not in content:
        raise ValueError(f"{path} has no table [problem] with kind and data")
    table = dict(content["problem"])
    decided: dict[str, float] = {}
    if "optimizer" in table:
        table["optimizer"], decided = by_name(table["optimizer"])
    problem = _problem(str(path), table)
    settings = dict(content.get("sweep", {}))
    strange = sorted(set(settings) - _SETTINGS - set(problem.options))
    if strange:
        known = ", ".join(sorted(_SETTINGS | set(problem.options)))
        raise ValueError(f"{path}: [sweep] has no setting {strange[0]!r}; it has {known}")
    for name in {"steps", "every", "chunk"} & set(settings):
        if type(settings[name]) is not int:
            raise ValueError(f"{path}: {name} must be a whole number, not {settings[name]!r}")
    if "dtype" in settings:
        settings["dtype"] = _dtype(settings["dtype"])
    axes = {name: _values(name, values) for name, values in content.get("axes", {}).items()}
    lost = sorted(set(axes) - set(problem.axes) - {"noise"})
    if lost:
        raise ValueError(f"{path}: no axis {lost[0]!r}; there are {', '.join(problem.axes)}")
    return SweepFile(problem, settings | decided | axes)


def _problem(path: str, table: dict[str, Any]) -> Problem:
    """The problem that the table describes."""
    kinds = [name for name in problems.__all__ if name in ("Factorized", "TwoLayer")]
    kind, data = table.pop("kind", "Factorized"), table.pop("data", None)
    if kind not in kinds:
        raise ValueError(
            f"{path}: kind must be one of {', '.join(kinds)}, not {kind!r}; "
            "a Module needs Python: use symfast.sweep"
        )
    if not isinstance(data, str):
        raise ValueError(f'{path}: [problem] needs data, such as data = "diabetes"')
    if isinstance(table.get("depth"), list):
        table["depth"] = tuple(table["depth"])
    if "mirrors" in table:
        table["mirrors"] = [_symmetry(path, x) for x in table["mirrors"]]
    X, y, _ = load(data)
    try:
        made: Problem = getattr(problems, kind)(X, y, **table)
    except TypeError as error:
        raise ValueError(f"{path}: {kind} does not take these arguments: {error}") from error
    return made


def _symmetry(path: str, description: Any) -> Symmetry:
    """A symmetry by its ``to_dict``, lists of numbers as they stand."""
    if not isinstance(description, Mapping):
        raise ValueError(f'{path}: a mirror is a table such as {{kind = "swap", a = [0], b = [1]}}')
    try:
        return symmetry_from_dict(description)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _values(name: str, values: Any) -> Any:
    """One axis: as it is, or a range written out."""
    if not isinstance(values, Mapping):
        return values
    if set(values) - {"scale"} != {"start", "stop", "count"}:
        raise ValueError(f"the range of {name} needs start, stop and count, and may have a scale")
    numbers = [values[part] for part in ("start", "stop", "count")]
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
        raise ValueError(f"the range of {name} needs numbers, not {numbers}")
    start, stop, count = float(numbers[0]), float(numbers[1]), int(numbers[2])
    scale = values.get("scale", "linear")
    if scale not in ("linear", "log") or count < 1 or (scale == "log" and min(start, stop) <= 0):
        raise ValueError(f"the range of {name} must be linear, or log between positive numbers")
    if scale == "linear":
        return torch.linspace(start, stop, count, dtype=torch.float64).tolist()
    return torch.logspace(math.log10(start), math.log10(stop), count, dtype=torch.float64).tolist()


def _dtype(name: Any) -> torch.dtype:
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, not {name!r}")
    return torch.float32 if name == "float32" else torch.float64
