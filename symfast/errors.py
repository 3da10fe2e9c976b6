# SPDX-License-Identifier: Apache-2.0
"""Exceptions that know their sentence, and the checks of a mirror problem that raise them."""

from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

#: Real dtypes symfast computes in; half types accumulate in float32.
DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


class NotATensorError(TypeError):
    """Something else was given where a tensor is wanted."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(f"{name} is a {type(value).__name__}; give a torch.Tensor")


class DtypeError(TypeError):
    """A tensor has a dtype that no mirror works on."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__(
            f"{name} is {dtype}; mirrors work on float64, float32, bfloat16 and float16: "
            f"convert it with {name}.to(...)"
        )


class FrameDtypeError(TypeError):
    """The dtype of O does not go with the dtype of theta."""

    def __init__(self, theta: torch.dtype, frame: torch.dtype) -> None:
        super().__init__(
            f"theta is {theta} and O is {frame}; O must have theta's dtype, or float32 beside "
            "a half-precision theta: use O.to(theta.dtype)"
        )


class LayoutError(TypeError):
    """A tensor is sparse or otherwise not strided."""

    def __init__(self, name: str, layout: torch.layout) -> None:
        super().__init__(f"{name} has layout {layout}; give a dense tensor, {name}.to_dense()")


class DeviceError(ValueError):
    """Two tensors of one call live on different devices."""

    def __init__(self, name: str, device: torch.device, wanted: torch.device) -> None:
        super().__init__(f"{name} is on {device} but theta is on {wanted}; move one of them")


class FrameShapeError(ValueError):
    """The shapes of theta and O do not belong together."""

    def __init__(self, theta: Iterable[int], frame: Iterable[int], why: str) -> None:
        super().__init__(
            f"theta {tuple(theta)} and O {tuple(frame)} do not fit: {why}; "
            "wanted theta (..., d) and O (..., d, k)"
        )


class BatchShapeError(ValueError):
    """An amount or threshold does not broadcast to the batch of the call."""

    def __init__(self, name: str, shape: Iterable[int], batch: Iterable[int]) -> None:
        super().__init__(
            f"{name} {tuple(shape)} does not broadcast to the batch {tuple(batch)}: "
            "give a number, or one entry per row of theta"
        )


class NotOrthonormalError(ValueError):
    """The columns of a frame are not orthonormal."""

    def __init__(self, defect: str, tolerance: float) -> None:
        super().__init__(
            f"O is not orthonormal: {defect} (tolerance {tolerance:.0e}); "
            "torch.linalg.qr(O).Q is, and spans the same space"
        )


class AmountError(TypeError):
    """An amount or threshold is not a real number."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(f"{name} is {value!r}; give a real number or a tensor of them")


class ThresholdError(ValueError):
    """A threshold is negative or not a number."""

    def __init__(self, value: float) -> None:
        super().__init__(f"threshold is {value}; a proximal step needs a threshold >= 0")


class ModeError(ValueError):
    """The mode of a proximal step is unknown."""

    def __init__(self, mode: object) -> None:
        super().__init__(f"mode is {mode!r}; choose 'l1' (per coefficient) or 'group' (per row)")


def require_pair(theta: Tensor, O: Tensor) -> None:
    """Refuse a theta (..., d) and O (..., d, k) that are no mirror problem, in words.

    Raises:
        TypeError: for anything but real dense tensors of dtypes that go together.
        ValueError: for two devices, sizes d that differ, or more than d columns.

    Example:
        >>> import torch
        >>> from symfast.errors import require_pair
        >>> require_pair(torch.zeros(5, 3), torch.eye(3)[:, :2])
    """
    for name, value in (("theta", theta), ("O", O)):
        if not isinstance(value, Tensor):
            raise NotATensorError(name, value)
        if value.dtype not in DTYPES:
            raise DtypeError(name, value.dtype)
        if value.layout != torch.strided:
            raise LayoutError(name, value.layout)
    half = theta.dtype == torch.bfloat16 or theta.dtype == torch.float16
    if O.dtype != theta.dtype and not (half and O.dtype == torch.float32):
        raise FrameDtypeError(theta.dtype, O.dtype)
    if O.device != theta.device:
        raise DeviceError("O", O.device, theta.device)
    if theta.dim() < 1 or O.dim() < 2:
        raise FrameShapeError(theta.shape, O.shape, "too few dimensions")
    d, k = O.shape[-2:]
    if theta.shape[-1] != d:
        raise FrameShapeError(theta.shape, O.shape, f"d is {theta.shape[-1]} here and {d} there")
    if k > d:
        why = f"{k} columns in {d} dimensions cannot be orthonormal"
        raise FrameShapeError(theta.shape, O.shape, why)


def require_orthonormal(O: Tensor, tolerance: float | None = None) -> None:
    """Refuse a frame whose columns are not orthonormal, naming the worst defect.

    Every entry of O^T O - I must be within the tolerance: 1e-10 for float64, 1e-5 for float32,
    and twice the spacing at 1 for half types, whose entries carry that much rounding.

    Raises:
        NotOrthonormalError: naming the batch entry, the columns, and their length or product.

    Example:
        >>> import torch
        >>> from symfast.errors import require_orthonormal
        >>> require_orthonormal(torch.eye(4)[:, 1:3])
    """
    if tolerance is None:
        wanted = {torch.float64: 1e-10, torch.float32: 1e-5}
        tolerance = wanted.get(O.dtype, 2 * torch.finfo(O.dtype).eps)
    frame = O.detach().double()
    gram = frame.mT @ frame  # (..., k, k)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    defect = (gram - identity).abs().nan_to_num(nan=torch.inf)
    if bool((defect <= tolerance).all()):
        return
    *batch, i, j = (int(x) for x in torch.unravel_index(defect.argmax(), defect.shape))
    value = float(gram[(*batch, i, j)])
    if value != value:
        what = f"column {j if bool(frame[(*batch, ..., j)].isnan().any()) else i} holds NaN"
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
        >>> from symfast.errors import broadcast_batch
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
        >>> from symfast.errors import require_amount
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
    if least is not None and not value >= least:  # so that NaN is refused too
        raise ThresholdError(float(value))
    return float(value)
