# SPDX-License-Identifier: Apache-2.0
"""Symmetries with a dense frame of orthonormal columns: directions in unit space, any mirror."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from symfast.errors import SymmetryError
from symfast.orthonormal import as_frame, check_frames


@dataclass(frozen=True, eq=False)
class _Dense:
    """What Direction and Mirror share: a dense orthonormal frame, checked once."""

    matrix: torch.Tensor
    checked: bool
    kind: ClassVar[str]
    letter: ClassVar[str]

    def __init__(self, matrix: Any, *, orthonormalize: bool = False, check: bool = True) -> None:
        frame = as_frame(matrix, f"{type(self).__name__}({self.letter})")
        if orthonormalize and frame.numel():
            frame = torch.linalg.qr(frame.double()).Q.to(frame.dtype)
        if check:
            check_frames([frame], type(self).__name__)
        object.__setattr__(self, "matrix", frame)
        object.__setattr__(self, "checked", check)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Dense)
            and type(self) is type(other)
            and torch.equal(self.matrix, other.matrix)
        )

    def __hash__(self) -> int:
        return hash((self.kind, tuple(self.matrix.shape), float(self.matrix.double().sum())))

    def frame_rows(self, size: int) -> None:
        """Complain if the frame is not for ``size`` units."""
        if self.matrix.shape[-2] != size:
            raise SymmetryError(
                f"{type(self).__name__}({self.letter}) has {self.matrix.shape[-2]} rows, "
                f"but the parameters have {size} units"
            )

    def frame(self, size: int) -> torch.Tensor:
        """The dense frame (size, k) or (groups, size, k), float64."""
        self.frame_rows(size)
        return self.matrix.double()

    def to_dict(self) -> dict[str, Any]:
        """A plain description that survives JSON."""
        return {
            "kind": self.kind,
            "shape": list(self.matrix.shape),
            "dtype": str(self.matrix.dtype).removeprefix("torch."),
            self.letter: self.matrix.double().flatten().tolist(),
        }


class Direction(_Dense):
    """Rotation of units: k directions in unit space, each its own mirror.

    Frame ``A`` (m, k); ``A^T U = 0`` means that U loses those directions (low rank).
    Ziyin, ICML 2024, section 4 (rotation symmetry).

    Args:
        matrix: A, shape (m, k) or (m,), float32 or float64, orthonormal columns.
        orthonormalize: replace A by the Q of its QR factorisation instead of refusing it.

    Raises:
        SymmetryError: (a ValueError) if A is not finite or not orthonormal to 1e-5.

    Example:
        >>> import symfast as sf, torch
        >>> sf.Direction(torch.ones(4), orthonormalize=True).matrix.abs().flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """

    kind = "direction"
    letter = "A"

    def __init__(self, matrix: Any, *, orthonormalize: bool = False, check: bool = True) -> None:
        super().__init__(matrix, orthonormalize=orthonormalize, check=check)
        if self.matrix.ndim != 2:
            raise SymmetryError(f"Direction(A) takes (m, k), got shape {tuple(self.matrix.shape)}")

    def mirrors(self, size: int) -> list[int]:
        """Columns of the frame that belong to each mirror: one column per direction."""
        return [1] * self.matrix.shape[-1]


class Mirror(_Dense):
    """The general mirror ``theta -> (I - 2 O O^T) theta``: one mirror of k columns.

    On a plain tensor the frame acts on its last dimension, or on the whole flattened tensor when
    O has as many rows as the tensor has elements; O (G, d, k) gives G groups of one shape at once.
    On Units it acts on unit space like Direction, but all columns form one mirror (group prox
    and norms treat them together). Ziyin, ICML 2024, Definition 1.

    Args:
        matrix: O, shape (d, k), (d,) or (..., d, k), float32 or float64, orthonormal columns.
        orthonormalize: replace O by the Q of its QR factorisation instead of refusing it.
        check: False skips the orthonormality check here; a plan still makes it.

    Raises:
        SymmetryError: (a ValueError) if O is not finite or not orthonormal to 1e-5.

    Example:
        >>> import symfast as sf, torch
        >>> sf.Mirror(torch.eye(3)[:, :2]).mirrors(3)
        [2]
    """

    kind = "mirror"
    letter = "O"

    def mirrors(self, size: int) -> list[int]:
        """Columns of the frame that belong to each mirror: all k of every group."""
        return [self.matrix.shape[-1]] * int(np.prod(self.matrix.shape[:-2], dtype=np.int64))
