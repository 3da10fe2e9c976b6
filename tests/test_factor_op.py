# SPDX-License-Identifier: Apache-2.0
"""Product factors: kernels against the reference, gradients, torch's own checks, threads."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close

from symfast import ops
from symfast.codes import ACCUMULATE
from symfast.factor_op import factor_step_, multiply
from symfast.reference import factor as formula

SHAPES = [(), (0,), (1,), (7,), (33, 5), (3, 1001)]
DEPTHS = [2, 3, 4, 5, 6]
PRODUCT = torch.ops.symfast.factor_product.default
GRADIENTS = torch.ops.symfast.factor_gradients.default
#: a few units in the last place, in the type that is multiplied in
TOLERANCE = {
    torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3,
}  # fmt: skip


def factors_of(depth: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    factors = [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(depth)]
    if factors[0].numel() > 3:
        factors[0].view(-1)[:2] = 0.0  # a zero factor: no quotient may be taken
        factors[1].view(-1)[1] = 0.0
    return factors


def step_inputs(
    shape: tuple[int, ...], depth: int, dtype: torch.dtype, momentum: bool
) -> list[list[Tensor]]:
    wide = ACCUMULATE[dtype]
    return [
        [torch.randn(shape, dtype=torch.float64).to(dtype)],
        [torch.randn(shape, dtype=torch.float64).to(dtype)],
        [torch.randn((depth, *shape), dtype=wide)],
        [torch.randn((depth, *shape), dtype=wide)] if momentum else [],
    ]


def settings(*rows: tuple[float, float, float], device: Any = "cpu") -> Tensor:
    """lr, momentum and decay, as a step wants them."""
    return torch.tensor(rows, dtype=torch.float64, device=device)


def assert_close_to_largest(got: Tensor, wanted: Tensor, tol: float) -> None:
    """Within tol of the largest number there; sums of large products may cancel."""
    scale = float(wanted.double().abs().max()) if wanted.numel() else 1.0
    assert_close(got, wanted, rtol=tol, atol=tol * scale)


@pytest.mark.parametrize("depth", DEPTHS)
def test_product_and_gradients_equal_the_reference(
    depth: int, dtype: torch.dtype, device: torch.device, capability: str
) -> None:
    for shape in SHAPES:
        factors = [x.to(device) for x in factors_of(depth, shape, dtype)]
        g = torch.randn(shape, dtype=torch.float64).to(device, dtype)
        tol = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] * 1e-2}
        assert_close(PRODUCT(factors), formula.factor_product(factors), **tol)
        wanted = formula.factor_gradients(g, factors)
        for ours, theirs in zip(GRADIENTS(g, factors), wanted, strict=True):
            assert_close(ours, theirs, **tol)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("depth", DEPTHS)
def test_step_equals_the_reference(
    depth: int, momentum: float, dtype: torch.dtype, device: torch.device, capability: str
) -> None:
    for shape in SHAPES:
        ours = [[x.to(device) for x in xs] for xs in step_inputs(shape, depth, dtype, momentum > 0)]
        theirs = [[x.clone() for x in xs] for xs in ours]
        table = settings((0.1, momentum, 0.3), device=device)
        factor_step_(*ours, table, [0])
        formula.factor_step_(*theirs, table, [0])
        for got, wanted in zip(ours[2] + ours[3], theirs[2] + theirs[3], strict=True):
            assert_close_to_largest(got, wanted, 1e-13 if got.dtype == torch.float64 else 3e-6)
        assert_close_to_largest(ours[0][0], theirs[0][0], max(TOLERANCE[dtype], 1e-13))
        assert torch.equal(ours[1][0], theirs[1][0])


def test_step_is_sgd_on_the_product() -> None:
    """Against autograd of the product and torch's own SGD with coupled decay."""
    for depth in DEPTHS:
        start = 0.5 + 0.3 * torch.randn(depth, 11, dtype=torch.float64)
        params = [torch.nn.Parameter(x.clone()) for x in start]
        optimizer = torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=0.2)
        weight, factors, velocity = start.prod(0), start.clone(), torch.zeros_like(start)
        for _ in range(20):
            target = torch.randn(11, dtype=torch.float64)
            optimizer.zero_grad()
            (multiply(list(params)) - target).square().sum().backward()
            optimizer.step()
            gradient = 2 * (weight - target)
            table = settings((0.01, 0.9, 0.2))
            factor_step_([weight], [gradient], [factors], [velocity], table, [0])
        assert_close(factors, torch.stack([p.detach() for p in params]), rtol=1e-12, atol=1e-13)
        assert_close(weight, factors.prod(0), rtol=1e-14, atol=1e-15)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
