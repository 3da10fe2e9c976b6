# SPDX-License-Identifier: Apache-2.0
"""Batched polar factors against torch.linalg.svd and batched Newton-Schulz in torch.

``pytest -s benchmarks/bench_polar.py`` prints the table; accuracy and the ratio are asserted.
"""

import pytest
import torch
from machine import best
from tables import tables
from torch import Tensor

import symfast as sf
from symfast.reference.polar import polar_iterate

pytestmark = pytest.mark.filterwarnings("default")
note, report = tables()


def by_svd(A: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(A)
    return U @ Vh


@pytest.mark.parametrize(("batch", "d"), [(1000, 64), (1000, 32), (2000, 8), (50, 256)])
def test_polar(batch: int, d: int) -> None:
    A = torch.randn(batch, d, d)
    Q, reference = sf.polar(A), by_svd(A)
    defect = torch.linalg.matrix_norm(Q.mT @ Q - torch.eye(d)).max()
    reached = (Q.double() * A).sum((1, 2)) / (reference.double() * A).sum((1, 2))
    ours, svd = best(lambda: sf.polar(A)), best(lambda: by_svd(A), least=3)
    schulz = best(lambda: polar_iterate(A), least=3)
    note(
        "Polar factors, float32",
        batch=f"{batch} x ({d}, {d})",
        ms=f"{ours * 1e3:.2f}",
        over_svd=f"{svd / ours:.1f}x",
        over_the_same_iteration_by_bmm=f"{schulz / ours:.1f}x",
        orthogonality=f"{defect:.1e}",
        objective_against_svd=f"{(reached - 1).abs().max():.1e}",
    )
    assert defect <= 1e-5
    assert (reached - 1).abs().max() <= 1e-6
    if (batch, d) == (1000, 64):
        assert svd / ours >= 5
