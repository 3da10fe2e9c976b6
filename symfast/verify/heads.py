# SPDX-License-Identifier: Apache-2.0
"""Truth case 15: planted rotations and scales of attention heads are found again."""

import torch
from torch import Tensor

from symfast.head_match import match_heads
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least, at_most, near

SOURCE = "Zhang et al. 2025, Theorem 4.1"
HEADS, SIZE, WIDTH = 4, 8, 32


class Attention:
    """One attention layer, all tensors (heads, d_h, width + 1) with the bias as last column."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.Q, self.K, self.V = (
            torch.randn(3, HEADS, SIZE, WIDTH + 1, dtype=torch.float64) / WIDTH**0.5
        ).to(dtype)
        self.O = (torch.randn(HEADS, SIZE, WIDTH, dtype=torch.float64) / WIDTH**0.5).to(dtype)

    def pairs(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(Q, K) and (V, O)."""
        return (self.Q, self.K), (self.V, self.O)

    def moved(self, turns: list[tuple[Tensor, Tensor]]) -> "Attention":
        """``(a R Q, R K / a)`` and ``(a R V, R O / a)``, one (R, a) for each pair."""
        new = object.__new__(Attention)
        (new.Q, new.K), (new.V, new.O) = (
            (a[:, None, None] * R @ A, R @ B / a[:, None, None])
            for (A, B), (R, a) in zip(self.pairs(), turns, strict=True)
        )
        return new

    def distance(self, other: "Attention") -> float:
        """Euclidean distance of all parameters."""
        squares = [
            (A - B).square().sum()
            for A, B in zip(sum(self.pairs(), ()), sum(other.pairs(), ()), strict=True)
        ]
        return float(torch.stack(squares).sum().sqrt())

    def __call__(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        q, k, v = (x @ A.mT for A in (self.Q, self.K, self.V))
        out: Tensor = ((q @ k.mT / SIZE**0.5).softmax(-1) @ v @ self.O).sum(0)
        return out


def plant(dtype: torch.dtype, scales: bool) -> list[tuple[Tensor, Tensor]]:
    """A Haar rotation and a scale in [1/3, 3] (or 1) for each head of both pairs."""
    turns = []
    for _ in range(2):
        R = torch.linalg.qr(torch.randn(HEADS, SIZE, SIZE, dtype=torch.float64)).Q
        a = 3 ** (2 * torch.rand(HEADS, dtype=torch.float64) - 1) if scales else torch.ones(HEADS)
        turns.append((R.to(dtype), a.to(dtype)))
    return turns


def match(anchor: Attention, model: Attention, rescale: bool = True) -> Attention:
    """``model`` with its heads matched to ``anchor``."""
    turns = [
        match_heads(A1, B1, A2, B2, rescale=rescale)
        for (A1, B1), (A2, B2) in zip(anchor.pairs(), model.pairs(), strict=True)
    ]
    return model.moved(turns)


def _noisy(dtype: torch.dtype, size: float) -> tuple[float, float]:
    """Distance after matching a planted copy under noise, and the norm of that noise."""
    anchor = Attention(dtype)
    clean = Attention(dtype)
    clean.Q, clean.K, clean.V, clean.O = anchor.Q, anchor.K, anchor.V, anchor.O
    noise = [size * torch.randn_like(x) for x in (anchor.Q, anchor.K, anchor.V, anchor.O)]
    clean.Q, clean.K, clean.V, clean.O = (
        x + e for x, e in zip((anchor.Q, anchor.K, anchor.V, anchor.O), noise, strict=True)
    )
    total = float(torch.stack([e.square().sum() for e in noise]).sum().sqrt())
    return match(anchor, clean.moved(plant(dtype, False))).distance(anchor), total


def run(quick: bool) -> CaseResult:
    """Recovery in both precisions, with and without scales, and under noise."""
    torch.manual_seed(15)
    checks, sizes = [], [0.0005, 0.005, 0.05] if quick else [0.0005, 0.0015, 0.005, 0.015, 0.05]
    x = torch.randn(20, WIDTH, dtype=torch.float64)
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        for scales in (False, True):
            anchor = Attention(dtype)
            moved = anchor.moved(plant(dtype, scales))
            found = match(anchor, moved)
            far, near_by = moved.distance(anchor), found.distance(anchor)
            what = f"{dtype}, rotations{' and scales' if scales else ''}".removeprefix("torch.")
            change = float((found(x.to(dtype)) - moved(x.to(dtype))).abs().max())
            checks.append(at_most(f"{what}: distance from {far:.1f} to", SOURCE, near_by, limit))
            checks.append(at_most(f"{what}: output changed by", SOURCE, change, limit))
            if scales and dtype == torch.float64:
                only = match(anchor, moved, rescale=False).distance(anchor)
                checks.append(at_least("rotation alone leaves the scales", SOURCE, only, 1.0))
    left = [_noisy(torch.float64, size) for size in sizes]
    for size, (distance, noise) in zip(sizes, left, strict=True):
        claim = f"noise {size:g}: distance is the norm of the noise"
        checks.append(near(claim, SOURCE, noise, distance, 0.08, relative=True))
    series = (
        Series("after matching", sizes, [d for d, _ in left], "points"),
        Series("norm of the noise", sizes, [n for _, n in left]),
    )
    caption = "Four heads of size 8, rotated and noisy: what remains after matching is the noise."
    figure = Curves("noise per entry", "distance to the anchor", series, caption, "log", "log")
    return CaseResult(tuple(checks), figure)


CASES = (Case(15, "rotation and scale recovery", SOURCE, run),)
