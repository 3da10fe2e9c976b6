# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a call: built-in exceptions that say what was given and wanted."""

from collections.abc import Iterable

import torch


class UnitsError(ValueError):
    """A list of (parameter, dim) is no unit matrix."""


class SymmetryError(ValueError):
    """A symmetry is malformed, or does not fit the units it is given."""


class PlanError(ValueError):
    """A plan cannot be made of its entries, or not be applied as asked."""


class ArtificialError(ValueError):
    """A parameter cannot be given an artificial symmetry, or not the one asked for."""


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
