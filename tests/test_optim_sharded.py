# SPDX-License-Identifier: Apache-2.0
"""DTensor parameters: steps on what a process holds; symmetries within it, none across."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import Parameter

import symfast as sf

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "s"), 1), rank=0,
                            world_size=1)  # fmt: skip
    try:
        yield dist.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def sharded(mesh: Any, tensor: torch.Tensor, dim: int) -> Parameter:
    from torch.distributed.tensor import Shard, distribute_tensor

    return Parameter(distribute_tensor(tensor, mesh, [Shard(dim)]))


@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_constrains_along_an_unsharded_dim(mesh: Any, rule: str) -> None:
    whole = torch.randn(6, 4)
    w, twin = sharded(mesh, whole, 0), Parameter(whole.clone())
    swap = sf.Swap([0], [1])
    optimizers = [
        getattr(sf.optim, rule)([p], lr=0.1, plan=sf.Plan([(sf.Units([(p, 1)]), swap)]))
        for p in (w, twin)
    ]
    for _ in range(3):
        for p, optimizer in zip((w, twin), optimizers, strict=True):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
    local = w.to_local()
    assert torch.equal(local, twin)
    assert torch.equal(local[:, 0], local[:, 1])
    if rule == "AdamW":
        assert type(optimizers[0].state[w]["exp_avg"]) is type(w.data)


def test_refuses_across_a_shard(mesh: Any) -> None:
    w = sharded(mesh, torch.randn(6, 4), 0)
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap([0], [1]))])
    with pytest.raises(ValueError, match="different processes"):
        sf.optim.SGD([w], lr=0.1, plan=plan)


@pytest.mark.parametrize("drawn", [{"noise": 0.1}, {"anchor": sf.Anchor(0.1), "weight_decay": 0.1}])
def test_refuses_random_numbers_on_shards(mesh: Any, drawn: dict[str, Any]) -> None:
    """Each would count its elements from 0, and draw what the others draw."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    whole = torch.randn(6, 4)
    with pytest.raises(RuntimeError, match="sharded over processes"):
        sf.optim.SGD([sharded(mesh, whole, 0)], lr=0.1, **drawn)
    copy = Parameter(distribute_tensor(whole.clone(), mesh, [Replicate()]))
    twin = Parameter(whole.clone())
    for p in (copy, twin):
        optimizer = sf.optim.SGD([p], lr=0.1, **drawn)
        (p * p).sum().backward()
        optimizer.step()
    assert torch.equal(copy.to_local(), twin)
    late = sharded(mesh, whole, 0)
    optimizer = sf.optim.SGD([late], lr=0.1, weight_decay=0.1)
    optimizer.param_groups[0].update(drawn if "noise" in drawn else {"anchor": {"sigma": 0.1}})
    late.grad = torch.zeros_like(late)
    with pytest.raises(RuntimeError, match="sharded over processes"):
        optimizer.step()
