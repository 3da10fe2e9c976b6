# SPDX-License-Identifier: Apache-2.0
"""Mirrors as functions, with and without gradients, against the strongest code of others.

``pytest -s benchmarks/bench_mirror.py`` prints the tables of this run. All contenders of a row run
in turns, and each must find what symfast finds. Opponents: torch eager, compiled and vmapped, JAX
``jit``; geoopt where it projects onto the same subspace, ``torch.ormqr`` where a reflection is a
Householder one. geotorch and torch-householder parametrise orthogonal matrices and have no verb
that takes a frame and vectors, so there is no row for them.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from machine import in_turns, stream_bandwidth
from tables import cost, note_ratios, point, tables
from torch import Tensor

import symfast as sf

pytestmark = pytest.mark.filterwarnings("default")
note, report = tables()
Call = Callable[[], Any]
#: A frame for every vector, and one frame for all: shape of theta, shape of O.
SHAPES = [
    ((20_000, 64), (20_000, 64, 4)),
    ((100_000, 16), (100_000, 16, 1)),
    ((200_000, 64), (64, 4)),
    ((100_000, 256), (256, 1)),
]
FACTOR = {"project": 1.0, "reflect": 2.0}


def draw(theta: tuple[int, ...], o: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Vectors, and frames with orthonormal columns."""
    torch.manual_seed(0)
    return torch.randn(theta), torch.linalg.qr(torch.randn(o)).Q.contiguous()


def plain(theta: Tensor, O: Tensor, factor: float) -> Tensor:
    """What one writes in torch: batched products where frames differ, two products otherwise."""
    if O.ndim == 2:
        return torch.addmm(theta, theta @ O, O.mT, alpha=-factor)
    x = theta.unsqueeze(-1)
    return torch.baddbmm(x, O, torch.bmm(O.mT, x), alpha=-factor).squeeze(-1)


def by_jax(theta: Tensor, O: Tensor, factor: float) -> Call | None:
    """``jit`` of the same formula, vmapped where frames differ."""
    if importlib.util.find_spec("jax") is None:
        return None
    import jax

    one = lambda x, o: x - factor * (o @ (o.T @ x))  # noqa: E731
    many = jax.jit(jax.vmap(one, in_axes=(0, 0 if O.ndim == 3 else None)))
    x, o = jax.numpy.asarray(theta.numpy()), jax.numpy.asarray(O.numpy())
    return lambda: jax.block_until_ready(many(x, o))


def vmapped(theta: Tensor, O: Tensor, factor: float) -> Call:
    """``torch.func.vmap`` of one vector's formula."""
    one = torch.func.vmap(
        lambda x, o: x - factor * (o @ (o.mT @ x)), in_dims=(0, 0 if O.ndim == 3 else None)
    )
    return lambda: one(theta, O)


def ours_and_theirs(verb: str, theta: Tensor, O: Tensor) -> dict[str, Call]:
    """Every contender of one verb, ours first."""
    factor, function = FACTOR[verb], getattr(sf, verb)
    torch.compiler.reset()
    compiled = torch.compile(plain)
    calls: dict[str, Call | None] = {
        "symfast": lambda: function(theta, O),
        "torch": lambda: plain(theta, O, factor),
        "torch_compiled": lambda: compiled(theta, O, factor),
        "vmap": vmapped(theta, O, factor),
        "JAX_jit": by_jax(theta, O, factor),
    }
    if verb == "reflect" and O.shape[-1] == 1:
        calls["ormqr"] = householder(theta, O)
    return {name: call for name, call in calls.items() if call is not None}


