# SPDX-License-Identifier: Apache-2.0
"""Is a frame orthonormal? One check, batched over ragged frames."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from symfast.errors import SymmetryError

#: Largest allowed entry of ``|A^T A - I|``: rounding of a float32 QR with room to spare.
TOLERANCE = 1e-5


def as_frame(matrix: Any, what: str) -> torch.Tensor:
    """A detached float32 or float64 matrix (..., d, k) that owns its values.

    Raises:
        SymmetryError: (a ValueError) if it has no rows, is complex or not numeric.
    """
    try:
        frame = torch.as_tensor(matrix).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SymmetryError(f"{what} must be a matrix of numbers: {error}") from None
    if frame.is_complex():
        raise SymmetryError(f"{what} must be real, got {frame.dtype}")
    if frame.ndim == 0:
        raise SymmetryError(f"{what} must have at least one dimension, got a single number")
    if frame.ndim == 1:
        frame = frame.unsqueeze(-1)
    if frame.dtype not in (torch.float32, torch.float64):
        frame = frame.float()
    # a copy: the caller may go on changing his matrix after it was checked
    return frame.clone(memory_format=torch.contiguous_format)


def check_frames(frames: Sequence[torch.Tensor], what: str) -> None:
    """Refuse frames that are not finite or not orthonormal: ``max |A^T A - I| <= 1e-5``.

    Raises:
        SymmetryError: (a ValueError) naming the frame, the defect and the cure.

    Example:
        >>> import torch
        >>> from symfast.orthonormal import check_frames
        >>> check_frames([torch.eye(3)], "Mirror")
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        if frame.numel():
            by_shape[tuple(frame.shape)].append(number)
    for shape, numbers in by_shape.items():
        if shape[-1] > shape[-2]:
            raise SymmetryError(
                f"{what}: {shape[-1]} columns of length {shape[-2]} cannot be orthonormal; "
                "a frame has at most as many columns as rows"
            )
        batch = (
            frames[numbers[0]].unsqueeze(0)
            if len(numbers) == 1
            else torch.stack([frames[i] for i in numbers])
        )
        batch = batch.reshape(len(numbers), -1, *shape[-2:])
        defect = _defect(batch)
        if not bool((defect <= TOLERANCE).all()):
            _refuse(defect, numbers, what, len(frames) > 1)


def _defect(batch: torch.Tensor) -> torch.Tensor:
    """Max |A^T A - I| per frame; (frames, groups). Float32 sums of long columns stay below 1e-6."""
    gram = batch.mT @ batch
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return gram.abs_().amax((-2, -1))


def _refuse(defect: torch.Tensor, numbers: list[int], what: str, many: bool) -> None:
    worst = int(torch.nan_to_num(defect, nan=float("inf")).argmax())
    value = float(defect.flatten()[worst])
    frame, group = divmod(worst, defect.shape[1])
    where = (f" in entry {numbers[frame]}" if many else "") + (
        f" in group {group}" if defect.shape[1] > 1 else ""
    )
    if value != value or value == float("inf"):
        raise SymmetryError(f"{what}: the frame{where} holds NaN or infinity; give finite values")
    raise SymmetryError(
        f"{what}: the columns{where} are not orthonormal: max |A^T A - I| = {value:.3g}, "
        f"allowed {TOLERANCE:g}; pass orthonormalize=True or an orthonormal frame"
    )
