# SPDX-License-Identifier: Apache-2.0
"""Truth case 25: minibatch noise overturns the verdict of gradient descent, as `stability` says.

Protocol, the same for every mirror and setting (learning rate, batch size):

1. A network is trained by full gradients; no SGD has been run on it.
2. Predictions, from networks projected onto the mirror's plane only: `stability` with ``follow``
   carries a displacement along SGD on the plane, in 16 chains: the exponent and its standard error
   e. The same with full batches is the verdict of gradient descent.
3. Only then SGD with batches of its own runs on the plane until it has settled, the mirror's
   coefficients are drawn from N(0, 1e-12), and SGD goes on. The outcome is the sign of the log
   growth of the distance per step, up to where it has grown a thousandfold or the run ends.
4. A run of T steps scatters around its exponent by ``s = e sqrt(16 follow / T)``. Mirrors with
   ``|exponent| <= 2 sqrt(e^2 + s^2)`` are undecided before the run, and are not scored.

Learning rates, batch sizes and decays were chosen in runs with other seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symfast.curvature import Curvature, Loss
from symfast.mirror_index import index_mirrors
from symfast.stability import stability
from symfast.sweep.data import load
from symfast.symmetry import SignFlip
from symfast.units import Units
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least, at_most
from symfast.verify.collapse import digits

SOURCE = "Ziyin 2024, SGD near the plane; exponent of products derived"
CHAINS, PUSH, MOST = 16, 1e-6, 1e3
RECORD = 20  # steps between measured distances
Data = tuple[Tensor, Tensor]


class Products(nn.Module):
    """Linear regression ``sum_i u_i w_i x_i`` at the least-squares solution, balanced.

    Ten mirrors of two coefficients; their minibatch Hessians commute.
    """

    def __init__(self, data: Data) -> None:
        super().__init__()
        best = torch.linalg.lstsq(data[0], data[1][:, None]).solution[:, 0]
        self.u = nn.Parameter(best.abs().sqrt())
        self.w = nn.Parameter(best.sign() * best.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(n, 10) to (n,)."""
        return x @ (self.u * self.w)


@dataclass(frozen=True)
class System:
    """A trained network, its mirrors, and the settings it is judged at."""

    name: str
    net: nn.Module
    loss: Loss
    units: Units  # a sign flip of each is a mirror
    data: Data
    decay: float
    settings: tuple[tuple[float, int], ...]  # (learning rate, batch size)

    def batches(self, size: int) -> Data:
        """All samples in minibatches (count, size, ...)."""
        x, y = self.data
        return x.unflatten(0, (-1, size)), y.unflatten(0, (-1, size))


def products(quick: bool) -> System:
    """Diabetes, 440 patients, features rotated to be uncorrelated: no decay, only noise."""
    X, y, _ = load("diabetes")
    white = torch.linalg.svd(X, full_matrices=False).U * len(X) ** 0.5
    order = torch.randperm(len(X))[:440]
    data = white[order], y[order]
    net = Products(data)

    def loss(net: Callable[[Tensor], Tensor], batch: Data) -> Tensor:
        return (net(batch[0]) - batch[1]).square().mean() / 2

    settings: tuple[tuple[float, int], ...] = ((0.1, 1), (0.15, 1), (0.2, 1))
    settings += () if quick else ((0.2, 2), (0.3, 4))
    return System("product", net, loss, Units([(net.u, 0), (net.w, 0)]), data, 0.0, settings)


def neurons(quick: bool) -> System:
    """A tanh network 64-8-10 on digits, under a decay that leaves gradient descent no neuron."""
    x, y = digits()
    first, last = nn.Linear(64, 8), nn.Linear(8, 10)
    net = nn.Sequential(first, nn.Tanh(), last).double()

    def loss(net: Callable[[Tensor], Tensor], batch: Data) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    decay = 0.26
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=decay)
    for _ in range(500):
        optimizer.zero_grad()
        loss(net, (x, y)).backward()
        optimizer.step()
    units = Units([(first.weight, 0), (first.bias, 0), (last.weight, 1)])
    settings = ((0.5, 1),) if quick else ((0.5, 1), (0.3, 1))
    return System("neuron", net, loss, units, (x, y), decay, settings)


