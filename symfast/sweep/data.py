# SPDX-License-Identifier: Apache-2.0
"""Data for sweeps: sets that ship with scikit-learn, or a file of the user's."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUILT_IN = ("diabetes", "wine", "breast_cancer")


def load(source: str) -> tuple[Tensor, Tensor, list[str]]:
    """Return standardised X (n, d), y (n,) and the feature names.

    Every column, the target too, is shifted to mean 0 and scaled to standard deviation 1, so that
    one step size suits all problems; constant columns are refused.

    Args:
        source: "diabetes", "wine", "breast_cancer"; a .csv with a header line and the target in the
            last column; or a .npz with arrays X and y.

    Raises:
        ValueError: if the source is unknown, or the file does not hold usable numbers.

    Example:
        >>> from symfast.sweep.data import load
        >>> X, y, names = load("diabetes")
        >>> X.shape, names[2]
        (torch.Size([442, 10]), 'bmi')
    """
    path = Path(source)
    if source in BUILT_IN:
        X, y, names = _built_in(source)
    elif path.suffix in (".csv", ".npz") and not path.is_file():
        raise ValueError(f"there is no file {source}")
    elif path.suffix == ".csv":
        X, y, names = _from_csv(path)
    elif path.suffix == ".npz":
        X, y, names = _from_npz(path)
    else:
        known = ", ".join(BUILT_IN)
        raise ValueError(f"unknown data {source!r}: give one of {known}, a .csv or a .npz file")
    if X.ndim != 2 or len(X) < 2 or X.shape[1] < 1 or y.shape != X.shape[:1]:
        raise ValueError(f"{source} must hold X (n, d) and y (n,), got {X.shape} and {y.shape}")
    if not (np.isfinite(X).all() and np.isfinite(y).all()):
        raise ValueError(f"{source} holds missing or infinite values")
    for name, column in zip([*names, "the target"], [*X.T, y], strict=True):
        if np.ptp(column) == 0:
            raise ValueError(f"{source}: {name} is constant and cannot be standardised")
    standard = [torch.from_numpy((x - x.mean(0)) / x.std(0)) for x in (X, y)]
    return standard[0], standard[1], names


def _built_in(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """A data set from scikit-learn's own files."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(
            f"the data set {name} needs scikit-learn: pip install symfast[demo]"
        ) from error
    bunch = getattr(datasets, f"load_{name}")()
    return bunch.data.astype(np.float64), bunch.target.astype(np.float64), list(bunch.feature_names)


def _from_csv(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Header line, then numbers; the last column is the target."""
    try:
        with path.open(encoding="utf-8") as file:
            names = [name.strip() for name in file.readline().split(",")]
            rows = np.loadtxt(file, delimiter=",", ndmin=2, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as numbers below a header line: {error}"
        ) from error
    if rows.shape[1] != len(names):
        raise ValueError(f"{path}: {len(names)} names above {rows.shape[1]} columns")
    return rows[:, :-1], rows[:, -1], names[:-1]


def _from_npz(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Arrays X and y; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            X, y = (np.asarray(arrays[name], dtype=np.float64) for name in ("X", "y"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} must hold numeric arrays X and y: {error}") from error
    return X, y, [f"x{i}" for i in range(X.shape[-1])]
