# SPDX-License-Identifier: Apache-2.0
"""AdamW knows product factors of real modules however their parameters came to be."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from two_processes import joined, run_both

import symfast as sf
from symfast.artificial import attached

CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "factorize": lambda m: sf.factorize(m, "0.weight", depth=3),
    "rows": lambda m: sf.factorize(m, "0.weight", per="row"),
    "dcs": lambda m: sf.dcs(m, "0.weight", sf.SignFlip([0])),
    "low_rank": lambda m: sf.low_rank(m, "0.weight"),
    "tucker": lambda m: sf.tucker(m, "0.weight", 3),
}


def make(kind: str) -> nn.Module:
    return CHANGES[kind](nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)))


def warns(parameters: Iterable[torch.Tensor]) -> bool:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        sf.optim.AdamW(parameters, weight_decay=0.1)
    return any("L1 penalty" in str(each.message) for each in found)


def assigned(model: nn.Module) -> nn.Module:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return model


def unpickled(model: nn.Module) -> nn.Module:
    # torch refuses to pickle a parametrized module; its list of tensors is what can be
    lists: nn.Module = pickle.loads(pickle.dumps(model[0].parametrizations))  # type: ignore[index]
    return lists


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fresh": lambda m: m,
    "deepcopied": copy.deepcopy,
    "twice": lambda m: copy.deepcopy(copy.deepcopy(m)),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "assigned": assigned,
    "emptied": lambda m: m.to_empty(device="meta").to_empty(device="cpu"),
    "double": lambda m: m.double(),
    "unpickled": unpickled,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", CHANGES)
def test_warns_of_factors_of_copies(kind: str, way: str) -> None:
    model = COPIES[way](make(kind))
    gc.collect()
    assert warns(model.parameters())
    assert warns(p for p in reversed(list(model.parameters())))


@pytest.mark.parametrize("kind", CHANGES)
def test_does_not_warn_of_anything_else(kind: str) -> None:
    model = make(kind)
    penalised = {id(p) for found in attached(model) for p in found.factors}
    assert not warns(p for p in model.parameters() if id(p) not in penalised)
    for p in [p for p in model.parameters() if id(p) in penalised]:
        assert warns([p])
    copied = copy.deepcopy(model)
    assert not warns(sf.fold(model).parameters())
    assert warns(copied.parameters())
    assert not warns(copy.deepcopy(model).parameters())
    assert not warns(nn.Linear(3, 2).parameters())


def test_knowing_factors_keeps_no_module_alive() -> None:
    model = make("factorize")
    gone = weakref.ref(model[0].parametrizations["weight"])  # type: ignore[index,union-attr]
    sf.fold(model)
    gc.collect()
    assert gone() is None


def run_rank(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    found: dict[str, bool] = {}
    with joined(rank, folder, found) as mesh:
        for kind in ("factorize", "dcs", "low_rank"):
            torch.manual_seed(0)
            model = make(kind)
            inputs = torch.randn(3, 4)
            before = model(inputs).detach()
            fully_shard(model, mesh=mesh)
            found[kind] = warns(model.parameters())
            assert warns(list(next(attached(model)).factors)[:1])
            torch.testing.assert_close(model(inputs).detach(), before, rtol=1e-5, atol=1e-6)
            found[kind] &= warns(model.parameters())
        plain = nn.Linear(4, 6)
        fully_shard(plain, mesh=mesh)
        found["plain"] = warns(plain.parameters())


@pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed")
def test_warns_of_sharded_factors(tmp_path: Path) -> None:
    for found in run_both(run_rank, tmp_path):
        assert found == {"factorize": True, "dcs": True, "low_rank": True, "plain": False}
