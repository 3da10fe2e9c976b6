# SPDX-License-Identifier: Apache-2.0
"""Order parameters of one group, cheap enough to measure while training."""

from typing import Any

import torch
from torch import Tensor

from symfast.charges import charge_row
from symfast.duplicates import equal_units
from symfast.gram import dual_gram, pair_distances, spectrum
from symfast.rank import effective_rank, numerical_rank, rank_tolerance, stable_rank
from symfast.sides import SideGrams
from symfast.symmetry_group import ROLES, SymmetryGroup


def order_parameters(
    group: SymmetryGroup, tol: float = 1e-3, pairs_up_to: int = 2048
) -> dict[str, Any]:
    """Order parameters of one group, as plain numbers.

    Returns:
        ``norm`` |U|; ``norm_min``, ``norm_mean``, ``norm_max`` of the unit norms and all of them
        in ``unit_norms``; ``to_sign_flip``, ``to_swap``, ``to_direction``: distance to the nearest
        mirror of the kind (smallest unit norm, smallest pair distance over sqrt 2, smallest
        singular value); ``distinct``: units that equal no earlier one within tol; ``rank``,
        ``stable_rank``, ``effective_rank``;
        ``imbalance``, ``charge_min``, ``charge_max``, ``sign_locked`` where the group has a
        charge. NaN where a quantity cannot be had, everywhere if U is not finite.

    Example:
        >>> import torch
        >>> from symfast.order_parameters import order_parameters
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> U = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
        >>> row = order_parameters(SymmetryGroup((Member(U, 0, "w", "in"),), ()))
        >>> row["distinct"], row["to_swap"], row["norm_min"]
        (1, 0.0, 5.0)
    """
    units, nan = group.units, float("nan")
    grams = SideGrams(group)
    primal = units.m <= max(units.n, pairs_up_to)
    G = grams.gram(*ROLES) if primal else None
    norms = grams.squares(*ROLES).sqrt().cpu()
    row: dict[str, Any] = {
        "norm": float(norms.norm()),
        "norm_min": float(norms.min()),
        "norm_mean": float(norms.mean()),
        "norm_max": float(norms.max()),
        "unit_norms": norms.tolist(),
    }
    if not bool(torch.isfinite(norms).all()):
        names = ("to_sign_flip", "to_swap", "to_direction", "distinct")
        return row | dict.fromkeys((*names, "rank", "stable_rank", "effective_rank"), nan)
    values = spectrum(dual_gram(units) if G is None or units.m > units.n else G).cpu()
    if G is not None and 1 < units.m <= pairs_up_to:
        nearest, distinct = _pairs(G.cpu(), norms, tol)
    else:
        nearest = nan
        distinct = int((equal_units(units, tol=tol) == torch.arange(units.m)).sum())
    row |= {
        "to_sign_flip": row["norm_min"],
        "to_swap": nearest / 2**0.5,
        "to_direction": float(values[-1]) if units.m <= units.n else 0.0,
        "distinct": distinct,
        "rank": numerical_rank(values, max(rank_tolerance(units), 1e-7)),
        "stable_rank": stable_rank(values),
        "effective_rank": effective_rank(values),
    }
    return row | charge_row(group, grams)


def _pairs(G: Tensor, norms: Tensor, tol: float) -> tuple[float, int]:
    """Smallest pair distance, and the number of nonzero units that equal no earlier one."""
    distances = pair_distances(G)
    close = distances <= tol * torch.maximum(norms[:, None], norms)
    repeats = (close.tril_(-1) & (norms > 0)).any(1)
    nearest = float(distances.fill_diagonal_(torch.inf).min())
    return nearest, len(norms) - int(repeats.sum())
