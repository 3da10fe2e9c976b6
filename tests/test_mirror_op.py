# SPDX-License-Identifier: Apache-2.0
"""The mirror operators: kernels against the reference, rounding, threads, torch's own checks."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close

from symfast import mirror, ops
from symfast.codes import ACCUMULATE
from symfast.reference import mirror as formula

#: (groups, rows, d, k)
SIZES = [
    (1, 1, 1, 1),
    (3, 5, 64, 4),
    (2, 1, 1024, 8),
    (50, 2, 16, 1),
    (2, 9, 33, 33),
    (1, 70, 7, 3),
]
EMPTY = [(0, 2, 3, 1), (2, 0, 3, 1), (2, 2, 3, 0), (2, 2, 0, 0)]
#: verb and mode of mirror_apply, or the name of an operator that only reads
Call = tuple[int, int] | str
READS = {"coefficients": formula.mirror_coefficients, "norms": formula.mirror_norms}
VERBS: list[Call] = [*READS, (0, 0), (1, 0), (2, 0), (3, 0), (3, 1)]


def frame(groups: int, d: int, k: int) -> Tensor:
    entries = torch.randn(groups, d, k, dtype=torch.float64)
    return torch.linalg.qr(entries).Q if entries.numel() else entries


def operands(
    sizes: tuple[int, ...], dtype: torch.dtype, wide_frame: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    groups, rows, d, k = sizes
    wide = ACCUMULATE[dtype]
    theta = torch.randn(groups, rows, d).to(dtype)
    O = frame(groups, d, k).to(wide if wide_frame else dtype)
    return theta, O, torch.rand(groups, rows, dtype=wide)


def reading(name: str) -> Any:
    return getattr(torch.ops.symfast, f"mirror_{name}").default


def call(verb: Call, theta: Tensor, O: Tensor, amounts: Tensor) -> Tensor:
    if isinstance(verb, str):
        return reading(verb)(theta, O)
    return torch.ops.symfast.mirror_apply.default(theta, O, amounts, *verb)


def exact(verb: Call, theta: Tensor, O: Tensor, amounts: Tensor) -> Tensor:
    """The formula in float64 on the inputs as they are rounded."""
    wide = theta.double(), O.double()
    if isinstance(verb, str):
        return READS[verb](*wide)
    return formula.mirror_apply(*wide, amounts.double(), *verb)


def assert_rounded_once(got: Tensor, wanted: Tensor, theta: Tensor) -> None:
    """Within one ulp of the output's dtype, plus what summing in the accumulate dtype may lose."""
    info = torch.finfo(got.dtype)
    if got.dtype in (torch.float32, torch.float64):
        ulp = torch.zeros_like(wanted)
    else:
        size = wanted.abs().clamp_min(info.tiny)
        ulp = info.eps * torch.exp2(size.log2().floor())
    scale = float(theta.double().norm(dim=-1).amax()) if theta.numel() else 1.0
    slack = 1e-12 if got.dtype == torch.float64 else 4e-6
    assert got.shape == wanted.shape
    assert ((got.double() - wanted).abs() <= ulp + slack * scale).all()


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_operators_round_once(verb: Call, dtype: torch.dtype, device: torch.device) -> None:
    for sizes, wide_frame in product(SIZES + EMPTY, (False, True)):
        theta, O, amounts = (x.to(device) for x in operands(sizes, dtype, wide_frame))
        for given in (amounts, amounts.new_full((1, 1), 0.5)):
            got = call(verb, theta, O, given)
            assert got.is_contiguous()
            assert_rounded_once(got, exact(verb, theta, O, given), theta)


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_every_instruction_set_equals_the_reference(capability: str, verb: Call) -> None:
    for sizes in SIZES:
        theta, O, amounts = operands(sizes, torch.float64)
        wanted = exact(verb, theta, O, amounts)
        size = float(theta.abs().max())
        assert_close(call(verb, theta, O, amounts), wanted, rtol=1e-12, atol=1e-12 * size)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif(not ops.has_kernels(), reason="torch's own sums depend on the thread count")
