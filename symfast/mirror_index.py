# SPDX-License-Identifier: Apache-2.0
"""Where the coefficients of each mirror lie in a flat parameter vector."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symfast.errors import PlanError
from symfast.symmetry import Mirror, Symmetry
from symfast.units import Units


@dataclass(frozen=True, eq=False)
class MirrorIndex:
    """One mirror: units ``index`` (units, n) of the flat vector under the columns A (units, k).

    Attributes:
        name: parameters and unit numbers.
        index: (units, n) positions in the flat vector, only of units that the mirror touches.
        A: (units, k) orthonormal columns, float64.
    """

    name: str
    index: Tensor
    A: Tensor

    @property
    def size(self) -> int:
        """Number of coefficients k n."""
        return self.A.shape[1] * self.index.shape[1]

    def gather(self, theta: Tensor) -> Tensor:
        """Coefficients ``A^T U`` of a flat vector (d,), flat, float64."""
        return (self.A.T @ theta[self.index].double()).flatten()

    def scatter_(self, theta: Tensor, c: Tensor) -> None:
        """Set ``U <- A C`` in a flat vector (d,); c may be longer than `size`."""
        block = c[: self.size].double().reshape(self.A.shape[1], -1)
        theta[self.index] = (self.A @ block).to(theta.dtype)

    def project_(self, theta: Tensor) -> None:
        """Project a flat vector (d,) onto the plane ``A^T U = 0`` in place."""
        U = theta[self.index].double()
        theta[self.index] = (U - self.A @ (self.A.T @ U)).to(theta.dtype)


def index_mirrors(
    entries: Iterable[tuple[Units | Tensor, Symmetry]], parameters: Mapping[str, Tensor]
) -> list[MirrorIndex]:
    """Index every mirror of the entries in the concatenation of all parameters.

    Raises:
        PlanError: (a ValueError) if a tensor is no parameter, or the symmetry is a `Mirror` of
            batched frames.

    Example:
        >>> import torch, symfast as sf
        >>> from symfast.mirror_index import index_mirrors
        >>> w = torch.nn.Parameter(torch.zeros(4, 3))
        >>> mirrors = index_mirrors([(w, sf.Swap([0, 1], [2, 3]))], {"w": w})
        >>> [(mirror.name, mirror.size) for mirror in mirrors]
        [('w[0, 2]', 3), ('w[1, 3]', 3)]
    """
    offsets, names, at = {}, {}, 0
    for name, tensor in parameters.items():
        offsets[id(tensor)], names[id(tensor)] = at, name
        at += tensor.numel()
    found: list[MirrorIndex] = []
    for target, symmetry in entries:
        members = target.members if isinstance(target, Units) else [(target, 0)]
        missing = [tuple(t.shape) for t, _ in members if id(t) not in offsets]
        if missing:
            raise PlanError(f"tensors of shapes {missing} of the plan are no model parameters")
        parts = []
        for tensor, dim in members:
            positions = torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
            positions = (positions + offsets[id(tensor)]).movedim(dim, 0)
            parts.append(positions.reshape(positions.shape[0], -1))
        if isinstance(symmetry, Mirror):
            if (
                symmetry.matrix.ndim != 2
                or symmetry.matrix.shape[0] != parts[0].numel()
                or len(parts) > 1
            ):
                raise PlanError("stability takes a Mirror(O) of one whole parameter, O (d, k)")
            parts = [parts[0].reshape(-1, 1)]
        label = ", ".join(names[id(tensor)] for tensor, _ in members)
        found += _split(torch.cat(parts, 1), symmetry, label)
    return found


def _split(index: Tensor, symmetry: Symmetry, label: str) -> list[MirrorIndex]:
    """One MirrorIndex per mirror of the symmetry."""
    if isinstance(symmetry, Mirror):
        frame, counts = symmetry.matrix.double(), [symmetry.matrix.shape[1]]
    else:
        frame, counts = symmetry.frame(len(index)).double(), symmetry.mirrors(len(index))
    found, first = [], 0
    for count in counts:
        A = frame[:, first : first + count]
        first += count
        rows = torch.nonzero((A != 0).any(1)).flatten()
        few = rows.tolist() if len(rows) <= 4 else [*rows[:3].tolist(), "..."]
        place = ", ".join(map(str, few))
        found.append(MirrorIndex(f"{label}[{place}]", index[rows], A[rows].to(index.device)))
    return found
