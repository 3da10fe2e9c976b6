# SPDX-License-Identifier: Apache-2.0
"""Truth case 4: the four parts of the mirror theorem on small real networks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

from symfast.mirror import coefficients, project, reflect
from symfast.sweep.data import load
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most, near

SOURCE = "Ziyin 2024, Theorem 1"
#: Decay of part 4: above every pointwise threshold of part 3 met on the nets below (< 1).
STRONG = 2.0
#: Random points that gradient descent of part 4 starts from.
STARTS = 8


@dataclass(frozen=True)
class Net:
    """A network's loss as a function of flat parameters (d,), and a mirror O (d, k) of it."""

    name: str
    loss: Callable[[Tensor], Tensor]
    O: Tensor


def _data() -> tuple[Tensor, Tensor]:
    """24 patients and 6 features of the diabetes data, standardised."""
    X, y, _ = load("diabetes")
    return X[:24, :6], y[:24]


def _columns(d: int, *columns: dict[int, float]) -> Tensor:
    """O from sparse columns {index: value}, each normalised."""
    O = torch.zeros(d, len(columns), dtype=torch.float64)
    for k, column in enumerate(columns):
        for index, value in column.items():
            O[index, k] = value
    O /= O.norm(dim=0)
    return O


def _half_mse(f: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = (f - y).square().mean() / 2
    return loss


def _tanh_nets(X: Tensor, y: Tensor) -> list[Net]:
    """Tanh hidden layer 6-5-1: swap of two neurons, sign flip of one."""
    h, p = 5, X.shape[1]
    sizes = (h * p, h, h)

    def loss(theta: Tensor) -> Tensor:
        W, b, v = theta[: sum(sizes)].split(sizes)
        return _half_mse(torch.tanh(X @ W.view(h, p).T + b) @ v + theta[-1], y)

    def places(unit: int) -> list[int]:
        return [*range(unit * p, unit * p + p), h * p + unit, h * p + h + unit]

    d = sum(sizes) + 1
    swap = _columns(d, *({i: 1.0, j: -1.0} for i, j in zip(places(1), places(3), strict=True)))
    flip = _columns(d, *({i: 1.0} for i in places(2)))
    return [Net("permutation", loss, swap), Net("sign flip", loss, flip)]


def _product_nets(X: Tensor, y: Tensor) -> list[Net]:
    """A tanh layer read through a product u w of scalars, and through a linear unit."""
    h, p = 4, X.shape[1]

    def scalars(theta: Tensor) -> Tensor:
        W, v, uw = theta.split((h * p, h, 2))
        return _half_mse(torch.tanh(X @ W.view(h, p).T) @ v * uw.prod(), y)

    def vectors(theta: Tensor) -> Tensor:
        A, W, U, v = theta.split((h * p, 3 * h, h * 3, h))
        inner = torch.tanh(X @ A.view(h, p).T) @ W.view(3, h).T @ U.view(h, 3).T
        return _half_mse(torch.tanh(inner) @ v, y)

    d, at = h * p + h + 2, h * p + h
    unit = [h * p + h + i for i in range(h)] + [h * p + 3 * h + 3 * i + 1 for i in range(h)]
    return [
        Net("rescaling, u = w", scalars, _columns(d, {at: 1.0, at + 1: -1.0})),
        Net("rescaling, u = -w", scalars, _columns(d, {at: 1.0, at + 1: 1.0})),
        Net("rescaling, vectors", vectors, _columns(h * p + 7 * h, *({i: 1.0} for i in unit))),
    ]


def _rotation_nets(X: Tensor, y: Tensor) -> list[Net]:
    """A similarity loss l(W) = l(RW), and one attention head l(Q, K) = l(RQ, RK)."""
    r, p = 4, X.shape[1]
    n = torch.randn(r, 1, dtype=torch.float64)
    n /= n.norm()
    one = torch.kron(n, torch.eye(p, dtype=torch.float64))  # (r p, p)
    similar = torch.tanh(torch.outer(y, y))

    def similarity(theta: Tensor) -> Tensor:
        z = X @ theta.view(r, p).T
        return _half_mse(torch.tanh(z @ z.T), similar)

    def attention(theta: Tensor) -> Tensor:
        Q, K, v = theta.split((r * p, r * p, p))
        scores = X @ Q.view(r, p).T @ (X @ K.view(r, p).T).T / 2
        return _half_mse(scores.softmax(-1) @ (X @ v), y)

    both = torch.block_diag(one, one)
    both = torch.cat([both, both.new_zeros(p, 2 * p)])
    return [Net("rotation", similarity, one), Net("double rotation", attention, both)]


def nets() -> list[Net]:
    """The seven networks with their mirrors, in float64."""
    X, y = _data()
    torch.manual_seed(4)
    return _tanh_nets(X, y) + _product_nets(X, y) + _rotation_nets(X, y)


def _relative(x: Tensor, of: Tensor) -> float:
    return float(x.abs().max() / of.abs().max())


def _parts_one_two(net: Net, points: int) -> tuple[float, float, float]:
    """Largest relative violation of symmetry, stationarity and block Hessian over points."""
    O, worst = net.O, [0.0, 0.0, 0.0]
    for _ in range(points):
        theta = torch.randn(len(O), dtype=torch.float64)
        plane = project(theta, O)
        slope, curvature = grad(net.loss)(plane), jacrev(grad(net.loss))(plane)
        cross = O.T @ (curvature - curvature @ O @ O.T)
        found = (
            _relative(net.loss(theta) - net.loss(reflect(theta, O)), net.loss(theta)),
            _relative(O.T @ slope, slope),
            _relative(cross, curvature),
        )
        worst = [max(a, b) for a, b in zip(worst, found, strict=True)]
    return worst[0], worst[1], worst[2]


def _threshold(net: Net, sizes: Tensor) -> tuple[Tensor, float]:
    """(l0((I-P)theta) - l0(theta)) / ||P theta||^2 over distances, and its limit -n^T H n / 2."""
    O = net.O
    plane = project(torch.randn(len(O), dtype=torch.float64), O)
    n = O @ torch.nn.functional.normalize(torch.randn(O.shape[1], dtype=torch.float64), dim=0)
    ratios = (net.loss(plane) - vmap(net.loss)(plane + sizes[:, None] * n)) / sizes.square()
    return ratios, float(-n @ jacrev(grad(net.loss))(plane) @ n / 2)


def _preference(net: Net, points: int) -> float:
    """Least gain, per squared distance, of points (I-P) theta over theta: part 3 wants > 0.

    The decay is the least that Taylor's formula asks for: with no slope along n on the plane,
    ``l0(theta) - l0((I-P) theta) >= s^2 min_r n^T H n / 2``, r on the way there and s its length.
    """
    way, gains = torch.linspace(0, 1, 65, dtype=torch.float64)[:, None], []
    for _ in range(points):
        theta = torch.randn(len(net.O), dtype=torch.float64)
        plane = project(theta, net.O)
        n = torch.nn.functional.normalize(theta - plane, dim=0)

        def along(x: Tensor, n: Tensor = n) -> Tensor:
            found: Tensor = n @ jvp(grad(net.loss), (x,), (n,))[1]
            return found

        h = vmap(along)(plane + way * (theta - plane))
        gam = -h.min() / 2 + 1e-3 * h.abs().max()  # 65 points may miss the least by a little
        s2 = (theta - plane).square().sum()
        gains.append((net.loss(theta) - net.loss(plane)) / s2 + gam)
    return float(torch.stack(gains).min())


def _minima(net: Net, steps: int, gam: float, everywhere: bool) -> tuple[Tensor, Tensor]:
    """||O^T theta|| and ||(I - P) theta||, (starts,), where gradient descent under a decay ends.

    The decay is ``gam ||theta||^2``, or ``gam ||O^T theta||^2``: then nothing but the loss forms
    what is on the plane.
    """
    slope = vmap(grad(net.loss))
    theta = torch.randn(STARTS, len(net.O), dtype=torch.float64)
    for _ in range(steps):
        shrunk = theta if everywhere else theta - project(theta, net.O)
        theta = theta - 0.1 * (slope(theta) + 2 * gam * shrunk)
    return coefficients(theta, net.O).norm(dim=1), project(theta, net.O).norm(dim=1)


def _check_net(net: Net, sizes: Tensor, quick: bool) -> tuple[list[Check], Series]:
    """All four parts on one net, and the threshold of part 3 over distances."""
    points, steps = (2, 100) if quick else (20, 1000)
    symmetry, slope, cross = _parts_one_two(net, points)
    ratios, limit = _threshold(net, sizes)
    end, _ = _minima(net, steps, STRONG, True)
    alone, rest = _minima(net, steps, STRONG, False)
    free, _ = _minima(net, steps, 0.0, False)
    name = net.name
    checks = [
        at_most(f"{name}: loss is mirror symmetric", SOURCE, symmetry, 1e-12),
        at_most(f"{name}: 1 O^T grad = 0 on the plane", SOURCE, slope, 1e-12),
        at_most(f"{name}: 2 O^T H (I-P) = 0 on the plane", SOURCE, cross, 1e-12),
        # the next term of the loss along n is of fourth order: the ratio moves by O(s^2)
        near(f"{name}: 3 decay threshold tends to -n^T H n / 2 at the plane",
             SOURCE + ", smooth loss", limit, float(ratios[-1]), 1e-5),
        at_least(f"{name}: 3 from gam = -min n^T H n / 2 on, the plane is lower by",
                 SOURCE + ", bound derived", _preference(net, points), 0.0, "> 0"),
        at_most(f"{name}: 4 minima from {STARTS} starts under gam = 2 lie on the plane", SOURCE,
                float(end.max()), 1e-8),
        at_most(f"{name}: 4 ... decay of O^T theta alone", SOURCE, float(alone.max()), 1e-8),
        at_least(f"{name}: ... what is on the plane lives", "control", float(rest.min()), 0.5,
                 "> 0"),
        at_least(f"{name}: without decay off the plane by", "control", float(free.max()), 1e-2,
                 "> 0"),
    ]  # fmt: skip
    return checks, Series(name, sizes.tolist(), ratios.tolist())


def run(quick: bool) -> CaseResult:
    """Measure all four parts on every net."""
    sizes = torch.logspace(0, -3, 25, dtype=torch.float64)
    found = [_check_net(net, sizes, quick) for net in nets()]
    caption = "Decay gam above which the plane is preferred, by distance: finite at the plane."
    figure = Curves(
        "distance ||O^T theta||", "threshold gam", tuple(curve for _, curve in found), caption,
        "log",
    )  # fmt: skip
    return CaseResult(tuple(check for checks, _ in found for check in checks), figure)


CASES = (Case(4, "mirror theorem on real nets", SOURCE, run),)
