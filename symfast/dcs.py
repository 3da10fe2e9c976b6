# SPDX-License-Identifier: Apache-2.0
"""Any mirror as a constraint that training reaches exactly: artificial symmetries."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from symfast.artificial import Artificial, attach, find_parameter
from symfast.errors import ArtificialError
from symfast.factor_init import keep_factors, split
from symfast.factor_op import multiply
from symfast.factorize import check_depth
from symfast.frames import Frame, frame_of
from symfast.symmetry import Symmetry


def dcs(
    module: nn.Module,
    name: str,
    symmetry: Symmetry,
    mode: Literal["l1", "group"] = "l1",
    depth: int = 2,
    beta: float = 1.0,
    *,
    dim: int | None = None,
) -> nn.Module:
    """Give a parameter an artificial symmetry whose mirror plane weight decay enforces exactly.

    ``theta = (I - O O^T) v + O (u * w)`` with v of the parameter's shape and u, w of its
    coefficients' (D factors in general). Decay lam on u and w alone (`factor_groups`) is the
    penalty ``lam ||O^T theta||_1``; in mode "group" all factors but one are one number per mirror
    and it is ``lam sum_mirrors ||O^T theta||_2``; at depth D the powers are 2 / D. Above a finite
    lam the constraint ``O^T theta = 0`` holds exactly: `symfast.penalty_threshold` says where.
    Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024, section on DCS;
    the k-dimensional form, its start and its threshold are derived.

    The function of the module does not change but for rounding; see `symfast.factorize` for names,
    dtypes, optimizers and what is refused.

    Args:
        module: the owner of the parameter, or any module above it; a tie to a parameter outside of
            it is not seen and comes apart: pass the module above both ends, which refuses ties.
        name: the parameter, "weight" or dotted.
        symmetry: SignFlip, Swap, Cluster or Direction of the units along ``dim`` (0 if left out),
            or Mirror(O): along the last dim, or on the whole parameter if O has that many rows, or
            with ``dim`` on its units, as in a `Plan`.
        mode: "l1" per coefficient, "group" per mirror.
        depth: D, 2 to 6.
        beta: imbalance of the start >= 0; with 0 no coefficient can change its sign.
        dim: the unit dim.

    Returns:
        the module itself.

    Raises:
        ArtificialError, SymmetryError: (ValueErrors) if parameter, symmetry or number do not fit;
            nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = torch.nn.Linear(3, 4)
        >>> _ = sf.dcs(layer, "weight", sf.Swap([0, 2], [1, 3]))
        >>> [tuple(p.shape) for p in layer.parametrizations.weight.parameters()]
        [(4, 3), (2, 3), (2, 3)]
    """
    owner, last, weight = find_parameter(module, name)
    check_depth(depth, beta)
    if mode not in ("l1", "group"):
        raise ArtificialError(
            f"mode is {mode!r}; choose 'l1' (per coefficient) or 'group' (per mirror)"
        )
    frame = frame_of(symmetry, weight, dim)
    attach(owner, last, ConstrainedWeight(weight, frame, mode, depth, beta))
    return module


class ConstrainedWeight(Artificial):
    """The parametrization behind `dcs`: v, and the factors of its coefficients."""

    def __init__(self, weight: Tensor, frame: Frame, mode: str, depth: int, beta: float) -> None:
        super().__init__(weight)
        self.frame, self.mode, self.depth, self.beta = frame, mode, depth, beta
        self.penalised = tuple(range(1, depth + 1))

    def coefficients(self, factors: Sequence[Tensor]) -> Tensor:
        """O^T theta, the product of the factors."""
        if self.mode == "l1":
            return multiply(list(factors))
        gates = factors[1] if len(factors) == 2 else multiply(list(factors[1:]))
        return factors[0] * self.frame.spread(gates)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The weight."""
        v = tensors[0]
        return self.frame.compose(v, self.coefficients(tensors[1:])).to(self.like.dtype)

    def right_inverse(self, weight: Tensor) -> Sequence[Tensor]:
        """V = the weight, and factors whose product are its coefficients."""
        wide = self.wide(weight)
        c = self.frame.coefficients(wide)
        if self.mode == "l1":
            return [wide.clone(), *keep_factors(c, self.depth, self.beta)]
        t = split(self.frame.norms(c), self.depth, self.beta)
        all_gates = self.frame.spread(t).pow(self.depth - 1)
        rest = torch.where(all_gates > 0, c.double() / all_gates, 0.0).to(wide.dtype)
        gates = [t.to(wide.dtype).clone() for _ in range(self.depth - 1)]
        return [wide.clone(), rest, *gates]

    def fold(self, tensors: Sequence[Tensor], tol: float) -> Tensor:
        """The weight; coefficients, or in group mode mirrors, below tol are zero."""
        c = self.coefficients(tensors[1:])
        c = torch.where(c.abs() < tol, 0, c)
        if self.mode == "group":
            small = self.frame.spread(self.frame.norms(c) < tol)
            c = torch.where(small, 0, c)
        return self.frame.compose(tensors[0], c).to(self.like.dtype)

    def extra_repr(self) -> str:
        """What is constrained."""
        return f"{type(self.frame).__name__}, mode={self.mode}, depth={self.depth}"
