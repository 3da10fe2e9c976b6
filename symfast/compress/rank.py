# SPDX-License-Identifier: Apache-2.0
"""Linear pairs whose product has a lower rank than the number of units between them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from symfast.compress.constants import CONVOLUTIONS, shift_bias
from symfast.compress.units import HiddenUnits, padded, reader_modules, rows
from symfast.compress.workbench import Workbench
from symfast.symmetry_group import Member


def truncate_rank(bench: Workbench, hidden: HiddenUnits, tol: float) -> int:
    r"""Replace the writers A (m, p) and readers B (m, q) of linear units by rank-r factors.

    All that the model sees is ``B^T A``. With ``A^T = Q_a R_a``, ``B^T = Q_b R_b`` and the SVD
    ``R_b R_a^T = X S Y^T`` the new factors are ``A' = sqrt(S) Y^T Q_a^T``,
    ``B' = sqrt(S) X^T Q_b^T``. Singular values below ``max(m, p, q) eps``, or ``tol``, of the
    largest are dropped; the largest dropped one bounds ``||B^T A - B'^T A'||_2``.
    A bias of the writers is folded into the readers' biases where that is possible.
    """
    if not hidden.linear or not hidden.readers:
        return 0
    writers = [member for member in hidden.group.members if member.role in ("in", "bias")]
    foldable = _foldable(bench, hidden, writers)
    if foldable:
        writers = [member for member in writers if member.role == "in"]
    A, B = rows(writers, hidden.m), rows(hidden.readers, hidden.m)
    rounding = 16 * max(*A.shape, *B.shape) * bench.eps
    X, S, Y, dropped = _factors(A, B, max(rounding, tol))
    gap = dropped if len(S) and dropped > rounding * float(S[0]) else 0.0
    alive = hidden.m - int(hidden.gone.sum())
    removed = alive - len(S)
    if removed <= 0:
        return 0
    before = hidden.gone.clone()

    def rewrite() -> float:
        if foldable:
            _fold_bias(bench, hidden)
        root = S.sqrt()[:, None]
        _scatter(writers, root * Y, hidden.m)
        _scatter(hidden.readers, root * X, hidden.m)
        hidden.gone = torch.arange(hidden.m) >= max(len(S), 1)
        return gap

    if bench.attempt("rank", [hidden.group], removed, rewrite, tol):
        return removed
    hidden.gone = before
    return 0


def _factors(A: Tensor, B: Tensor, cut: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return X^T (r, q), S (r), Y^T (r, p) of the product B^T A, and the largest value dropped."""
    Qa, Ra = torch.linalg.qr(A.mT)
    Qb, Rb = torch.linalg.qr(B.mT)
    U, S, Vh = torch.linalg.svd(Rb @ Ra.mT, full_matrices=False)
    top = float(S[0]) if len(S) else 0.0
    rank = int((cut * top < S).sum()) if top > 0 else 0
    dropped = float(S[rank]) if rank < len(S) else 0.0
    return (Qb @ U[:, :rank]).mT, S[:rank], Vh[:rank] @ Qa.mT, dropped


def _scatter(members: Sequence[Member], values: Tensor, m: int) -> None:
    """Write the unit matrix back to its members; units beyond its rows become zero."""
    full = torch.zeros(m, values.shape[1], dtype=values.dtype)
    full[: len(values)] = values
    start = 0
    with torch.no_grad():
        for member in members:
            moved = member.tensor.movedim(member.dim, 0)
            width = moved.numel() // m
            moved.copy_(full[:, start : start + width].reshape(moved.shape))
            start += width


def _foldable(bench: Workbench, hidden: HiddenUnits, writers: Sequence[Member]) -> bool:
    """Say whether the units have a bias that their readers' biases can take over."""
    if not any(member.role == "bias" for member in writers):
        return False
    if any(member.tensor.ndim < 2 for member in hidden.readers):
        return False  # keys: the reader is no module but a product
    for _, module in reader_modules(hidden, bench.model):
        if isinstance(module, CONVOLUTIONS):
            if padded(module):
                return False
        elif not isinstance(module, nn.Linear):
            return False
    whole = all(m.source is not None and m.source.inner == 1 for m in hidden.readers)
    return whole and not hidden.fixed


def _fold_bias(bench: Workbench, hidden: HiddenUnits) -> None:
    """Move ``B^T b`` to the readers' biases and set b to 0."""
    shifts = [m for m in hidden.group.members if m.role == "bias"]
    total = rows(shifts, hidden.m).sum(1)
    for member, module in reader_modules(hidden, bench.model):
        weight = member.tensor.movedim(member.dim, 0)
        per = weight.reshape(hidden.m, weight.shape[1], -1).sum(2)  # (m, out)
        shift_bias(module, total @ per)
    with torch.no_grad():
        for member in shifts:
            member.tensor.zero_()
