# SPDX-License-Identifier: Apache-2.0
"""Frames as differentiable maps on one weight: coefficients, and a weight with given ones."""

import numpy as np
import torch
from torch import Tensor, nn

from symfast.codes import ACCUMULATE
from symfast.errors import ArtificialError
from symfast.symmetry import Cluster, Direction, Mirror, SignFlip, Swap, Symmetry

_HALF = 0.5**0.5


class Frame(nn.Module):
    """``C = A^T U`` and ``U - A A^T U + A C`` for one weight under one symmetry.

    The gates of group mode have one number per mirror; ``spread`` repeats them to C's shape.
    """

    #: Shape of one gate per mirror.
    gates: tuple[int, ...]

    def coefficients(self, weight: Tensor) -> Tensor:
        """C of the weight."""
        raise NotImplementedError

    def compose(self, v: Tensor, c: Tensor) -> Tensor:
        """The weight that is v but for its coefficients, which are c."""
        raise NotImplementedError

    def norms(self, c: Tensor) -> Tensor:
        """Norm of every mirror's coefficients, in the gates' shape, float64."""
        raise NotImplementedError

    def spread(self, gates: Tensor) -> Tensor:
        """One number per mirror in a shape that broadcasts to C."""
        return gates


def frame_of(symmetry: Symmetry, weight: Tensor, dim: int | None) -> Frame:
    """The frame of a symmetry for a weight whose units lie along dim.

    Raises:
        SymmetryError, ArtificialError: (ValueErrors) if the symmetry does not fit the weight.
    """
    if isinstance(symmetry, Mirror) and dim is None:
        return RowFrame(symmetry, weight)
    if not isinstance(symmetry, SignFlip | Swap | Cluster | Direction | Mirror):
        raise ArtificialError(
            f"symmetry is a {type(symmetry).__name__}; give SignFlip, Swap, Cluster, Direction or "
            "Mirror"
        )
    at = 0 if dim is None else dim
    if not -weight.ndim <= at < weight.ndim:
        raise ArtificialError(f"a weight of shape {tuple(weight.shape)} has no dim {at}")
    kinds: dict[type, type[UnitFrame]] = {
        SignFlip: FlipFrame,
        Swap: SwapFrame,
        Cluster: ClusterFrame,
    }
    return kinds.get(type(symmetry), UnitFrame)(symmetry, weight, at % weight.ndim)


