# SPDX-License-Identifier: Apache-2.0
"""Weights as products of factors: weight decay on the factors is a sparse penalty on the weight."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from symfast.artificial import Artificial, attach, attached, find_parameter
from symfast.errors import ArtificialError
from symfast.factor_init import draw_factors, keep_factors, split
from symfast.factor_op import multiply
from symfast.reference.factor import MAX_DEPTH, MIN_DEPTH

_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_PADDED = nn.Embedding | nn.EmbeddingBag
Per: TypeAlias = Literal["element", "row", "column", "filter", "head"]


def factorize(
    module: nn.Module,
    name: str,
    depth: int = 2,
    init: Literal["keep", "dwf"] = "keep",
    beta: float = 1.0,
    per: Per = "element",
    *,
    heads: int | None = None,
    dim: int = 0,
    eps: float = 0.01,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Make a parameter the product of D factors, whose weight decay is a sparse penalty on it.

    Per element ``w = f_1 * ... * f_D``; decay 2 lam / D on every factor (`factor_groups` sets it)
    is the penalty ``lam ||w||_{2/D}^{2/D}``: the Lasso for D = 2 (spred, Ziyin & Wang, ICML 2023),
    non-convex for D > 2 (Deep Weight Factorization, Kolb et al., ICLR 2025). Per group
    ``w_j = f_j * g_j1 * ... * g_j(D-1)`` with one number g per row, column, filter or head:
    ``lam ||w||_{2,2/D}^{2/D}``, the group lasso for D = 2 (D-Gating, Kolb et al. 2025). For D > 2
    training finds a stationary point of that penalty that depends on the start.

    The function of the module does not change with init="keep", but for rounding. The factors are
    new parameters, so make the optimizer afterwards. AdamW's decoupled decay does not give the
    penalty: use SGD or Adam. Names in ``state_dict`` become
    ``parametrizations.<name>.original<i>`` until `fold`. A half-precision weight has float32
    factors. ``deepcopy`` and ``torch.compile(fullgraph=True)`` work, pickling the module does not.

    Args:
        module: the owner of the parameter, or any module above it. A tie to a parameter outside of
            it is not seen and comes apart, so that only this end has the factors: pass the module
            above both ends, and tied parameters are refused instead.
        name: the parameter, "weight" or dotted, "0.weight".
        depth: D, 2 to 6.
        init: "keep" the weight, or "dwf": draw new factors, see `symfast.factor_init.draw_factors`,
            with the standard deviation of the weight; the padding row of an embedding is zero.
        beta: imbalance f_1^2 - f_D^2 >= 0 after "keep"; with 0 no weight can ever change its sign.
        per: what shares a gate: nothing, dim 0, dim 1, a filter of a convolution (what writes one
            output channel: dim 0, or of a transposed one dim 1 in every group), or a head.
        heads: of per="head": equal blocks, 3 x heads for a packed ``in_proj_weight``.
        dim: of per="head": the dim that is cut into heads.
        eps: of init="dwf", see there.
        generator: of init="dwf".

    Returns:
        the module itself.

    Raises:
        ArtificialError: (a ValueError) if the parameter does not exist, is tied, parametrized,
            sparse or an RNN's, or an argument is out of range; nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> before = layer(torch.ones(3))
        >>> _ = sf.factorize(layer, "weight", depth=3)
        >>> torch.allclose(layer(torch.ones(3)), before, atol=1e-6)
        True
        >>> optimizer = torch.optim.SGD(sf.factor_groups(layer, lam=0.01), lr=0.1)
        >>> sorted(sf.fold(layer).state_dict())
        ['bias', 'weight']
    """
    owner, last, weight = find_parameter(module, name)
    check_depth(depth, beta)
    if init not in ("keep", "dwf") or (init == "dwf" and per != "element"):
        raise ArtificialError(
            f"init={init!r} with per={per!r}: choose 'keep', or 'dwf' per element"
        )
    shape = tuple(weight.shape)
    view, gate = gate_shape(shape, per, heads, dim)
    if per == "filter" and isinstance(owner, _TRANSPOSED):
        view, gate = transposed_filters(shape, owner.groups)
    factors = None
    if init == "dwf":
        padding = owner.padding_idx if isinstance(owner, _PADDED) else None
        factors = _draw(weight.detach(), name, padding, depth, eps, generator)
    attach(owner, last, ProductFactors(weight, depth, beta, view, gate, factors))
    return module


