# SPDX-License-Identifier: Apache-2.0
"""What mirror symmetries leave behind in two-layer networks: ranks, units, balance."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from symfast.rank import effective_ranks
from symfast.symmetry import Symmetry

#: Weights at most this large count as absent.
SUPPORT = 1e-4
#: Units and singular values below this share of the largest count as absent.
NEGLIGIBLE = 1e-2
#: Units this close, relative to their size, compute the same function.
SAME = 0.1
#: Mirrors of one problem whose norms are columns of a sweep.
MOST_MIRRORS = 4096


class TwoLayerWeights(NamedTuple):
    """R stacked networks ``W2 act(W1 x + b1) + b2``."""

    W1: Tensor  # (R, h, i)
    b1: Tensor  # (R, h)
    W2: Tensor  # (R, o, h)
    b2: Tensor  # (R, o)
    activation: str


def order_parameters(net: TwoLayerWeights) -> dict[str, Tensor]:
    """Order parameters (R,) of stacked networks; NaN where a weight is not finite.

    norm: ``||theta||``. sparsity: share of weights in W1 and W2 of size <= 1e-4; zeros: share that
    is exactly zero. units: hidden units whose ``||(w, b)|| ||v||`` exceeds 1% of the largest
    (sign flip and rescaling mirrors). distinct: how many different functions they compute
    (permutation mirrors, `distinct_units`). rank, effective_rank: singular values of W1 above 1% of
    the largest, and ``exp H(s / sum s)`` (rotation mirrors; Roy and Vetterli 2007); for identity
    also of W2 W1. imbalance: relative size of the conserved charges
    ``||(w, b)||^2 - ||v||^2`` of relu, of ``W1 W1^T + b1 b1^T - W2^T W2`` for identity (theory of
    noise equilibria; not for tanh).

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, order_parameters
        >>> W1, W2 = torch.eye(3)[None], torch.ones(1, 1, 3)
        >>> net = TwoLayerWeights(W1, torch.zeros(1, 3), W2, torch.zeros(1, 1), "relu")
        >>> found = order_parameters(net)
        >>> int(found["rank"]), int(found["distinct"]), float(found["imbalance"])
        (3, 3, 0.0)
    """
    W1, b1, W2, b2, activation = net
    flat = torch.cat([x.flatten(1) for x in (W1, b1, W2, b2)], 1)
    lost = ~flat.isfinite().all(1)
    W1, b1, W2, b2 = (
        torch.where(lost.reshape(-1, *[1] * (x.ndim - 1)), 0, x) for x in (W1, b1, W2, b2)
    )
    net = TwoLayerWeights(W1, b1, W2, b2, activation)
    weights = torch.cat([net.W1.flatten(1), net.W2.flatten(1)], 1).abs()
    found = {
        "norm": flat.norm(dim=1),
        "sparsity": (weights <= SUPPORT).double().mean(1),
        "zeros": (weights == 0).double().mean(1),
        "units": present(net).double().sum(1),
        "distinct": distinct_units(net).double(),
    }
    found |= _ranks(net.W1, "")
    if activation == "identity":
        found |= _ranks(net.W2 @ net.W1, "product_")
    if activation != "tanh":
        found["imbalance"] = imbalance(net)
    return {name: torch.where(lost, torch.nan, x) for name, x in found.items()}


def mirror_parameters(
    net: TwoLayerWeights, symmetries: Sequence[Symmetry], every: bool
) -> dict[str, Tensor]:
    """Return violation (R,), ``||A^T U||`` over all mirrors of some symmetries of the hidden units.

    Args:
        net: stacked networks.
        symmetries: of the hidden units.
        every: whether the norm of each mirror is a column of its own, too.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, mirror_parameters
        >>> W1, rest = torch.eye(2)[None], (torch.zeros(1, 1, 2), torch.zeros(1, 1))
        >>> net = TwoLayerWeights(W1, torch.zeros(1, 2), *rest, "relu")
        >>> mirror_parameters(net, [sf.Swap([0], [1])], every=False)["violation"].shape
        torch.Size([1])
    """
    norms = norms_of(net, symmetries)
    total: Tensor = norms.norm(dim=1)
    return {"violation": total} | (norm_columns(norms) if every else {})


def norms_of(net: TwoLayerWeights, symmetries: Sequence[Symmetry]) -> Tensor:
    """Norm ``||o^T U||`` (R, k) of every mirror o of some symmetries of the hidden units, in order.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, norms_of
        >>> W1, rest = torch.eye(2)[None], (torch.zeros(1, 1, 2), torch.zeros(1, 1))
        >>> net = TwoLayerWeights(W1, torch.zeros(1, 2), *rest, "relu")
        >>> norms_of(net, [sf.Swap([0], [1]), sf.SignFlip([0])]).round(decimals=5).tolist()
        [[1.0, 1.0]]
    """
    U = unit_matrix(net)
    return torch.cat([(x.frame(U.shape[1]).to(U).mT @ U).norm(dim=2) for x in symmetries], 1)


def norm_columns(norms: Tensor) -> dict[str, Tensor]:
    """Norms (R, k) of mirrors as columns mirror_0, mirror_1, ... of a sweep's table.

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import norm_columns
        >>> list(norm_columns(torch.ones(3, 2)))
        ['mirror_0', 'mirror_1']
    """
    return {f"mirror_{i}": x for i, x in enumerate(norms.unbind(1))}


def check_mirrors(count: int, problem: str) -> None:
    """Refuse columns for the norms of no mirrors, or of too many.

    Raises:
        ValueError: if there are none, or more than MOST_MIRRORS.

    Example:
        >>> from symfast.problems.order_parameters import check_mirrors
        >>> check_mirrors(3, "TwoLayer")
    """
    if not 1 <= count <= MOST_MIRRORS:
        raise ValueError(
            f"mirror_norms needs 1 to {MOST_MIRRORS} mirrors, this {problem} has {count}"
        )


def unit_matrix(net: TwoLayerWeights) -> Tensor:
    """Rows ``u_j = (w_j, b_j, v_j)`` of all hidden units, (R, h, i + 1 + o).

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, unit_matrix
        >>> W1, rest = torch.eye(2)[None], (torch.zeros(1, 1, 2), torch.zeros(1, 1))
        >>> unit_matrix(TwoLayerWeights(W1, torch.zeros(1, 2), *rest, "relu")).shape
        torch.Size([1, 2, 4])
    """
    return torch.cat([_incoming(net), net.W2.mT], 2)


def _ranks(W: Tensor, prefix: str) -> dict[str, Tensor]:
    """Numerical and effective rank (R,) of matrices (R, m, n)."""
    s = torch.linalg.svdvals(W)
    largest = s.amax(-1, keepdim=True)
    rank = ((s > NEGLIGIBLE * largest) & (largest > SUPPORT)).double().sum(-1)
    return {f"{prefix}rank": rank, f"{prefix}effective_rank": effective_ranks(s)}


def _incoming(net: TwoLayerWeights) -> Tensor:
    """What a unit computes from the inputs: (w, b), (R, h, i + 1)."""
    return torch.cat([net.W1, net.b1[:, :, None]], 2)


def present(net: TwoLayerWeights) -> Tensor:
    """Which units (R, h) reach 1% of the strongest, by ``||(w, b)|| ||v||``.

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, present
        >>> W1, W2 = torch.eye(2)[None], torch.tensor([[[1.0, 0.0]]])
        >>> net = TwoLayerWeights(W1, torch.zeros(1, 2), W2, torch.zeros(1, 1), "relu")
        >>> present(net).tolist()
        [[True, False]]
    """
    strength = _incoming(net).norm(dim=2) * net.W2.norm(dim=1)
    largest = strength.amax(1, keepdim=True)
    return torch.logical_and(strength > NEGLIGIBLE * largest, largest > SUPPORT**2)


def distinct_units(net: TwoLayerWeights) -> Tensor:
    """How many different functions the units that are present compute, (R,).

    Units are joined (single linkage) where (w, b) differs by less than 10% of the larger: up to
    sign for tanh, which is odd; by direction for relu, which is homogeneous; by direction up to
    sign for identity.

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, distinct_units
        >>> W1 = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]])
        >>> rest = torch.zeros(1, 3), torch.ones(1, 1, 3), torch.zeros(1, 1)
        >>> [int(distinct_units(TwoLayerWeights(W1, *rest, a))) for a in ("tanh", "relu")]
        [2, 3]
    """
    u, here = _incoming(net), present(net)
    size = u.norm(dim=2)
    if net.activation != "tanh":
        u = u / size.clamp_min(torch.finfo(u.dtype).tiny)[:, :, None]
        size = torch.ones_like(size)
    gram, square = u @ u.mT, u.square().sum(2)
    if net.activation != "relu":
        gram = gram.abs()
    distance = (square[:, :, None] + square[:, None] - 2 * gram).clamp_min(0).sqrt()
    joined = distance < SAME * torch.maximum(size[:, :, None], size[:, None])
    joined &= here[:, :, None] & here[:, None]
    units = u.shape[1]
    own = torch.arange(units, device=u.device).expand(len(u), units)
    label = own
    while True:  # the smallest index spreads through every connected group
        spread = torch.where(joined, label[:, None], units).amin(2)
        fresh = torch.minimum(label, spread)
        if torch.equal(fresh, label):
            return ((label == own) & here).sum(1)
        label = fresh


def imbalance(net: TwoLayerWeights) -> Tensor:
    """Size (R,) of the charges that gradient flow conserves, relative to the weights.

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, imbalance
        >>> W1, W2 = torch.eye(2)[None], torch.zeros(1, 1, 2)
        >>> float(imbalance(TwoLayerWeights(W1, torch.zeros(1, 2), W2, torch.zeros(1, 1), "relu")))
        1.0
    """
    u, tiny = _incoming(net), torch.finfo(net.W1.dtype).tiny
    if net.activation == "identity":
        left, right = u @ u.mT, net.W2.mT @ net.W2
        size: Tensor = left.norm(dim=(1, 2)) + right.norm(dim=(1, 2)) + tiny
        return torch.div((left - right).norm(dim=(1, 2)), size)
    inside, outside = u.square().sum(2), net.W2.square().sum(1)
    return torch.div((inside - outside).abs().sum(1), (inside + outside).sum(1) + tiny)


def mirror_norms(net: TwoLayerWeights) -> dict[str, Tensor]:
    """Norm ``||O^T theta||`` of every mirror of stacked networks.

    With unit vectors ``u_j = (w_j, b_j, v_j)``: units ``||u_j||`` (R, h), the sign flip mirrors;
    pairs ``||u_a - u_b|| / sqrt 2`` (R, h, h), the swap mirrors; directions (R, min(h, n)), the
    singular values of the unit matrix, largest first: the rotation mirrors of its principal axes.

    Example:
        >>> import torch
        >>> from symfast.problems.order_parameters import TwoLayerWeights, mirror_norms
        >>> W1, rest = torch.eye(2)[None], (torch.zeros(1, 1, 2), torch.zeros(1, 1))
        >>> net = TwoLayerWeights(W1, torch.zeros(1, 2), *rest, "relu")
        >>> round(float(mirror_norms(net)["pairs"][0, 0, 1]), 4)
        1.0
    """
    u = unit_matrix(net)
    return {
        "units": u.norm(dim=2),
        "pairs": torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist") / 2**0.5,
        "directions": torch.linalg.svdvals(u),
    }