class UnitFrame(Frame):
    """A frame A (m, k) in the space of the weight's units: dense, for Direction and Mirror."""

    matrix: Tensor
    mirror: Tensor

    def __init__(self, symmetry: Symmetry, weight: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        m = weight.shape[dim]
        sizes = [m] if isinstance(symmetry, Mirror) else symmetry.mirrors(m)
        if isinstance(symmetry, Mirror):
            if symmetry.matrix.ndim > 2:
                raise ArtificialError("Mirror(O) with batch dims acts on a tensor: leave out dim")
            symmetry.frame_rows(m)
            sizes = [symmetry.matrix.shape[-1]]
        self.gates = (len(sizes), 1)
        mirror = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        self._keep("mirror", mirror, weight)
        self._tables(symmetry, m, weight)

    def _keep(self, name: str, table: Tensor, weight: Tensor) -> None:
        self.register_buffer(name, table.to(weight.device), persistent=False)

    def _tables(self, symmetry: Symmetry, m: int, weight: Tensor) -> None:
        self._keep("matrix", symmetry.frame(m).to(ACCUMULATE[weight.dtype]), weight)

    def units(self, weight: Tensor) -> Tensor:
        """U (m, n) of the weight."""
        return weight.movedim(self.dim, 0).flatten(1) if weight.ndim > 1 else weight[:, None]

    def weight(self, units: Tensor, like: Tensor) -> Tensor:
        """The weight of U."""
        if like.ndim == 1:
            return units[:, 0]
        shape = list(like.shape)
        first = shape.pop(self.dim)
        return units.reshape(first, *shape).movedim(0, self.dim)

    def coefficients(self, weight: Tensor) -> Tensor:
        """C = A^T U, (k, n)."""
        return self.matrix.T @ self.units(weight)

    def compose(self, v: Tensor, c: Tensor) -> Tensor:
        """U + A (C - A^T U)."""
        units = self.units(v)
        return self.weight(units + self.matrix @ (c - self.matrix.T @ units), v)

    def norms(self, c: Tensor) -> Tensor:
        """(mirrors, 1): all rows and columns of a mirror together."""
        squares = c.double().square().sum(-1, keepdim=True)
        return squares.new_zeros(self.gates).index_add(0, self.mirror, squares).sqrt()

    def spread(self, gates: Tensor) -> Tensor:
        """(mirrors, 1) to (k, 1)."""
        return gates[self.mirror]


class FlipFrame(UnitFrame):
    """Units by number; their rows are the coefficients, exactly."""

    index: Tensor

    def _tables(self, symmetry: Symmetry, m: int, weight: Tensor) -> None:
        assert isinstance(symmetry, SignFlip)
        self._keep("index", torch.from_numpy(symmetry.indices(m).copy()), weight)

    def coefficients(self, weight: Tensor) -> Tensor:
        """The rows of the units."""
        return self.units(weight)[self.index]

    def compose(self, v: Tensor, c: Tensor) -> Tensor:
        """Other rows for the units."""
        return self.weight(self.units(v).index_copy(0, self.index, c), v)


class SwapFrame(UnitFrame):
    """Pairs by number; with zero coefficients both get the same bits."""

    a: Tensor
    b: Tensor

    def _tables(self, symmetry: Symmetry, m: int, weight: Tensor) -> None:
        assert isinstance(symmetry, Swap)
        pairs = torch.from_numpy(symmetry.indices(m).copy())
        self._keep("a", pairs[:, 0].contiguous(), weight)
        self._keep("b", pairs[:, 1].contiguous(), weight)

    def coefficients(self, weight: Tensor) -> Tensor:
        """The differences of the pairs, over sqrt 2."""
        units = self.units(weight)
        return (units[self.a] - units[self.b]) * _HALF

    def compose(self, v: Tensor, c: Tensor) -> Tensor:
        """The mean of every pair, plus and minus."""
        units = self.units(v)
        mean, half = (units[self.a] + units[self.b]) / 2, c * _HALF
        units = units.index_copy(0, self.a, mean + half).index_copy(0, self.b, mean - half)
        return self.weight(units, v)


class ClusterFrame(UnitFrame):
    """Clusters by number, Helmert coefficients; with zero ones all members get the same bits."""

    members: Tensor
    label: Tensor
    size: Tensor

    def _tables(self, symmetry: Symmetry, m: int, weight: Tensor) -> None:
        assert isinstance(symmetry, Cluster)
        parts = symmetry.members(m)
        sizes = [len(part) for part in parts]
        members = np.concatenate([*parts, np.zeros(0, np.int64)])
        super()._tables(symmetry, m, weight)
        self._keep("members", torch.from_numpy(members), weight)
        self._keep("label", torch.from_numpy(np.repeat(np.arange(len(parts)), sizes)), weight)
        self._keep("size", torch.tensor(sizes).reshape(-1, 1), weight)

    def compose(self, v: Tensor, c: Tensor) -> Tensor:
        """The mean of every cluster, plus what the coefficients say."""
        units = self.units(v)
        total = units.new_zeros(len(self.size), units.shape[1])
        mean = total.index_add(0, self.label, units[self.members]) / self.size
        rows = mean[self.label] + (self.matrix @ c)[self.members]
        return self.weight(units.index_copy(0, self.members, rows), v)


class RowFrame(Frame):
    """O (..., d, k) on the last dim of a weight (each row a mirror), or on all of it."""

    matrix: Tensor

    def __init__(self, symmetry: Mirror, weight: Tensor) -> None:
        super().__init__()
        O = symmetry.matrix
        d, k = O.shape[-2:]
        batch, shape = tuple(O.shape[:-2]), tuple(weight.shape)
        self.whole = not (shape[-1] == d and batch in ((), shape[:-1]))
        if self.whole and (batch or weight.numel() != d):
            raise ArtificialError(
                f"Mirror(O) of shape {tuple(O.shape)} does not fit a weight of shape {shape}: O "
                f"needs {shape[-1]} rows (and batch dims {shape[:-1]} or none), or "
                f"{weight.numel()} rows to act on the whole weight"
            )
        self.gates = (1,) if self.whole else (*shape[:-1], 1)
        matrix = O.to(weight.device, ACCUMULATE[weight.dtype])
        self.register_buffer("matrix", matrix, persistent=False)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1) if self.whole else weight

    def coefficients(self, weight: Tensor) -> Tensor:
        """O^T theta, (..., k)."""
        return (self._rows(weight).unsqueeze(-2) @ self.matrix).squeeze(-2)

    def norms(self, c: Tensor) -> Tensor:
        """(..., 1): the k coefficients of a row."""
        return c.double().square().sum(-1, keepdim=True).sqrt()

    def compose(self, v: Tensor, c: Tensor) -> Tensor:
        """Theta + O (c - O^T theta)."""
        change = c - self.coefficients(v)
        return (self._rows(v) + (self.matrix @ change.unsqueeze(-1)).squeeze(-1)).reshape(v.shape)