def householder(theta: Tensor, O: Tensor) -> Call:
    """LAPACK's reflector ``I - tau v v^T`` with v[0] = 1, as torch applies it."""
    first = O[..., :1, :]
    v, tau = O / first, 2 * first[..., 0].square()
    if O.ndim == 2:
        return lambda: torch.ormqr(v, tau, theta.mT).mT
    return lambda: torch.ormqr(v, tau, theta.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("verb", list(FACTOR))
def test_forward(verb: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    theta, O = draw(*shapes)
    calls = ours_and_theirs(verb, theta, O)
    wanted = plain(theta.double(), O.double(), FACTOR[verb])
    for name, call in calls.items():
        found = torch.from_numpy(np.array(call())) if name == "JAX_jit" else call()
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4, msg=name)
    times = dict(zip(calls, in_turns(*calls.values(), seconds=0.3), strict=True))
    moved = 4.0 * (2 * theta.numel() + O.numel())
    ours = times["symfast"]
    stream = stream_bandwidth(160, O.numel() / theta.numel())
    note_ratios(
        note, "Mirrors as functions, float32: times faster than", times,
        verb=verb, theta=str(tuple(theta.shape)), O=str(tuple(O.shape)), ms=f"{1e3 * ours:.2f}",
        of_stream=f"{moved / ours / 1e9 / stream:.0%} of {stream:.1f}",
    )  # fmt: skip
    point(f"sf.{verb} {shapes[0]} {shapes[1]}", flops=4.0 * theta.numel() * O.shape[-1],
          moved=moved, seconds=ours)  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_backward(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Projection and its gradients to vectors and frames."""
    theta, O = (x.requires_grad_() for x in draw(*shapes))
    g = torch.randn_like(theta)
    torch.compiler.reset()
    compiled = torch.compile(plain)
    forward: dict[str, Callable[[], Tensor]] = {
        "symfast": lambda: sf.project(theta, O),
        "torch": lambda: plain(theta, O, 1.0),
        "torch_compiled": lambda: compiled(theta, O, 1.0),
    }

    def backward(make: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(make(), (theta, O), g)

    found = {name: backward(make) for name, make in forward.items()}
    for name, gradients in found.items():
        for a, b in zip(gradients, found["torch"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2, msg=name)
    calls = [lambda make=make: backward(make) for make in forward.values()]
    times = dict(zip(forward, in_turns(*calls, seconds=0.3), strict=True))
    note_ratios(
        note, "Projection, forward and backward, float32: times faster than", times,
        theta=str(shapes[0]), O=str(shapes[1]), ms=f"{1e3 * times['symfast']:.2f}",
    )  # fmt: skip


def test_geoopt_sphere() -> None:
    """Onto the unit sphere in the complement of a subspace: geoopt keeps a (d, d) projector."""
    geoopt = pytest.importorskip("geoopt", reason="geoopt is not installed")
    theta, O = draw((200_000, 64), (64, 4))
    sphere = geoopt.Sphere(complement=O)

    def ours() -> Tensor:
        return torch.nn.functional.normalize(sf.project(theta, O), dim=-1)

    torch.testing.assert_close(ours(), sphere.projx(theta), rtol=0, atol=1e-5)
    times = dict(
        zip(("symfast", "geoopt"), in_turns(ours, lambda: sphere.projx(theta)), strict=True)
    )
    note_ratios(
        note, "Onto the unit sphere in a complement, (200000, 64), k = 4: times faster than", times,
        ms=f"{1e3 * times['symfast']:.2f}",
    )  # fmt: skip


def test_cost_over_elements() -> None:
    """One frame (16, 1) for 10^3 to 10^8 numbers."""
    for exponent in range(3, 9):
        theta, O = draw((10**exponent // 16, 16), (16, 1))
        (seconds,) = in_turns(lambda theta=theta, O=O: sf.project(theta, O), seconds=0.2)
        cost("sf.project, one frame (16, 1)", "elements", theta.numel(), seconds)
        note("sf.project with one frame (16, 1), cost with work", elements=f"10^{exponent}",
             ms=f"{1e3 * seconds:.4f}",
             ns_per_element=f"{1e9 * seconds / theta.numel():.3f}")  # fmt: skip
