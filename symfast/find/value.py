# SPDX-License-Identifier: Apache-2.0
"""What is known of a tensor in the traced graph: its shape and the units along its dims."""

from dataclasses import dataclass, field, replace

from symfast.find.classes import ALGEBRAS, Labels

Flows = dict[str, tuple[Labels, ...]]


def no_flows() -> Flows:
    """Return the flows of a tensor that no symmetry moves."""
    return {algebra: () for algebra in ALGEBRAS}


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        shape: its shape on the example input.
        varies: per dim, whether entries may differ along it where no flow explains it.
        flows: per algebra, arrays of labels that broadcast to ``shape``; size 1 along dims that
            do not tell units apart. Several flows are independent symmetries that multiply.
        parameter: its qualified name if the tensor is a parameter or buffer, at most reshaped.
        axes: per dim, which dim of that parameter it is.
        even: flows of x whose square this is: signs and rotations survive only a sum over units.
        zero: whether all entries are 0, which every symmetry leaves alone.
    """

    shape: tuple[int, ...]
    varies: tuple[bool, ...]
    flows: Flows = field(default_factory=no_flows)
    parameter: str | None = None
    axes: tuple[int | None, ...] = ()
    even: Flows = field(default_factory=no_flows)
    zero: bool = False

    @classmethod
    def plain(cls, shape: tuple[int, ...], uniform: bool = False, zero: bool = False) -> "Value":
        """Return a tensor without units: an input, or with ``uniform`` a filled one."""
        return cls(tuple(shape), tuple(size > 1 and not uniform for size in shape), zero=zero)

    def with_flows(self, flows: Flows) -> "Value":
        """Return the same tensor with other flows, no longer a parameter as it stands."""
        return replace(self, flows=flows, parameter=None, even=no_flows(), zero=False)


def unit_dims(labels: Labels) -> tuple[int, ...]:
    """Return the dims along which ``labels`` tells units apart."""
    return tuple(dim for dim, size in enumerate(labels.shape) if size > 1)


def compress(labels: Labels) -> Labels:
    """Shrink the dims along which all labels agree to size 1."""
    for dim in range(labels.ndim):
        first = labels.take([0], axis=dim)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return labels


def align(labels: Labels, ndim: int) -> Labels:
    """Add leading dims of size 1, as broadcasting does."""
    return labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)
