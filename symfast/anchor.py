# SPDX-License-Identifier: Apache-2.0
"""Anchor: a random point that weight decay pulls to, drawn again whenever it is needed."""

from dataclasses import asdict, dataclass

import torch

from symfast.codes import ACCUMULATE
from symfast.errors import DtypeError
from symfast.reference.anchor import anchor_normals

#: Numbers made at a time: the generator's temporaries are a dozen int64 tensors.
_PART = 1 << 18


@dataclass(frozen=True)
class Anchor:
    """Decay toward ``a = sigma N(seed, parameter, i)`` instead of zero (syre).

    The decay of an optimizer with weight decay ``lam`` becomes ``lam D (p - a)``. It removes every
    reflection symmetry of the loss with probability 1: at a symmetric point the force out of the
    plane is ``lam O^T a`` (O^T p = 0). The anchor is never stored; kernels draw it in registers
    from a counter, the same bits on CPU and GPU.

    Args:
        sigma: standard deviation of the anchor, >= 0.
        seed: 64 bits; checkpoints need only this number.
        spread: anisotropy in [0, 1): D is uniform in [1 - spread, 1 + spread), else 1. Continuous
            symmetries (rotations) need it.

    Raises:
        ValueError: if sigma, seed or spread is out of range.

    Source: Ziyin, Xu and Chuang, "Remove Symmetries to Control Model Expressivity", ICLR 2025.

    Example:
        >>> import symfast as sf
        >>> sf.Anchor(sigma=0.01, seed=1).to_dict()
        {'sigma': 0.01, 'seed': 1, 'spread': 0.0}
    """

    sigma: float
    seed: int = 0
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma < float("inf"):
            raise ValueError(f"Invalid anchor: sigma is {self.sigma}, it must be finite and >= 0")
        if not 0.0 <= self.spread < 1.0:
            raise ValueError(f"Invalid anchor: spread is {self.spread}, it must be in [0, 1)")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"Invalid anchor: seed is {self.seed}, it must be in [0, 2^64)")

    def to_dict(self) -> dict[str, float | int]:
        """The three numbers, as plain data.

        Example:
            >>> import symfast as sf
            >>> sf.Anchor(**sf.Anchor(0.1).to_dict()) == sf.Anchor(0.1)
            True
        """
        return asdict(self)

    def values(self, like: torch.Tensor, parameter: int = 0) -> torch.Tensor:
        """The anchor of one parameter, to look at: ``sigma N(seed, parameter, i)``.

        Args:
            like: a parameter; elements are numbered in the order of its memory.
            parameter: its number in the optimizer, counted over all groups.

        Returns:
            a tensor like ``like``.

        Raises:
            DtypeError: (a TypeError) if it is not float64, float32, bfloat16 or float16.

        Example:
            >>> import symfast as sf, torch
            >>> sf.Anchor(0.5, seed=3).values(torch.zeros(2, 3)).shape
            torch.Size([2, 3])
        """
        if like.dtype not in ACCUMULATE:
            raise DtypeError("like", like.dtype)
        out = torch.empty_like(like, memory_format=torch.preserve_format)
        flat = out.as_strided((like.numel(),), (1,), out.storage_offset())
        for start in range(0, like.numel(), _PART):
            i = torch.arange(start, min(start + _PART, like.numel()), device=like.device)
            z = anchor_normals(self.seed, parameter, i).to(ACCUMULATE[like.dtype])
            flat[start : start + _PART] = self.sigma * z
        return out
