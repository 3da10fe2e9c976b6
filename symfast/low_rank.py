# SPDX-License-Identifier: Apache-2.0
"""Weights as U V^T: weight decay on both is the nuclear norm, so singular values reach zero."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from symfast.artificial import Artificial, attach, find_parameter
from symfast.errors import ArtificialError
from symfast.factor_init import split


def low_rank(
    module: nn.Module, name: str, rank: int | None = None, *, beta: float = 0.0
) -> nn.Module:
    """Make a parameter ``W = U V^T``, whose weight decay is a penalty on its singular values.

    Decay lam on U and V (`factor_groups` sets it) is the penalty ``lam ||W||_*``: singular values
    below a threshold become zero. W is the parameter as a matrix (m, n), dim 0 against all others.
    The start is its singular value decomposition, ``U = P a``, ``V = Q b`` with ``a b = s`` and
    ``a^2 - b^2 = beta``: with the full rank the function of the module does not change but for
    rounding. With beta = 0 it is balanced, ``U^T U = V^T V``, as at every minimum; a singular value
    that is exactly zero then stays so. Ziyin, ICML 2024, double rotation symmetry.

    Args:
        module: the owner of the parameter, or any module above it; a tie to a parameter outside of
            it is not seen and comes apart: pass the module above both ends, which refuses ties.
        name: the parameter, "weight" or dotted; at least two dims.
        rank: columns of U and V, at most min(m, n), which it is if left out. Fewer than the rank
            of W drop its smallest singular values and so change the function.
        beta: imbalance of the start >= 0.

    Returns:
        the module itself.

    Raises:
        ArtificialError: (a ValueError) if the parameter is refused (see `symfast.factorize`) or an
            argument is out of range; nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = sf.low_rank(torch.nn.Linear(6, 4), "weight", rank=2)
        >>> torch.linalg.matrix_rank(layer.weight).item()
        2
    """
    owner, last, weight = find_parameter(module, name)
    if weight.ndim < 2:
        raise ArtificialError(f"{name!r} has shape {tuple(weight.shape)}; low rank needs two dims")
    full = min(weight.shape[0], weight.numel() // weight.shape[0])
    rank = full if rank is None else rank
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= full:
        raise ArtificialError(f"rank is {rank!r}; choose a whole number from 1 to {full}")
    if not 0 <= beta < math.inf:
        raise ArtificialError(f"beta is {beta}; it must be finite and not negative")
    attach(owner, last, LowRank(weight, rank, beta))
    return module


class LowRank(Artificial):
    """The parametrization behind `low_rank`: U (m, r) and V (n, r)."""

    depth = 2

    def __init__(self, weight: Tensor, rank: int, beta: float) -> None:
        super().__init__(weight)
        self.rank, self.beta, self.shape = rank, beta, tuple(weight.shape)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The weight."""
        U, V = tensors
        return (U @ V.T).reshape(self.shape).to(self.like.dtype)

    def right_inverse(self, weight: Tensor) -> Sequence[Tensor]:
        """U and V of a weight, by its singular value decomposition."""
        wide = self.wide(weight).flatten(1)
        P, s, Q = torch.linalg.svd(wide.double(), full_matrices=False)
        P, s, Q = P[:, : self.rank], s[: self.rank], Q[: self.rank]
        a = split(s, 2, self.beta)
        b = torch.where(a > 0, s / a, 0.0)
        # products keep the strides of the decomposition, which fully_shard refuses
        return [x.to(wide.dtype).contiguous() for x in (P * a, Q.T * b)]

    def fold(self, tensors: Sequence[Tensor], tol: float) -> Tensor:
        """The weight without its singular values below tol."""
        weight = self.forward(*tensors)
        P, s, Q = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
        if bool((s >= tol).all()):
            return weight
        kept: Tensor = (P * torch.where(s < tol, 0.0, s)) @ Q
        return kept.reshape(self.shape).to(self.like.dtype)

    def extra_repr(self) -> str:
        """What is factored."""
        return f"rank={self.rank} of {self.shape}"
