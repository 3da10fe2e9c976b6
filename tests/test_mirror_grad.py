# SPDX-License-Identifier: Apache-2.0
"""Derivatives and vmap of the mirror functions, to second order and under torch.func."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from symfast import mirror, reference

# torch's own forward-mode rules are loaded through a deprecated part of torch on first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

Function = Callable[..., Tensor]


def prox_group(theta: Tensor, O: Tensor, threshold: Tensor) -> Tensor:
    return mirror.prox(theta, O, threshold, mode="group")


PLAIN = [mirror.coefficients, mirror.norms, mirror.reflect, mirror.project]
WITH_AMOUNT = [mirror.shrink, mirror.prox, prox_group]
#: theta batch, O batch
BATCHES = [
    ((), ()),
    ((3,), ()),
    ((), (2,)),
    ((2,), (2,)),
    ((3, 1), (2,)),
    ((2, 3), (2, 1)),
    ((2, 3, 1), (2,)),
]


def operands(rows: tuple[int, ...], groups: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    theta = torch.randn(*rows, 5, dtype=torch.float64)
    O = torch.linalg.qr(torch.randn(*groups, 5, 2, dtype=torch.float64)).Q
    return theta.requires_grad_(), O.requires_grad_()


def amount_of(shape: tuple[int, ...]) -> Tensor:
    """Between 0.2 and 0.7: coefficients on both sides, none near the edge but by bad luck."""
    return (torch.rand(shape, dtype=torch.float64) / 2 + 0.2).requires_grad_()


@pytest.mark.parametrize(("rows", "groups"), BATCHES, ids=str)
@pytest.mark.parametrize("function", PLAIN)
def test_gradients(function: Function, rows: tuple[int, ...], groups: tuple[int, ...]) -> None:
    args = operands(rows, groups)
    assert gradcheck(function, args, check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(function, args)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("rows", "groups"), BATCHES[1::2], ids=str)
@pytest.mark.parametrize("function", WITH_AMOUNT)
def test_gradients_with_amounts(
    function: Function, rows: tuple[int, ...], groups: tuple[int, ...], shared: bool
) -> None:
    batch = () if shared else tuple(torch.broadcast_shapes(rows, groups))
    args = *operands(rows, groups), amount_of(batch)
    assert gradcheck(function, args, check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(function, args)


@pytest.mark.parametrize("needed", list(product([False, True], repeat=3))[1:], ids=str)
@pytest.mark.parametrize("function", WITH_AMOUNT)
def test_gradients_of_some_inputs(function: Function, needed: tuple[bool, ...]) -> None:
    args = *operands((3,), ()), amount_of((3,))
    wanted = torch.autograd.grad(function(*args).square().sum(), args)
    some = [x.detach().requires_grad_(need) for x, need in zip(args, needed, strict=True)]
    function(*some).square().sum().backward()
    for x, gradient, need in zip(some, wanted, needed, strict=True):
        if need:
            assert_close(x.grad, gradient)
        else:
            assert x.grad is None


@pytest.mark.parametrize("verb", [mirror.reflect, mirror.project])
def test_the_backward_of_a_mirror_is_itself(verb: Function, dtype: torch.dtype) -> None:
    theta, O = (x.detach().to(dtype) for x in operands((4,), ()))
    cotangent = torch.randn_like(theta)
    out = verb(theta.requires_grad_(), O)
    (gradient,) = torch.autograd.grad(out, theta, cotangent)
    assert torch.equal(gradient, verb(cotangent, O))


def test_half_gradients_have_the_dtypes_of_their_inputs() -> None:
    theta, O = (x.detach() for x in operands((4,), ()))
    for half, frame in product((torch.bfloat16, torch.float16), (None, torch.float32)):
        leaves = theta.to(half).requires_grad_(), O.to(frame or half).requires_grad_()
        got = torch.autograd.grad(mirror.prox(*leaves, 0.1).sum(), leaves)
        twins = tuple(x.detach().double().requires_grad_() for x in leaves)
        wanted = torch.autograd.grad(mirror.prox(*twins, 0.1).sum(), twins)
        for x, gradient, exact in zip(leaves, got, wanted, strict=True):
            assert gradient.dtype == x.dtype
            assert_close(gradient.double(), exact, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("function", [prox_group, mirror.prox])
def test_gradients_are_finite_where_the_norm_is_not_smooth(function: Function) -> None:
    theta, O = operands((3,), ())
    plane = mirror.project(theta.detach(), O.detach()).mul(0).requires_grad_()
    threshold = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(function(plane, O, threshold).sum(), (plane, O, threshold))
    assert all(x.isfinite().all() for x in gradients)
    assert_close(mirror.project(gradients[0], O), gradients[0])
    (slope,) = torch.autograd.grad(mirror.norms(plane, O).sum(), plane)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_autocast_changes_nothing() -> None:
    theta, O = (x.detach().float().requires_grad_() for x in operands((3,), ()))
    plain = mirror.prox(theta, O, 0.1)
    wanted = torch.autograd.grad(plain.sum(), (theta, O))
    with torch.autocast("cpu", torch.bfloat16):
        got = mirror.prox(theta, O, 0.1)
        assert_close(reference.prox(theta, O, 0.1), plain)
        gradients = torch.autograd.grad(got.sum(), (theta, O))
    assert_close(got, plain)
    assert_close(gradients, wanted)


# ---- torch.func ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shrink", "prox"])
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_torch_func_equals_the_reference(name: str, argument: int) -> None:
    args = tuple(x.detach() for x in (*operands((3,), ()), amount_of((3,))))
    loss, wanted = (
        lambda *x, module=module: getattr(module, name)(*x).square().sum()
        for module in (mirror, reference)
    )
    for transform in (grad, jacrev, jacfwd, hessian):
        assert_close(transform(loss, argument)(*args), transform(wanted, argument)(*args))
    twice = grad(lambda x, f: grad(lambda y: f(y, *args[1:]))(x).square().sum())
    assert_close(twice(args[0], loss), twice(args[0], wanted))


def test_forward_mode_equals_the_derivative() -> None:
    args = tuple(x.detach() for x in (*operands((3, 1), (2,)), amount_of((3, 2))))
    tangents = tuple(torch.randn_like(x) for x in args)
    for function in WITH_AMOUNT:
        out, slope = jvp(function, args, tangents)
        assert_close(out, function(*args))
        step = 1e-6
        ahead = function(*(x + step * t for x, t in zip(args, tangents, strict=True)))
        assert_close((ahead - out) / step, slope, rtol=1e-4, atol=1e-4)


def test_per_sample_gradients_equal_a_loop() -> None:
    theta, O = (x.detach() for x in operands((4,), ()))
    loss = lambda x, o: prox_group(x, o, torch.tensor(0.3)).square().sum()  # noqa: E731
    rows = vmap(grad(loss, (0, 1)), (0, None))(theta, O)
    for i, x in enumerate(theta):
        for batched, single in zip(rows, grad(loss, (0, 1))(x, O), strict=True):
            assert_close(batched[i], single)


# ---- vmap ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_dims", list(product([None, 0, 1], repeat=3))[1:], ids=str)
@pytest.mark.parametrize("function", [*PLAIN, *WITH_AMOUNT])
def test_vmap_equals_a_loop(function: Function, in_dims: tuple[int | None, ...]) -> None:
    count = 3 if function in WITH_AMOUNT else 2
    in_dims = in_dims[:count] if set(in_dims[:count]) != {None} else (0,) * count
    for rows, groups in ((4,), ()), ((4, 1), (2,)), ((4,), (4,)):
        amount = amount_of(tuple(torch.broadcast_shapes(rows, groups))).detach()
        plain = [x.detach() for x in (*operands(rows, groups), amount)][:count]
        stacked = [
            x if dim is None else torch.stack([x, x / 2, -x if i < 2 else x * 2], dim)
            for i, (x, dim) in enumerate(zip(plain, in_dims, strict=True))
        ]
        got = vmap(function, in_dims)(*stacked)
        for i in range(3):
            args = [
                x if dim is None else x.select(dim, i)
                for x, dim in zip(stacked, in_dims, strict=True)
            ]
            assert_close(got[i], function(*args))


def test_nested_vmap_and_empty_batches() -> None:
    theta, O = (x.detach() for x in operands((2, 3, 4), (3,)))
    amount = amount_of((2,)).detach()
    twice = vmap(vmap(mirror.shrink, (0, 0, None)), (0, None, 0))
    wanted = mirror.shrink(theta, O[:, None], amount[:, None, None])
    assert_close(twice(theta, O, amount), wanted)
    assert vmap(mirror.project, (0, None))(theta[:0, 0, 0], O[0]).shape == (0, 5)
