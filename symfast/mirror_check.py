# SPDX-License-Identifier: Apache-2.0
"""The checks at the edge of the mirror functions: theta, O and amounts, refused in words."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from symfast.codes import ACCUMULATE
from symfast.errors import (
    AmountError,
    BatchShapeError,
    DeviceError,
    DtypeError,
    FrameDtypeError,
    FrameShapeError,
    LayoutError,
    NotATensorError,
    NotOrthonormalError,
    ThresholdError,
)
from symfast.orthonormal import TOLERANCE


def require_pair(theta: Tensor, O: Tensor) -> None:
    """Refuse a theta (..., d) and O (..., d, k) that are no mirror problem, in words.

    Raises:
        TypeError: for anything but real dense tensors of dtypes that go together.
        ValueError: for two devices, sizes d that differ, or more than d columns.

    Example:
        >>> import torch
        >>> from symfast.mirror_check import require_pair
        >>> require_pair(torch.zeros(5, 3), torch.eye(3)[:, :2])
    """
    if not isinstance(theta, Tensor):
        raise NotATensorError("theta", theta)
    if not isinstance(O, Tensor):
        raise NotATensorError("O", O)
    if O.dtype != theta.dtype or O.dtype not in ACCUMULATE:
        _require_dtypes(theta, O)
    if theta.layout != torch.strided:
        raise LayoutError("theta", theta.layout)
    if O.layout != torch.strided:
        raise LayoutError("O", O.layout)
    if O.device != theta.device:
        raise DeviceError("O", O.device, theta.device)
    rows, frames = theta.shape, O.shape
    if len(rows) < 1 or len(frames) < 2:
        raise FrameShapeError(rows, frames, "too few dimensions")
    d, k = frames[-2], frames[-1]
    if rows[-1] != d:
        raise FrameShapeError(rows, frames, f"d is {rows[-1]} here and {d} there")
    if k > d:
        why = f"{k} columns in {d} dimensions cannot be orthonormal"
        raise FrameShapeError(rows, frames, why)


def _require_dtypes(theta: Tensor, O: Tensor) -> None:
    if theta.dtype not in ACCUMULATE:
        raise DtypeError("theta", theta.dtype)
    if O.dtype not in ACCUMULATE:
        raise DtypeError("O", O.dtype)
    half = theta.dtype not in (torch.float64, torch.float32)
    if O.dtype != theta.dtype and not (half and O.dtype == torch.float32):
        raise FrameDtypeError(theta.dtype, O.dtype)


def require_orthonormal(O: Tensor) -> None:
    """Refuse a frame whose columns are not orthonormal, naming the worst defect.

    Every entry of O^T O - I must be within 1e-5, and for half types within twice their spacing
    at 1: their entries carry that much rounding.

    Raises:
        NotOrthonormalError: naming the batch entry, the columns, and their length or product.

    Example:
        >>> import torch
        >>> from symfast.mirror_check import require_orthonormal
        >>> require_orthonormal(torch.eye(4)[:, 1:3])
    """
    tolerance = max(TOLERANCE, 2 * torch.finfo(O.dtype).eps)
    frame = O.detach().double()
    gram = frame.mT @ frame  # (..., k, k)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    defect = (gram - identity).abs().nan_to_num(nan=torch.inf)
    if bool((defect <= tolerance).all()):
        return
    where = [int(x) for x in torch.unravel_index(defect.argmax(), defect.shape)]
    batch, (i, j) = where[:-2], where[-2:]
    value = float(gram[tuple(where)])
    if value != value:
        what = "it holds NaN or infinity"
    elif i == j:
        what = f"column {i} has length {value**0.5:.6g}"
    else:
        what = f"columns {i} and {j} have inner product {value:.6g}"
    raise NotOrthonormalError(what + (f" in O{batch}" if batch else ""), tolerance)


def broadcast_batch(theta: Tensor, O: Tensor) -> tuple[int, ...]:
    """Return the common batch of theta (..., d) and O (..., d, k).

    Raises:
        FrameShapeError: if the batches do not broadcast.

    Example:
        >>> import torch
        >>> from symfast.mirror_check import broadcast_batch
        >>> broadcast_batch(torch.zeros(5, 1, 3), torch.zeros(4, 3, 2))
        (5, 4)
    """
    rows, frames = tuple(theta.shape[:-1]), tuple(O.shape[:-2])
    if not frames or rows == frames:
        return rows
    extra = len(rows) - len(frames)
    rows, frames = (1,) * -extra + rows, (1,) * extra + frames
    for a, b in zip(rows, frames, strict=True):
        if a != b and a != 1 and b != 1:
            raise FrameShapeError(theta.shape, O.shape, "their batches do not broadcast")
    return tuple(b if a == 1 else a for a, b in zip(rows, frames, strict=True))


def require_amount(
    name: str, value: Any, theta: Tensor, batch: tuple[int, ...], least: float | None = None
) -> float | Tensor:
    """Return a number as a float, or a tensor that broadcasts to the batch as it is.

    Only a number is compared with ``least``: looking into a tensor would stall a device.

    Raises:
        TypeError: for anything but real numbers.
        ValueError: for another device, a shape that does not broadcast, a number too small.

    Example:
        >>> import torch
        >>> from symfast.mirror_check import require_amount
        >>> require_amount("amount", 1, torch.zeros(5, 3), (5,))
        1.0
    """
    if isinstance(value, Tensor):
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise AmountError(name, value.dtype)
        if value.layout != torch.strided:
            raise LayoutError(name, value.layout)
        if value.device != theta.device:
            raise DeviceError(name, value.device, theta.device)
        tail = batch[len(batch) - value.dim() :]
        if value.dim() > len(batch) or any(
            a != b and a != 1 for a, b in zip(value.shape, tail, strict=True)
        ):
            raise BatchShapeError(name, value.shape, batch)
        return value
    if not isinstance(value, (float, int)) and not isinstance(value, Real):
        raise AmountError(name, value)
    number = float(value)
    if least is not None and not number >= least:  # so that NaN is refused too
        raise ThresholdError(number)
    return number


def require_entries(threshold: float | Tensor) -> None:
    """Refuse a threshold tensor with a negative or NaN entry.

    Raises:
        ThresholdError: naming the smallest entry.

    Example:
        >>> import torch
        >>> from symfast.mirror_check import require_entries
        >>> require_entries(torch.tensor([0.0, 1.0]))
    """
    if isinstance(threshold, Tensor) and not bool((threshold >= 0).all()):
        raise ThresholdError(float(threshold.min()))