def rates(system: System, size: int, settle: int, steps: int, seed: int) -> Tensor:
    """Log growth per step of the distance from each plane under SGD, (settings, mirrors).

    All settings of one batch size run side by side.
    """
    parameters = dict(system.net.named_parameters())
    mirrors = index_mirrors([(system.units, SignFlip())], parameters)
    measure = Curvature(system.net, parameters, system.loss)
    x, y = system.batches(size)
    lr = torch.tensor([rate for rate, other in system.settings if other == size]).double()
    rows = mirrors * len(lr)
    lr = lr.repeat_interleave(len(mirrors))[:, None]
    theta = measure.theta.repeat(len(rows), 1)
    generator = torch.Generator().manual_seed(seed)

    def train(theta: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            at = torch.randint(len(x), (len(theta),), generator=generator)
            theta = theta - lr * (measure.slope(theta, (x[at], y[at])) + system.decay * theta)
        return theta

    for mirror, row in zip(rows, theta, strict=True):
        mirror.project_(row)
    theta = train(theta, settle)
    for mirror, row in zip(rows, theta, strict=True):
        start = torch.randn(mirror.size, generator=generator, dtype=torch.float64)
        mirror.scatter_(row, PUSH * start)
    path = []
    for _ in range(steps // RECORD + 1):
        path.append(torch.stack([m.gather(row).norm() for m, row in zip(rows, theta, strict=True)]))
        if bool((path[-1] > MOST * path[0]).all()):
            break
        theta = train(theta, RECORD)
    found = [_growth(distance / distance[0]) for distance in torch.stack(path).T]
    return torch.stack(found).view(-1, len(mirrors))


def _growth(relative: Tensor) -> Tensor:
    outside = (relative > MOST).nonzero()
    end = int(outside[0]) if len(outside) else len(relative) - 1
    return relative[end].log() / (end * RECORD)


@dataclass(frozen=True)
class Verdict:
    """One mirror: both predictions, how far the rate may be from them, and what SGD did."""

    system: str
    descent: float  # exponent of gradient descent
    exponent: float
    doubt: float  # standard deviation of rate - exponent over a whole run
    rate: float

    @property
    def decided(self) -> bool:
        """Whether the sign was clear before the run."""
        return abs(self.exponent) > 2 * self.doubt

    @property
    def right(self) -> bool:
        """Whether SGD collapsed exactly if its exponent was negative."""
        return (self.exponent < 0) == (self.rate < 0)


def predict(system: System, lr: float, size: int, follow: int, seed: int) -> tuple[Tensor, ...]:
    """Exponents of gradient descent and of SGD, and the latter's error, (mirrors,) each."""
    x, y = system.batches(size)
    plan, lam = [(system.units, SignFlip())], system.decay
    still = stability(
        system.net, system.loss, plan, [system.data], lr=lr, weight_decay=lam, iterations=30
    )
    noisy = stability(
        system.net, system.loss, plan, list(zip(x, y, strict=True)), lr=lr, weight_decay=lam,
        iterations=2, follow=follow, chains=CHAINS, seed=seed,
    )  # fmt: skip
    return still.exponent, noisy.exponent, noisy.error


def judge(system: System, follow: int, steps: int, seed: int) -> list[Verdict]:
    """Predict every mirror of a system at every setting, and only then run SGD."""
    said = [
        predict(system, lr, size, follow, seed + i) for i, (lr, size) in enumerate(system.settings)
    ]
    verdicts = []
    for size in sorted({size for _, size in system.settings}):
        there = [i for i, (_, other) in enumerate(system.settings) if other == size]
        did = rates(system, size, follow, steps, seed + 100 + size)
        for i, rate in zip(there, did, strict=True):
            descent, exponent, error = said[i]
            doubt = error * (1 + CHAINS * follow / steps) ** 0.5
            columns = (column.tolist() for column in (descent, exponent, doubt, rate))
            verdicts += [Verdict(system.name, *row) for row in zip(*columns, strict=True)]
    return verdicts


def _curves(found: list[Verdict]) -> Curves:
    """Rates over both predictions."""
    ends = [f([v.exponent for v in found]) for f in (min, max)]
    series = [Series("rate = exponent", ends, ends, "dashes", 3)]
    for i, name in enumerate(("product", "neuron")):
        of = [v for v in found if v.system == name]
        rate = [v.rate for v in of]
        series.append(Series(f"{name}s, SGD", [v.exponent for v in of], rate, "points", i))
    descent = [v.descent for v in found]
    series.append(Series("gradient descent's", descent, [v.rate for v in found], "points", 2))
    return Curves(
        "exponent, before the run", "log growth of the distance per step under SGD", tuple(series),
        "Small batches collapse products that gradient descent leaves, and revive neurons that it "
        "kills.", vertical=((0.0, "collapse to the left"),),
    )  # fmt: skip


def run(quick: bool) -> CaseResult:
    """Score both predictions on the mirrors that were decided beforehand."""
    torch.manual_seed(25)
    found = judge(products(quick), 300 if quick else 1000, 4_000 if quick else 12_000, 1)
    found += judge(neurons(quick), 100 if quick else 400, 1_000 if quick else 4_000, 2)
    clear = [v for v in found if v.decided]
    right = sum(v.right for v in clear)
    by_descent = sum((v.descent < 0) == (v.rate < 0) for v in clear)
    killed = [v for v in clear if v.descent > 0 and v.exponent < 0]
    revived = [v for v in clear if v.descent < 0 and v.exponent > 0]
    checks = (
        at_least(f"mirrors decided before the run, of {len(found)}", "protocol", len(clear),
                 max(30 if not quick else 20, len(found) / 2), "most"),
        at_least(f"verdicts on SGD that came true, of {len(clear)}", SOURCE, right,
                 0.95 * len(clear), f"{len(clear)}"),
        at_most("verdicts of gradient descent that hold for SGD", "control", by_descent,
                right - 5, "fewer"),
        at_least("said before: descent leaves, SGD collapses; came true of "
                 f"{len(killed)}", SOURCE, sum(v.right for v in killed),
                 max(3, 0.9 * len(killed)), f"{len(killed)}"),
        at_least("said before: descent collapses, SGD leaves; came true of "
                 f"{len(revived)}", SOURCE, sum(v.right for v in revived),
                 max(3, 0.9 * len(revived)), f"{len(revived)}"),
    )  # fmt: skip
    return CaseResult(checks, _curves(found))


CASES = (Case(25, "SGD overturns gradient descent's verdict", SOURCE, run),)
