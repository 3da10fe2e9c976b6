# SPDX-License-Identifier: Apache-2.0
"""The operator of the optimizers: kernels equal the reference, on every instruction set."""

import copy
from typing import Any

import pytest
import torch
from update_problems import SHAPES, STEPS, arguments, changed, expected

import symfast as sf
from symfast import update as _declared  # noqa: F401
from symfast.reference import update as formula

update_ = torch.ops.symfast.update_.default
#: Relative error in units of eps; half types are rounded once, from float32.
UNITS = {torch.float64: 40, torch.float32: 40, torch.bfloat16: 1.01, torch.float16: 1.01}


#: More than one share of work each, and many small ones.
MANY = [(3, 5), (70000,), (300, 130), *[(700,)] * 60]


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.isfinite(got).all()
    error = ((got.double() - wanted.double()).abs() / (1 + wanted.double().abs())).max()
    assert error.item() <= UNITS[got.dtype] * torch.finfo(got.dtype).eps


@pytest.mark.parametrize("name", list(STEPS))
def test_kernels_equal_reference(
    name: str, dtype: torch.dtype, device: torch.device, capability: str
) -> None:
    given = arguments(name, dtype)
    wanted = expected(given)
    given = [[t.to(device) for t in x] if isinstance(x, list) else x for x in given]
    given[6:] = [table.to(device) for table in given[6:]]
    update_(*given)
    for got, want in zip(changed(given), changed(wanted), strict=True):
        if got.numel():
            close(got.cpu(), want)


@pytest.mark.parametrize("name", list(STEPS))
def test_reference_in_own_dtype(name: str, dtype: torch.dtype) -> None:
    given = arguments(name, dtype)
    wanted = expected(given)
    formula.update_(*given)
    for got, want in zip(changed(given), changed(wanted), strict=True):
        if got.numel():
            close(got, want)


@pytest.mark.parametrize("name", list(STEPS))
def test_instruction_sets_give_the_same_bits(name: str, dtype: torch.dtype) -> None:
    from symfast import _C

    info = sf.build_info()["supported_isas"]
    assert isinstance(info, list)
    before, results = _C.cpu_capability(), []
    try:
        for isa in info:
            _C.set_cpu_capability(isa)
            given = arguments(name, dtype)
            update_(*given)
            results.append(changed(given))
    finally:
        _C.set_cpu_capability(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sgd nesterov decay", "adamw anchor noise"])
def test_threads_and_cuts_change_nothing(name: str) -> None:
    """One thread or several, and a parameter alone or among others: the same bits."""
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            given = arguments(name, torch.float32, MANY)
            update_(*given)
            results.append(changed(given))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
    alone = arguments(name, torch.float32, MANY)
    alone[1:6] = [x[2:3] for x in alone[1:6]]
    alone[7] = alone[7][2:3].contiguous()
    update_(*alone)
    assert torch.equal(alone[1][0], results[0][2])


def test_scaler(capability: str) -> None:
    given = arguments("adamw", torch.float32)
    wanted = expected(given, grad_scale=torch.tensor(8.0))
    update_(*given, torch.tensor(8.0), torch.tensor(0.0))
    for got, want in zip(changed(given), changed(wanted), strict=True):
        if got.numel():
            close(got, want)
    before = copy.deepcopy(given)
    update_(*given, torch.tensor(8.0), torch.tensor(1.0))
    for got, old in zip(changed(given), changed(before), strict=True):
        assert torch.equal(got, old)


def test_infinite_gradients_stay_where_they_are() -> None:
    given = arguments("adamw", torch.float32)
    given[2][2][5, 7] = torch.inf
    given[2][5][0, 0] = torch.nan
    wanted = expected(given)
    update_(*given)
    for got, want in zip(given[1], wanted[1], strict=True):
        assert torch.equal(got.isfinite(), want.isfinite())


BROKEN: dict[str, tuple[int, Any]] = {
    "rule 7": (0, lambda x: 7),
    "gradients": (2, lambda x: x[1:]),
    "first states": (3, lambda x: x[1:]),
    "second state": (4, lambda x: x[1:]),
    "steps": (5, lambda x: x[1:]),
    "settings must have shape": (6, lambda x: x[:, 1:].contiguous()),
    "strides": (2, lambda x: [x[0].T.contiguous().T, *x[1:]]),
    "sizes": (2, lambda x: [x[0].T.contiguous(), *x[1:]]),
    "dtype": (2, lambda x: [x[0].double(), *x[1:]]),
}


@pytest.mark.parametrize("what", list(BROKEN))
@pytest.mark.parametrize("way", ["kernel", "reference"])
def test_refuses_in_words_and_changes_nothing(what: str, way: str) -> None:
    given = arguments("adamw", torch.float32)
    before = copy.deepcopy(changed(given))
    place, breaks = BROKEN[what]
    kept = changed(given)
    given[place] = breaks(given[place])
    call = update_ if way == "kernel" else formula.update_
    with pytest.raises(RuntimeError, match=r"symfast: .*" + what.split()[0]):
        call(*given)
    for got, old in zip(kept, before, strict=True):
        assert torch.equal(got, old)


def test_kernel_refuses_gaps_and_wrong_rows() -> None:
    given = arguments("sgd", torch.float32, [(4, 6)])
    given[7] = torch.tensor([[9, 0, 0, 0]])
    with pytest.raises(RuntimeError, match="names no row"):
        update_(*given)
    wide = [torch.zeros(4, 12)[:, :6]]
    given[1], given[2], given[7] = wide, wide, torch.tensor([[1, 0, 0, 0]])
    with pytest.raises(RuntimeError, match="does not fill its memory"):
        update_(*given)


@pytest.mark.parametrize("name", ["sgd", "adamw anchor noise"])
def test_opcheck(name: str) -> None:
    given = arguments(name, torch.float32, SHAPES[:3])
    torch.library.opcheck(update_, tuple(given))
