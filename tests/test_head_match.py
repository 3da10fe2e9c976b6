# SPDX-License-Identifier: Apache-2.0
"""Matching of heads: planted moves are undone, and no other move is nearer."""

import pytest
import torch
from torch import Tensor

from symfast.head_match import match_heads


def cost(A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, R: Tensor, a: Tensor) -> Tensor:
    a = a[..., None, None]
    return (A1 - a * R @ A2).square().sum((-1, -2)) + (B1 - R @ B2 / a).square().sum((-1, -2))


def test_no_scale_is_better() -> None:
    A1, A2 = torch.randn(2, 50, 4, 9, dtype=torch.float64)
    B1, B2 = torch.randn(2, 50, 4, 7, dtype=torch.float64)
    R, a = match_heads(A1, B1, A2, B2)
    best = cost(A1, B1, A2, B2, R, a)
    for other in torch.logspace(-1.5, 1.5, 400, dtype=torch.float64):
        assert bool((best <= cost(A1, B1, A2, B2, R, other.expand(50)) + 1e-9).all())


def test_no_rotation_is_better() -> None:
    A1, A2, B1, B2 = torch.randn(4, 5, 3, 8, dtype=torch.float64)
    R, a = match_heads(A1, B1, A2, B2, rescale=False)
    assert torch.equal(a, torch.ones(5, dtype=torch.float64))
    best = cost(A1, B1, A2, B2, R, a)
    for _ in range(300):
        other = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64)).Q
        assert bool((best <= cost(A1, B1, A2, B2, other, a) + 1e-9).all())


def test_dead_heads_keep_their_scale() -> None:
    zero, A = torch.zeros(1, 3, 5), torch.randn(1, 3, 5)
    for pair in ((zero, zero), (A, zero), (zero, A)):
        R, a = match_heads(A, A, *pair)
        assert torch.isfinite(R).all()
        assert torch.equal(a, torch.ones(1))


def test_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="agree in shape"):
        match_heads(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3))
