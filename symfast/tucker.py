# SPDX-License-Identifier: Apache-2.0
"""Weights as deep Tucker products: a small core, and factor columns that are chains of matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from symfast.artificial import Artificial, attach, find_parameter
from symfast.errors import ArtificialError
from symfast.factorize import check_depth

#: Rounds of evening out core slices and columns, mode by mode.
_ROUNDS = 50


def tucker(module: nn.Module, name: str, ranks: int | Sequence[int], depth: int = 1) -> nn.Module:
    """Make a parameter a core tensor times one factor matrix per dim, each column a deep chain.

    ``W = G x_1 F_1 ... x_N F_N`` with G (R_1, ..., R_N); column j of F_n is
    ``M_nj1 ... M_nj(k-1) v_nj`` with square matrices M, k = depth. Gradient flow conserves
    ``||G_slice(n,j)||^2 - ||v_nj||^2`` and ``||G_slice(n,j)||^2 - ||M_nji||_F^2``, so small slices
    grow late: low multilinear rank without a penalty, sharper the deeper. How many core slices
    vanish is not promised. Hariz et al., AISTATS 2024.

    The start is the higher-order singular value decomposition with the norms of slices, vectors and
    matrices evened out (``M = t u u^T``, ``v = t u``). With full ranks the function of the module
    does not change but for rounding; smaller ranks truncate.

    Args:
        module: the owner of the parameter, or any module above it.
        name: the parameter, "weight" or dotted; at least two dims.
        ranks: R_n, 1 to the size of dim n; one number for all dims is cut to that.
        depth: k, 1 to 6.

    Returns:
        the module itself.

    Raises:
        ArtificialError: (a ValueError) if the parameter is refused (see `symfast.factorize`) or an
            argument is out of range; nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = sf.tucker(torch.nn.Conv2d(4, 6, 3), "weight", ranks=(2, 3, 3, 3), depth=2)
        >>> torch.linalg.matrix_rank(layer.weight.flatten(1)).item()
        2
    """
    owner, last, weight = find_parameter(module, name)
    if weight.ndim < 2:
        raise ArtificialError(f"{name!r} has shape {tuple(weight.shape)}; Tucker needs two dims")
    if depth != 1:
        check_depth(depth, 0.0)
    shape = tuple(weight.shape)
    given = [ranks] * weight.ndim if isinstance(ranks, int) else list(ranks)
    if isinstance(ranks, int):
        given = [min(ranks, size) for size in shape]
    if len(given) != len(shape) or any(not 1 <= r <= n for r, n in zip(given, shape, strict=True)):
        raise ArtificialError(f"ranks {ranks} do not fit a weight of shape {shape}: 1 to each size")
    attach(owner, last, TuckerWeight(weight, given, depth))
    return module


class TuckerWeight(Artificial):
    """The parametrization behind `tucker`: core, then v_n (R, I) and M_n (R, k-1, I, I) if deep."""

    def __init__(self, weight: Tensor, ranks: list[int], length: int) -> None:
        super().__init__(weight)
        self.ranks, self.length, self.shape = ranks, length, tuple(weight.shape)
        self.depth = length * len(self.shape) + 1  # tensors multiplied into every entry

    def columns(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The factor matrices, transposed: (R_n, I_n) each."""
        found = []
        for n in range(len(self.shape)):
            x = tensors[1 + n] if self.length == 1 else tensors[1 + 2 * n]
            if self.length > 1:
                matrices = tensors[2 + 2 * n]
                for i in reversed(range(self.length - 1)):
                    x = torch.bmm(matrices[:, i], x.unsqueeze(-1)).squeeze(-1)
            found.append(x)
        return found

    def forward(self, *tensors: Tensor) -> Tensor:
        """The weight."""
        weight = tensors[0]
        for columns in self.columns(tensors):  # each dim in turn comes first and goes last
            weight = torch.tensordot(weight, columns, dims=([0], [0]))
        return weight.to(self.like.dtype)

    def right_inverse(self, weight: Tensor) -> Sequence[Tensor]:
        """Core, vectors and matrices of a weight, by its higher-order SVD."""
        core = self.wide(weight).double()
        bases = []
        for n, rank in enumerate(self.ranks):
            unfolded = core.movedim(n, 0).flatten(1)
            U = torch.linalg.svd(unfolded, full_matrices=True).U[:, :rank]
            bases.append(U.T.contiguous())
            core = torch.tensordot(core.movedim(n, 0), U, dims=([0], [0])).movedim(-1, n)
        core, sizes = self._even(core)
        tensors = [core]
        for basis, t in zip(bases, sizes, strict=True):
            tensors.append(t[:, None] * basis)
            if self.length > 1:
                outer = (t[:, None, None] * basis[:, :, None] * basis[:, None, :]).unsqueeze(1)
                tensors.append(outer.expand(-1, self.length - 1, -1, -1))
        wide = self.wide(weight).dtype
        return [x.to(wide).contiguous().clone() for x in tensors]

    def _even(self, core: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scale slices and columns until ||G_slice|| = t and the column is t^k long."""
        sizes = [core.new_ones(rank) for rank in self.ranks]
        for _ in range(_ROUNDS):
            for n, t in enumerate(sizes):
                norms = core.movedim(n, 0).flatten(1).norm(dim=1)
                fresh = (norms * t**self.length) ** (1 / (self.length + 1))
                fresh = torch.where(norms > 0, fresh, t)
                scale = (t / fresh) ** self.length
                shape = [-1 if i == n else 1 for i in range(core.ndim)]
                core, sizes[n] = core * scale.reshape(shape), fresh
        return core, sizes

    def invariants(self, tensors: Sequence[Tensor]) -> Tensor:
        """Everything that gradient flow conserves, as one flat tensor."""
        core, found = tensors[0], []
        for n in range(len(self.shape)):
            slices = core.movedim(n, 0).flatten(1).square().sum(1)
            step = 1 if self.length == 1 else 2
            found.append(slices - tensors[1 + step * n].square().sum(1))
            if self.length > 1:
                matrices = tensors[2 + step * n].square().sum((2, 3))
                found.append((slices[:, None] - matrices).flatten())
        return torch.cat(found)

    def fold(self, tensors: Sequence[Tensor], tol: float) -> Tensor:
        """The weight without core slices whose contribution is below tol."""
        tensors = list(tensors)
        columns = self.columns(tensors)
        for n, column in enumerate(columns):
            norms = tensors[0].movedim(n, 0).flatten(1).norm(dim=1) * column.norm(dim=1)
            shape = [-1 if i == n else 1 for i in range(tensors[0].ndim)]
            tensors[0] = torch.where((norms < tol).reshape(shape), 0, tensors[0])
        return self.forward(*tensors)

    def extra_repr(self) -> str:
        """What is factored."""
        return f"ranks={self.ranks} of {self.shape}, depth={self.length}"
