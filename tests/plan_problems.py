# SPDX-License-Identifier: Apache-2.0
"""Problems for plan tests: layouts, symmetries, and the dense formula in float64."""

from collections.abc import Callable

import torch

import symfast as sf

VERBS: dict[str, tuple[float, ...]] = {
    "reflect_": (), "project_": (), "shrink_": (0.3,), "prox_": (0.2,),
}  # fmt: skip
#: unit dim first, last, in the middle, transposed, channels last, a slice with gaps
LAYOUTS: dict[str, Callable[[int, torch.dtype], tuple[torch.Tensor, int]]] = {
    "bias": lambda m, t: (torch.randn(m, dtype=t), 0),
    "first": lambda m, t: (torch.randn(m, 19, dtype=t), 0),
    "last": lambda m, t: (torch.randn(21, m, dtype=t), -1),
    "middle": lambda m, t: (torch.randn(3, m, 5, dtype=t), 1),
    "conv": lambda m, t: (torch.randn(4, m, 3, 3, dtype=t), 1),
    "transposed": lambda m, t: (torch.randn(7, m, dtype=t).t(), 0),
    "channels_last": lambda m, t: (
        torch.randn(4, m, 3, 2, dtype=t).to(memory_format=torch.channels_last), 1),
    "slice": lambda m, t: (torch.randn(9, 2 * m, 4, dtype=t)[1:7, ::2, 1:3], 1),
    "shifted": lambda m, t: (torch.randn(m * 6 + 1, dtype=t)[1:].view(m, 6), 0),
}  # fmt: skip


def unit_matrix(units: sf.Units) -> torch.Tensor:
    """U (m, n) in float64, gathered the obvious way."""
    return torch.cat(
        [t.detach().movedim(dim, 0).reshape(units.m, -1).double() for t, dim in units], dim=1
    )


def symmetries(m: int, seed: int) -> list[sf.symmetry.Symmetry]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(m, generator=generator).tolist()
    h = m // 2
    q = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64)).Q
    return [
        sf.SignFlip(order[: max(1, h)]),
        sf.SignFlip(),
        sf.Swap(order[:h], order[h : 2 * h]),
        sf.Swap(range(h), range(h, 2 * h)),
        sf.Cluster([(i * 7) % 3 - 1 for i in range(m)]),
        sf.Cluster([5] * m),
        sf.Direction(q[:, : min(3, m)]),
        sf.Mirror(q[:, : max(1, h)]),
        sf.Direction(q[:, :0]),
    ]


def expected(
    units: torch.Tensor, symmetry: sf.symmetry.Symmetry, verb: str, mode: str = "l1"
) -> torch.Tensor:
    """U + A (f(C) - C) with a dense frame."""
    frame = symmetry.frame(len(units))
    c = frame.T @ units
    if verb == "reflect_":
        new = -c
    elif verb == "project_":
        new = torch.zeros_like(c)
    elif verb == "shrink_":
        new = 0.7 * c
    elif mode == "l1":
        new = c.sign() * (c.abs() - 0.2).clamp(min=0)
    else:
        blocks = c.split(symmetry.mirrors(len(units)))
        new = torch.cat([b * (1 - 0.2 / b.norm().clamp(min=0.2)) for b in blocks] or [c])
    return units + frame @ (new - c)
