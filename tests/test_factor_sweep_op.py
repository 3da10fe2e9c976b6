# SPDX-License-Identifier: Apache-2.0
"""The operator symfast::factor_sweep itself: what it refuses, and torch's own checks of it."""

from typing import Any

import pytest
import torch

from symfast import ops

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")


def operator_arguments(
    replicas: int, slots: int, d: int, dtype: torch.dtype, rule: int = 0
) -> dict[str, Any]:
    """Seven steps of the operator itself, by name and in its order; no random numbers."""
    x, whole = torch.randn(6, d, dtype=dtype), torch.zeros(replicas, dtype=torch.int64)
    factors = 0.5 + torch.rand(replicas, slots, d, dtype=dtype)
    taken = {"gram": x.T @ x / 6, "linear": x[0], "factors": factors, "velocity": factors * 0}
    taken["second"] = factors * 0 if rule else factors[:, :0]
    taken |= {"depth": whole + slots, "factored": torch.arange(d) > 0}
    taken |= {
        name: torch.full((replicas,), 0.01, dtype=dtype) for name in ("lr", "momentum", "lam")
    }
    taken["moments"] = torch.full((2, replicas if rule else 0), 0.9, dtype=dtype)
    tables = {"schedule": torch.ones(1, 7, dtype=dtype), "kind": whole}
    tables |= {"lr_schedule": torch.ones(1, 7, dtype=dtype), "lr_kind": whole, "group": whole[:0]}
    samples = {"x": x, "y": torch.randn(6, 1, dtype=dtype)}
    samples["noise"] = torch.zeros(2, replicas, dtype=dtype)
    samples["draws"] = torch.ones(3, replicas, dtype=torch.int64)
    numbers = {"by_output": False, "rule": rule, "first_step": 0, "tol": 0.0, "check_every": 3}
    return taken | tables | samples | numbers | {"progress": torch.zeros(2, dtype=torch.int64)}


@needs_kernels
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gram", torch.ones(2, 2, dtype=torch.float64)),
        ("velocity", torch.ones(5, 2, 2, dtype=torch.float64)),
        ("depth", torch.full((5,), 9)),
        ("depth", torch.ones(5)),
        ("factored", torch.ones(3)),
        ("lr", torch.ones(4, dtype=torch.float64)),
        ("schedule", torch.ones(1, 7)),
        ("lr_schedule", torch.ones(1, 6, dtype=torch.float64)),
        ("lr_kind", torch.ones(5, dtype=torch.int64)),
        ("x", torch.ones(5, 3, dtype=torch.float64)),
        ("y", torch.ones(6, 2, dtype=torch.float64)),
        ("noise", torch.ones(1, 5, dtype=torch.float64)),
        ("draws", torch.ones(3, 4, dtype=torch.int64)),
        ("draws", -torch.ones(3, 5, dtype=torch.int64)),
        ("first_step", -1),
        ("check_every", 0),
        ("progress", torch.zeros(1, dtype=torch.int64)),
    ],
)
def test_operator_protects_memory(name: str, value: object) -> None:
    """The operator itself, reached without the public function, raises too."""
    arguments = operator_arguments(5, 2, 3, torch.float64)
    torch.ops.symfast.factor_sweep.default(*arguments.values())
    with pytest.raises(RuntimeError, match="factor_sweep: "):
        torch.ops.symfast.factor_sweep.default(*(arguments | {name: value}).values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_opcheck(dtype: torch.dtype) -> None:
    arguments = operator_arguments(5, 3, 4, dtype)
    torch.library.opcheck(torch.ops.symfast.factor_sweep.default, tuple(arguments.values()))
