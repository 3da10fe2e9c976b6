# SPDX-License-Identifier: Apache-2.0
"""Conserved quantities of symmetry groups: what gradient flow cannot change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from symfast.sides import SideGrams, sides
from symfast.symmetry_group import SymmetryGroup, named_tensors

#: Activations with f(s x) = s f(x) for s > 0 and f(x) = 0 on one side.
RELU_LIKE = ("relu", "ReLU")


@dataclass(frozen=True, eq=False)
class Charge:
    """Conserved quantity of one group.

    Attributes:
        where: the group's place in the model.
        kind: "rescale" (one number per unit), "rotation" (a matrix), "scale" (one number) or
            "scale_invariance" (one number, ``|theta|^2``).
        value: (m,), (m, m) or () float64.
        imbalance: size of the charge relative to the parameters it is made of, 0 (balanced) to 1.
        locked: (m,) bool, units whose outgoing sign gradient flow can never change; None where the
            theorem does not apply (it needs a ReLU and a scalar output).
    """

    where: str
    kind: str
    value: Tensor
    imbalance: float
    locked: Tensor | None = None

    @property
    def components(self) -> tuple[int, int] | None:
        """``(2^l, l + 1)`` for l locked units: pieces of what the charges allow, counted.

        Gradient flow never leaves the piece it starts in: each has its own signs of the locked
        units' outgoing weights. Second number: pieces that differ by more than an order of the
        units, which is by how many of the signs are positive. None where ``locked`` is None.

        Source: Nurisso et al., "Topological obstruction to the training of shallow ReLU
            networks", 2024 (inputs of two or more dims).

        Example:
            >>> import torch
            >>> from symfast.charges import Charge
            >>> Charge("", "rescale", torch.zeros(2), 0.0, torch.tensor([True, True])).components
            (4, 3)
        """
        if self.locked is None:
            return None
        count = int(self.locked.sum())
        return 2**count, count + 1


def charges(model: nn.Module | None, groups: Iterable[SymmetryGroup]) -> list[Charge]:
    """Conserved quantities of every group with a continuous symmetry.

    - rescale: ``c_j = |in_j|^2 + b_j^2 - |out_j|^2`` per unit
    - rotation and rescale together (two linear layers, QK, VO: any invertible matrix fits between
      them): ``C = W W^T + b b^T - V^T V`` with rows W written and columns V read (for an attention
      head ``W_Q W_Q^T - W_K W_K^T``). Rotation alone has no such charge
    - scale: ``|in|^2 + |b|^2 - |out|^2``; without readers ``|theta|^2``, which gradient steps can
      only let grow

    Gradient flow keeps them exactly; a gradient step of size eta changes them by O(eta^2), so a
    trajectory of fixed length by O(eta). Weight decay lam shrinks them as exp(-2 lam t), noise
    moves them to an equilibrium. A neuron of a scalar ReLU network with ``c_j < 0`` is
    sign-locked: its outgoing weight can never pass zero.

    Args:
        model: the model the groups were found on, to read its present parameters; None to read
            the tensors of the groups.
        groups: groups as ``sf.find_symmetries`` returns them; those without one are left out.

    Returns:
        one `Charge` per group that has one, the most specific kind of each.

    Raises:
        ValueError: if a group does not belong to the model.

    Source: Ziyin et al., "Parameter Symmetry and Noise Equilibrium of SGD", 2024; Nurisso et al.,
        "Topological obstruction to the training of shallow ReLU networks", 2024.

    Example:
        >>> import torch
        >>> import symfast as sf
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> w, v = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0, 2.0]])
        >>> members = (Member(w, 0, "w", "in"), Member(v, 1, "v", "out"))
        >>> charge = sf.charges(None, [SymmetryGroup(members, ("rescale",), activation="relu")])[0]
        >>> charge.value.tolist(), charge.locked.tolist()
        ([24.0, -3.0], [False, True])
    """
    found = (charge_of(group) for group in present_groups(groups, model))
    return [charge for charge in found if charge is not None]


def present_groups(groups: Iterable[SymmetryGroup], model: nn.Module | None) -> list[SymmetryGroup]:
    """The groups on the present parameters of ``model``; themselves if model is None.

    Raises:
        ValueError: if the group's tensors are neither named in the model nor part of it.

    Example:
        >>> import torch
        >>> from symfast.charges import present_groups
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> layer = torch.nn.Linear(2, 2)
        >>> group = SymmetryGroup((Member(layer.weight, 0, "weight", "in"),), ())
        >>> present_groups([group], layer)[0] is group
        True
    """
    if model is None:
        return list(groups)
    tensors = named_tensors(model)
    storages = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return [_present(group, tensors, storages) for group in groups]


def _present(
    group: SymmetryGroup, tensors: Mapping[str, Tensor], storages: set[int]
) -> SymmetryGroup:
    if all(member.source is not None for member in group.members):
        return group.of(tensors)
    for member in group.members:
        if member.tensor.untyped_storage().data_ptr() not in storages:
            raise ValueError(
                f"{member.name} of the group {group.where!r} is no parameter of this model; "
                "find the groups on this model, or give None to read the groups' own tensors"
            )
    return group


def charge_of(group: SymmetryGroup, grams: SideGrams | None = None) -> Charge | None:
    """Charge of one group, or None if none of its proved kinds is continuous.

    Args:
        group: the group.
        grams: its Gram matrices, where they have been summed already.

    Example:
        >>> import torch
        >>> from symfast.charges import charge_of
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> charge_of(SymmetryGroup((Member(torch.ones(2, 2), 0, "w", "in"),), ())) is None
        True
    """
    kind = charge_kind(group)
    if kind is None:
        return None
    grams = SideGrams(group) if grams is None else grams
    if kind == "rotation":
        G_in, G_out = grams.gram("in", "bias"), grams.gram("out")
        value, total = G_in - G_out, float(G_in.norm() + G_out.norm())
        return Charge(group.where, kind, value, _share(float(value.norm()), total))
    inward, outward = grams.squares("in", "bias"), grams.squares("out")
    total = float(inward.sum() + outward.sum())
    if kind == "rescale":
        value = inward - outward
        scalar = sum(x.tensor.numel() for x in group.members if x.role == "out") == group.m
        locked = value < 0 if scalar and group.activation in RELU_LIKE else None
        share = _share(float(value.abs().sum()), total)
        return Charge(group.where, kind, value, share, locked)
    value = inward.sum() - outward.sum()
    return Charge(group.where, kind, value, _share(float(value.abs()), total))


def charge_kind(group: SymmetryGroup) -> str | None:
    """Which charge a group has: "rotation", "rescale", "scale", "scale_invariance" or None.

    Example:
        >>> import torch
        >>> from symfast.charges import charge_kind
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> charge_kind(SymmetryGroup((Member(torch.ones(2, 2), 0, "w", "in"),), ("scale",)))
        'scale_invariance'
    """
    writers, readers = sides(group)
    if "rescale" in group.kinds and writers and readers:
        return "rotation" if "rotation" in group.kinds else "rescale"
    if "scale" in group.kinds and writers:
        return "scale" if readers else "scale_invariance"
    return None


def charge_row(group: SymmetryGroup, grams: SideGrams | None = None) -> dict[str, Any]:
    """The charge of a group as columns of a table; empty if it has none.

    Example:
        >>> import torch
        >>> from symfast.charges import charge_row
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> charge_row(SymmetryGroup((Member(torch.ones(2, 2), 0, "w", "in"),), ("scale",)))
        {'imbalance': 1.0, 'charge_min': 4.0, 'charge_max': 4.0}
    """
    charge = charge_of(group, grams)
    if charge is None:
        return {}
    row: dict[str, Any] = {
        "imbalance": charge.imbalance,
        "charge_min": float(charge.value.min()),
        "charge_max": float(charge.value.max()),
    }
    if charge.locked is not None:
        row["sign_locked"] = int(charge.locked.sum())
    return row


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