def _draw(
    weight: Tensor,
    name: str,
    padding: int | None,
    depth: int,
    eps: float,
    generator: torch.Generator | None,
) -> Tensor:
    """New factors with the weight's standard deviation; a padding row is zero and not counted."""
    shown = weight
    if padding is not None:
        shown = torch.cat([weight[:padding], weight[padding + 1 :]])
    scale = float(shown.double().std())
    if not scale > 0:
        raise ArtificialError(f"{name!r} has no spread to take the scale of init='dwf' from")
    factors = draw_factors(tuple(weight.shape), depth, scale, eps=eps, generator=generator)
    if padding is not None:
        factors[:, padding] = 0
    return factors


def check_depth(depth: int, beta: float) -> None:
    """Refuse a number of factors or an imbalance out of range."""
    if isinstance(depth, bool) or not isinstance(depth, int) or not 2 <= depth <= MAX_DEPTH:
        raise ArtificialError(
            f"depth is {depth!r}; choose a whole number from {MIN_DEPTH} to {MAX_DEPTH}"
        )
    if not 0 <= beta < math.inf:
        raise ArtificialError(f"beta is {beta}; it must be finite and not negative")


def gate_shape(
    shape: tuple[int, ...], per: str, heads: int | None, dim: int
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """How to view a weight, and the shape of its gates there (None: no gates)."""
    if per == "element":
        return shape, None
    needed = {"row": 1, "column": 2, "filter": 3, "head": 1}
    if per not in needed or len(shape) < needed[per]:
        raise ArtificialError(
            f"per={per!r} does not fit a weight of shape {shape}: choose element, row (dim 0), "
            "column (dim 1), filter (of a convolution) or head"
        )
    if (per == "head") != (heads is not None):
        raise ArtificialError("give heads= together with per='head', and only then")
    at = 1 if per == "column" else 0
    if heads is not None:
        if not -len(shape) <= dim < len(shape) or heads < 1 or shape[dim] % heads:
            raise ArtificialError(f"dim {dim} of shape {shape} cannot be cut into {heads} heads")
        at = dim % len(shape)
        shape = (*shape[:at], heads, shape[at] // heads, *shape[at + 1 :])
    return shape, tuple(size if i == at else 1 for i, size in enumerate(shape))


def transposed_filters(
    shape: tuple[int, ...], groups: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """View (groups, in / groups, out / groups, ...) of a transposed convolution, and its gates.

    Torch keeps its weight as (in, out / groups, ...), groups stacked along dim 0.
    """
    view = (groups, shape[0] // groups, *shape[1:])
    return view, tuple(size if i in (0, 2) else 1 for i, size in enumerate(view))


class ProductFactors(Artificial):
    """The parametrization behind `factorize`: D factors, or one of the weight's shape and gates."""

    def __init__(
        self,
        weight: Tensor,
        depth: int,
        beta: float,
        view: tuple[int, ...],
        gate: tuple[int, ...] | None,
        start: Tensor | None = None,
    ) -> None:
        super().__init__(weight)
        self.depth, self.beta, self.view, self.gate = depth, beta, view, gate
        self._start = start

    def forward(self, *tensors: Tensor) -> Tensor:
        """The weight."""
        if self.gate is None:
            return multiply(list(tensors)).to(self.like.dtype)
        return self._gated(tensors).reshape(tensors[0].shape).to(self.like.dtype)

    def _gated(self, tensors: Sequence[Tensor]) -> Tensor:
        gates = tensors[1] if len(tensors) == 2 else multiply(list(tensors[1:]))
        return tensors[0].reshape(self.view) * gates

    def right_inverse(self, weight: Tensor) -> Sequence[Tensor]:
        """The factors of a weight; the random ones the first time if there are any."""
        wide = self.wide(weight)
        if self._start is not None:
            start, self._start = self._start, None
            return [x.clone() for x in start.to(wide.device, wide.dtype)]
        if self.gate is None:
            return keep_factors(wide, self.depth, self.beta)
        return gate_factors(wide, wide.reshape(self.view), self.gate, self.depth, self.beta)

    def fold(self, tensors: Sequence[Tensor], tol: float) -> Tensor:
        """The weight; elements below tol, and groups whose norm is, are zero."""
        weight = self.forward(*tensors)
        weight = torch.where(weight.abs() < tol, 0, weight)
        if self.gate is not None:
            blocks = weight.reshape(self.view)
            small = norms_of(blocks, self.gate) < tol
            weight = torch.where(small, 0, blocks).reshape(weight.shape)
        return weight

    def extra_repr(self) -> str:
        """What is factored."""
        per = "element" if self.gate is None else f"gate {self.gate} of {self.view}"
        return f"depth={self.depth}, per {per}"


def norms_of(blocks: Tensor, gate: tuple[int, ...]) -> Tensor:
    """Norm of every group, in the gates' shape, float64."""
    dims = [i for i, size in enumerate(gate) if size == 1 and blocks.shape[i] != 1]
    squares = blocks.double().square()
    return (squares.sum(dims, keepdim=True) if dims else squares).sqrt()


def gate_factors(
    weight: Tensor, blocks: Tensor, gate: tuple[int, ...], depth: int, beta: float
) -> list[Tensor]:
    """The weight divided by the product of D - 1 equal gates, and the gates."""
    t = split(norms_of(blocks, gate), depth, beta)
    rest = torch.where(t > 0, blocks.double() / t.pow(depth - 1), 0.0)
    gates = [t.to(weight.dtype).clone() for _ in range(depth - 1)]
    return [rest.reshape(weight.shape).to(weight.dtype), *gates]


def factor_groups(
    model: nn.Module, lam: float, *, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups for SGD or Adam in which the factors of a model carry the penalty lam.

    Factors of depth D get weight decay ``2 lam / D``, which is ``lam ||w||_{2/D}^{2/D}`` (theory:
    AM-GM at balance; Kolb et al., ICLR 2025); everything else, biases and norm gains included, gets
    ``weight_decay``. Groups also hold "lam" and "depth" for `symfast.PenaltySchedule`.

    Args:
        model: with `factorize`, `dcs`, `low_rank` or `tucker` applied.
        lam: penalty, >= 0. In torch's convention, ``lam = 2 gam`` of ``gam ||f||^2``.
        weight_decay: of all other parameters.

    Raises:
        ArtificialError: (a ValueError) if lam is negative or the model has no factors.

    Example:
        >>> import symfast as sf, torch
        >>> model = sf.factorize(torch.nn.Linear(3, 2), "weight", depth=4)
        >>> [(len(g["params"]), g["weight_decay"]) for g in sf.factor_groups(model, lam=0.1)]
        [(4, 0.05), (1, 0.0)]
    """
    if not 0 <= lam < math.inf:
        raise ArtificialError(f"lam is {lam}; it must be finite and not negative")
    by_depth: dict[int, list[nn.Parameter]] = {}
    for found in attached(model):
        by_depth.setdefault(found.artificial.depth, []).extend(found.factors)
    if not by_depth:
        raise ArtificialError("the model has no factors; apply factorize, dcs or low_rank first")
    groups: list[dict[str, Any]] = [
        {"params": factors, "weight_decay": 2 * lam / depth, "lam": lam, "depth": depth}
        for depth, factors in sorted(by_depth.items())
    ]
    taken = {id(p) for factors in by_depth.values() for p in factors}
    rest = [p for p in model.parameters() if id(p) not in taken]
    return [*groups, {"params": rest, "weight_decay": weight_decay}] if rest else groups