def test_results_do_not_depend_on_the_thread_count(dtype: torch.dtype) -> None:
    shape = (3, 50_001)
    inputs, factors = step_inputs(shape, 3, dtype, True), factors_of(3, shape, dtype)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        mine = [[x.clone() for x in xs] for xs in inputs]
        factor_step_(*mine, settings((0.1, 0.9, 0.3)), [0])
        found.append(
            [*mine[0], *mine[2], *mine[3], PRODUCT(factors), *GRADIENTS(factors[0], factors)]
        )
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_many_weights_of_several_kinds_in_one_call(device: torch.device) -> None:
    """Depths, momentum or not, and settings differ from weight to weight."""
    kinds = [(2 + i % 5, i % 3 == 0, i % 4) for i in range(120)]
    parts = [
        step_inputs((1 + i % 9, 3), depth, torch.float32, moves)
        for i, (depth, moves, _) in enumerate(kinds)
    ]
    none = torch.zeros(0)
    ours = [[(part[i][0] if part[i] else none).to(device) for part in parts] for i in range(4)]
    theirs = [[x.clone() for x in xs] for xs in ours]
    table = settings(*((0.1 / n, 0.9 / n, 0.3 * n) for n in range(1, 5)), device=device)
    rows = [row for _, _, row in kinds]
    factor_step_(*ours, table, rows)
    formula.factor_step_(*theirs, table, rows)
    for got, wanted in zip(sum(ours, []), sum(theirs, []), strict=True):
        assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    alone = [[x.clone() for x in xs] for xs in theirs]
    for i, row in enumerate(rows):
        formula.factor_step_(*([xs[i]] for xs in alone), table, [row])
    formula.factor_step_(*theirs, table, rows)
    assert all(torch.equal(a, b) for a, b in zip(sum(alone, []), sum(theirs, []), strict=True))


@pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
def test_decaying_weights_reach_zero_exactly() -> None:
    """The factors stop at the smallest normal numbers, whose products are zero."""
    weight, factors = torch.ones(5), torch.full((2, 5), 1e-18)
    for _ in range(1000):
        factor_step_([weight], [torch.zeros(5)], [factors], [], settings((0.5, 0.0, 0.2)), [0])
    assert torch.equal(weight, torch.zeros(5))
    assert float(factors.max()) < 1e-36


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_gradients_of_first_and_second_order(depth: int) -> None:
    factors = [x.requires_grad_() for x in factors_of(depth, (4,), torch.float64)]
    assert torch.autograd.gradcheck(lambda *f: multiply(list(f)), factors)
    assert torch.autograd.gradgradcheck(lambda *f: multiply(list(f)), factors)


def test_torch_func() -> None:
    f, g = torch.randn(5, 3), torch.randn(3)
    out = torch.func.vmap(lambda x: multiply([x, g]))(f)
    assert_close(out, f * g)
    grad = torch.func.vmap(torch.func.grad(lambda x: multiply([x, x, g]).sum()))(f)
    assert_close(grad, 2 * f * g)
    cube = torch.func.grad(lambda x: multiply([x, x, x]).sum())
    hessian = torch.func.jacrev(cube)(g)
    assert_close(hessian, torch.diag(6 * g))


@pytest.mark.parametrize("shape", [(3, 4), (0,)], ids=str)
def test_opcheck(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    for needed in (False, True):
        factors = [x.to(device).requires_grad_(needed) for x in factors_of(3, shape, dtype)]
        opcheck(PRODUCT, (factors,))
        opcheck(GRADIENTS, (factors[0].detach(), factors))
    step = [[x.to(device) for x in xs] for xs in step_inputs(shape, 3, dtype, True)]
    table = settings((0.1, 0.9, 0.3), device=device)
    opcheck(torch.ops.symfast.factor_step_.default, (*step, table, [0]))


def test_noncontiguous_factors() -> None:
    x, y = torch.randn(4, 6).T, torch.randn(6, 4)
    assert_close(multiply([x, y]), x * y)
    assert_close(GRADIENTS(y, [x, y])[0], y * y)


def bad_steps() -> list[tuple[object, ...]]:
    w, g, f, v = (x[0] for x in step_inputs((4, 3), 2, torch.float32, True))
    t = settings((0.1, 0.9, 0.0))
    return [
        ([w], [], [f], [], t, [0]),
        ([w], [g[:2]], [f], [], t, [0]),
        ([w], [g.double()], [f], [], t, [0]),
        ([w.T], [g.T], [f.mT], [], t, [0]),
        ([w], [g], [f.double()], [], t, [0]),
        ([w], [g], [f[:1]], [], t, [0]),
        ([w], [g], [f], [v, v], t, [0]),
        ([w], [g], [f], [v[:, :2]], t, [0]),
        ([w], [g], [f], [v.double()], t, [0]),
        ([w.long()], [g.long()], [f], [], t, [0]),
        ([w], [g], [f], [], t, []),
        ([w], [g], [f], [], t, [1]),
        ([w], [g], [f], [], t, [-1]),
        ([w], [g], [f], [], t.float(), [0]),
        ([w], [g], [f], [], t[:, :2], [0]),
        ([w], [g], [f], [], t[0], [0]),
    ]


@pytest.mark.parametrize("number", range(len(bad_steps())))
def test_step_refuses_what_does_not_fit(number: int) -> None:
    weights, *rest = bad_steps()[number]
    before = [w.clone() for w in weights]  # type: ignore[attr-defined]
    for call in (factor_step_, formula.factor_step_):
        with pytest.raises(RuntimeError, match="give|must"):
            call(weights, *rest)
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "factors",
    [[], [torch.ones(2)], [torch.ones(2)] * 7, [torch.ones(2), torch.ones(3)],
     [torch.ones(2), torch.ones(2).double()], [torch.ones(2).long()] * 2],
    ids=range(6),
)  # fmt: skip
def test_product_refuses_what_does_not_fit(factors: list[Tensor]) -> None:
    for call in (PRODUCT, formula.factor_product):
        with pytest.raises(RuntimeError, match="needs|must"):
            call(factors)
