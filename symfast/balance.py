# SPDX-License-Identifier: Apache-2.0
"""Gauge moves: change the parameters along their symmetries, never the function."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from symfast.charges import Charge, charge_of, present_groups
from symfast.gauge import Scratch, refuse_ties
from symfast.sides import SideGrams, sides
from symfast.symmetry_group import SymmetryGroup

Target: TypeAlias = Literal["balanced", "unlock"]
#: A linear pair whose Gram matrices are worse conditioned than this cannot be balanced.
SINGULAR = 1e-12
#: Groups that share a tensor disturb each other: balance them in turn until nothing moves.
SWEEPS, SETTLED = 200, 1e-10


@dataclass(frozen=True, eq=False)
class Move:
    """What a gauge move did to one group.

    Attributes:
        where: the group's place in the model.
        kind: the symmetry used: "rescale", "rotation" or "scale".
        factors: (m,) factors s of the units: in and bias times s, out over s; for "rotation" the
            matrix T (m, m): rows of in and bias ``T W``, of out ``T^-T V``.
        before: imbalance of the charge before, 0 to 1.
        after: imbalance afterwards.
        left: units left alone: one side of them is zero, or the linear pair is not of full rank.
    """

    where: str
    kind: str
    factors: Tensor
    before: float
    after: float
    left: tuple[int, ...] = ()


def balance_(
    model: nn.Module | None,
    groups: Iterable[SymmetryGroup],
    target: Target = "balanced",
    *,
    margin: float = 1.0,
) -> list[Move]:
    """Move parameters along their symmetries to balanced or unlocked ones; same function.

    "balanced" makes every charge zero:

    - rescale: ``s_j = sqrt(|out_j| / |(in_j, b_j)|)``, so that both norms are equal
    - rotation and rescale (two linear layers, QK, VO): the invertible ``T`` with
      ``T A T^T = T^-T B T^-1``, A and B the Gram matrices of the sides, that is
      ``T^T T = A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2``
    - scale: one factor for the whole group

    Groups that share a tensor (its rows in one, its columns in another) are balanced in turn
    until nothing moves. "unlock" moves every sign-locked neuron to a positive charge
    ``c_j = 2 margin |in_j| |out_j|``: a neuron of a scalar ReLU network with ``c_j < 0`` can
    never change the sign of its outgoing weight, after the move it can.

    Everything is computed in float64 beside the parameters and written at the end: on an error
    nothing has changed. Outputs change by rounding to the parameters' dtype.

    Args:
        model: the model; None for the groups' own tensors.
        groups: groups with a proved continuous kind; others are passed over.
        target: "balanced" or "unlock".
        margin: of "unlock", in units of ``2 |in_j| |out_j|``.

    Returns:
        one `Move` per group that was changed or found balanced.

    Raises:
        GaugeError: (a ValueError) if tied or overlapping tensors make a move change the function,
            or the new values do not fit their dtype.
        ValueError: if target or margin is unknown, or groups do not belong to the model.

    Source: Nurisso et al., "Topological obstruction to the training of shallow ReLU networks",
        2024 (charges and locked signs); Stock et al., "Equi-normalization", 2019 (the sweeps).

    Example:
        >>> import torch
        >>> import symfast as sf
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> w, v = torch.tensor([[8.0]]), torch.tensor([[2.0]])
        >>> members = (Member(w, 0, "w", "in"), Member(v, 1, "v", "out"))
        >>> move = sf.balance_(None, [SymmetryGroup(members, ("rescale",), activation="relu")])[0]
        >>> w.item(), v.item(), move.factors.item()
        (4.0, 4.0, 0.5)
    """
    if target not in ("balanced", "unlock"):
        raise ValueError(f"target is {target!r}; choose 'balanced' or 'unlock'")
    if not 0 < margin < float("inf"):
        raise ValueError(f"margin is {margin}; wanted a positive number")
    found = [(group, charge_of(group)) for group in present_groups(groups, model)]
    chosen = [(g, charge) for g, charge in found if charge and _movable(g, charge, target)]
    refuse_ties([group for group, _ in chosen], model)
    scratch = Scratch([group for group, _ in chosen])
    moves = [_still(group, charge) for group, charge in chosen]
    for _ in range(SWEEPS if target == "balanced" else 1):
        moved = 0.0
        for number, group in enumerate(scratch.groups):
            locked = chosen[number][1].locked if target == "unlock" else None
            factors, left = _factors(group, moves[number].kind, locked, margin)
            moves[number] = _compose(moves[number], factors, left)
            scratch.apply_(number, factors)
            moved = max(moved, _size(factors))
        if moved < SETTLED:
            break
    scratch.write_()
    ends = [charge_of(group) for group, _ in chosen]
    return [
        replace(move, after=end.imbalance if end is not None else 0.0)
        for move, end in zip(moves, ends, strict=True)
    ]


def _movable(group: SymmetryGroup, charge: Charge, target: Target) -> bool:
    return all(sides(group)) and (target == "balanced" or charge.locked is not None)


def _still(group: SymmetryGroup, charge: Charge) -> Move:
    device = group.members[0].tensor.device
    one = torch.eye(group.m) if charge.kind == "rotation" else torch.ones(group.m)
    return Move(group.where, charge.kind, one.to(device, torch.float64), charge.imbalance, 0.0)


def _compose(move: Move, factors: Tensor, left: tuple[int, ...]) -> Move:
    total = factors @ move.factors if factors.ndim == 2 else factors * move.factors
    return replace(move, factors=total, left=left)


def _size(factors: Tensor) -> float:
    if factors.ndim == 2:
        return float((factors - torch.eye(len(factors)).to(factors)).abs().max())
    return float(factors.log().abs().max())


def _factors(
    group: SymmetryGroup, kind: str, locked: Tensor | None, margin: float
) -> tuple[Tensor, tuple[int, ...]]:
    """Factors (m,) or matrix (m, m) that moves a group to its target, and the units left alone.

    With ``locked``, only those units are moved, to a positive charge; None balances all.
    """
    grams = SideGrams(group)
    if kind == "rotation":
        return _between(grams.gram("in", "bias"), grams.gram("out"))
    inward, outward = grams.squares("in", "bias"), grams.squares("out")
    if kind == "scale":
        inward, outward = inward.sum().expand(group.m), outward.sum().expand(group.m)
    usable = (inward > 0) & (outward > 0)
    ratio = torch.where(usable, (outward / inward).sqrt().sqrt(), 1.0)  # sqrt(|out| / |in|)
    stuck = ~usable
    if locked is not None:
        # s^2 a^2 - b^2 / s^2 = 2 margin a b has the root s^2 = (margin + sqrt(margin^2 + 1)) b / a
        lifted = ratio * (margin + (margin**2 + 1) ** 0.5) ** 0.5
        ratio = torch.where(usable & locked, lifted, 1.0)
        stuck &= inward < outward
    return ratio, tuple(int(j) for j in stuck.nonzero()[:, 0])


def _between(A: Tensor, B: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The T with T A T^T = T^-T B T^-1; the identity if a side is not of full rank."""
    for G in (A, B):
        squares = torch.linalg.eigvalsh(G)
        if not squares[0] > SINGULAR * squares[-1]:
            return torch.eye(len(A)).to(A), tuple(range(len(A)))
    half = _power(A, 0.5)
    inverse = _power(A, -0.5)
    M = inverse @ _power(half @ B @ half, 0.5) @ inverse
    return _power(M, 0.5), ()


def _power(G: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive matrix."""
    squares, V = torch.linalg.eigh((G + G.T) / 2)
    power: Tensor = (V * squares.clamp(min=1e-300) ** exponent) @ V.T
    return power