@pytest.mark.parametrize("verb", VERBS, ids=str)
@pytest.mark.parametrize("sizes", [(1, 3000, 40, 3), (700, 2, 65, 4), (1, 2, 20_000, 5)], ids=str)
def test_results_do_not_depend_on_the_thread_count(
    verb: Call, sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    groups, rows, d, k = sizes
    theta, O = torch.randn(groups, rows, d).to(dtype), torch.randn(groups, d, k).to(dtype) / d**0.5
    amounts = torch.rand(groups, rows, dtype=ACCUMULATE[dtype])
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(call(verb, theta, O, amounts))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def check(verb: Call, args: tuple[Tensor, ...], quick: bool) -> None:
    """opcheck; the quick one leaves out the run through the compiler's front end."""
    quickly = ("test_schema", "test_autograd_registration", "test_faketensor")
    utilities = quickly if quick else (*quickly, "test_aot_dispatch_dynamic")
    if isinstance(verb, str):
        opcheck(reading(verb), args[:2], test_utils=utilities)
    else:
        opcheck(torch.ops.symfast.mirror_apply.default, (*args, *verb), test_utils=utilities)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 2), *EMPTY[:3]], ids=str)
def test_opcheck(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    for requires_grad, verb in product((False, True), VERBS):
        args = tuple(x.to(device).requires_grad_(requires_grad) for x in operands(sizes, dtype))
        check(verb, args, quick=True)


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_opcheck_of_compiled_gradients(verb: Call, device: torch.device) -> None:
    args = tuple(x.to(device).requires_grad_() for x in operands((2, 3, 4, 2), torch.float32))
    check(verb, args, quick=False)


@pytest.mark.parametrize("sizes", EMPTY[1:3], ids=str)
def test_opcheck_of_compiled_gradients_of_nothing(
    sizes: tuple[int, ...], device: torch.device
) -> None:
    args = tuple(x.to(device).requires_grad_() for x in operands(sizes, torch.bfloat16))
    check((3, 1), args, quick=False)


def test_opcheck_of_strided_operands(device: torch.device) -> None:
    theta, O, amounts = (x.to(device) for x in operands((2, 3, 4, 2), torch.float32))
    theta, O = theta.mT.contiguous().mT, O.mT.contiguous().mT
    for name in READS:
        opcheck(reading(name), (theta, O))
    opcheck(torch.ops.symfast.mirror_apply.default, (theta, O, amounts, 3, 0))
    whole = theta.new_ones(1, 1, 1).expand(2, 3, 4)
    opcheck(torch.ops.symfast.mirror_apply.default, (whole, O, amounts, 1, 0))


def bad_calls() -> list[tuple[object, ...]]:
    theta, O, amounts = operands((2, 3, 4, 2), torch.float32)
    return [
        (theta[0], O, amounts, 0, 0),
        (theta, O[0], amounts, 0, 0),
        (theta[:1], O, amounts, 0, 0),
        (theta[..., :3], O, amounts, 0, 0),
        (theta.long(), O, amounts, 0, 0),
        (theta, O.double(), amounts, 0, 0),
        (theta, O, amounts.double(), 2, 0),
        (theta, O, amounts[:1], 2, 0),
        (theta, O, amounts[0], 2, 0),
        (theta, O, amounts, 4, 0),
        (theta, O, amounts, -1, 0),
        (theta, O, amounts, 3, 2),
    ]


@pytest.mark.parametrize("number", range(len(bad_calls())))
def test_operators_refuse_what_does_not_fit(number: int) -> None:
    theta, O, amounts, verb, mode = bad_calls()[number]
    fit = "got|fit|differ|dtype|float|together|verb|mode|amounts|groups"
    with pytest.raises(RuntimeError, match=fit):
        torch.ops.symfast.mirror_apply.default(theta, O, amounts, verb, mode)
    if number < 6:
        for name in READS:
            with pytest.raises(RuntimeError, match=fit):
                reading(name)(theta, O)


def test_functions_run_past_the_idle_autograd_layer() -> None:
    theta, O = torch.randn(3, 4, requires_grad=True), frame(1, 4, 2)[0].float()
    with torch.no_grad():
        assert not mirror.project(theta, O).requires_grad
    assert mirror.project(theta, O).requires_grad
    with torch.inference_mode():
        assert mirror.project(theta.detach(), O).is_inference()
