# SPDX-License-Identifier: Apache-2.0
"""Truth case 21: verdicts on mirrors of nets that learn digits, before training shows the truth.

Each network is trained on the plane of one mirror until it is stationary there, `stability`
judges the mirror, and only then the network is pushed off the plane and trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from symfast.plan import Plan
from symfast.stability import stability
from symfast.symmetry import Cluster, Direction, SignFlip, Swap, Symmetry
from symfast.units import Units
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_least, at_most
from symfast.verify.removal import digits as every_digit

SOURCE = "Ziyin 2024, Theorem 1 and SGD near the plane"
SAMPLES, HIDDEN, CLASSES = 300, 8, 10
PUSH = 1e-4  # standard deviation of what is added to every weight of the first two layers
#: The linear regime: distances between these multiples of the first one.
LEAST, MOST = 1e-8, 30.0
RECORDS = 60  # measured distances


def _opposite() -> Symmetry:
    """Unit 0 is minus unit 1: the sum of the two is a mirror of an odd activation."""
    A = torch.zeros(HIDDEN, 1, dtype=torch.float64)
    A[:2] = 0.5**0.5
    return Direction(A)


MIRRORS: dict[str, Callable[[], Symmetry]] = {
    "swap": lambda: Swap((0,), (1,)),
    "sign flip": lambda: SignFlip((0,)),
    "direction": _opposite,
    "cluster of 3": lambda: Cluster((0, 0, 0, *range(1, HIDDEN - 2))),
}


@dataclass(frozen=True)
class Setting:
    """What one group of networks shares; a network per mirror and decay."""

    activation: type[nn.Module]
    mirrors: tuple[str, ...]
    decays: tuple[float, ...]
    lr: float
    settle: int  # steps on the plane
    steps: int  # steps after the push
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """One mirror: the verdict, and the log growth of its distance per step afterwards."""

    mirror: str
    lam: float
    exponent: float
    rate: float

    @property
    def right(self) -> bool:
        """Whether the distance shrank exactly if the exponent was negative."""
        return (self.exponent < 0) == (self.rate < 0)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Pixels (samples, 64) in [0, 1] and labels; sixteenths are exact in float32 too."""
    X, y = every_digit()
    return X[:SAMPLES].double(), y[:SAMPLES]


class Networks:
    """Networks 64-8-10, one per mirror and decay, as stacked parameters."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.runs = [(mirror, lam) for mirror in setting.mirrors for lam in setting.decays]
        self.activation = setting.activation()
        g = torch.Generator().manual_seed(setting.seed)
        shapes = ((HIDDEN, 64), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
        self.weights = [
            (2 * torch.rand(len(self.runs), *shape, generator=g, dtype=torch.float64) - 1)
            / (64, 64, HIDDEN, HIDDEN)[i] ** 0.5
            for i, shape in enumerate(shapes)
        ]
        self.decay = torch.tensor([lam for _, lam in self.runs], dtype=torch.float64)
        W, b, V, _ = self.weights
        units = [Units([(W[i], 0), (b[i], 0), (V[i], 1)]) for i in range(len(self.runs))]
        self.generator = g
        symmetries = [MIRRORS[mirror]() for mirror, _ in self.runs]
        self.plan = Plan(list(zip(units, symmetries, strict=True)))

    def slopes(self) -> list[Tensor]:
        """Decayed gradients on all samples."""
        x, y = digits()
        W, b, V, c = leaves = [w.requires_grad_() for w in self.weights]
        logits = torch.baddbmm(c[:, None], self.activation(x @ W.mT + b[:, None]), V.mT)
        target = y.expand(len(W), -1)
        total = nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="sum")
        found = torch.autograd.grad(total / len(y), leaves)
        for w in leaves:
            w.requires_grad_(False)
        pairs = zip(found, leaves, strict=True)
        return [g + self.decay.view(-1, *[1] * (w.ndim - 1)) * w for g, w in pairs]

    def train(self, steps: int, lr: float, momentum: float = 0.0, stay: bool = False) -> float:
        """Train in place, on the planes if told to stay; the largest entry of the last gradient."""
        velocity = [torch.zeros_like(w) for w in self.weights]
        slopes = velocity
        for step in range(steps):
            slopes = self.slopes()
            for w, v, slope in zip(self.weights, velocity, slopes, strict=True):
                v.mul_(momentum).add_(slope)
                w.sub_(lr * v)
            if stay and step % 10 == 9:  # rounding must not grow along a negative curvature
                self.plan.project_()
        return max(float(slope.abs().max()) for slope in slopes)

    def settle(self) -> float:
        """Train on the planes to a stationary point; the largest gradient where that ended."""
        self.plan.project_()
        self.train(self.setting.settle, 0.5, 0.9, stay=True)
        return self.train(self.setting.settle // 4, 0.5, stay=True)

    def judge(self) -> list[float]:
        """The exponent that `stability` finds for every mirror."""
        net = nn.Sequential(
            nn.Linear(64, HIDDEN, dtype=torch.float64),
            self.activation,
            nn.Linear(HIDDEN, CLASSES, dtype=torch.float64),
        ).requires_grad_(False)
        units = Units([(net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)])  # type: ignore[list-item]

        def loss(net: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(net(batch[0]), batch[1])

        exponents = []
        for i, (mirror, lam) in enumerate(self.runs):
            for p, w in zip(net.parameters(), self.weights, strict=True):
                p.copy_(w[i])
            report = stability(
                net, loss, [(units, MIRRORS[mirror]())], [digits()],
                lr=self.setting.lr, weight_decay=lam, iterations=30,
            )  # fmt: skip
            exponents.append(float(report.exponent.max()))
        return exponents

    def leave(self) -> Tensor:
        """Push every network off its plane, train on; distances (records + 1, networks)."""
        for w in self.weights[:3]:
            w += PUSH * torch.randn(w.shape, generator=self.generator, dtype=torch.float64)
        distances = [self.plan.norms()]
        for _ in range(RECORDS):
            self.train(self.setting.steps // RECORDS, self.setting.lr)
            distances.append(self.plan.norms())
        return torch.stack(distances)


def growth(distance: Tensor, every: int) -> float:
    """Log growth per step over the later half of the time in the linear regime.

    Early on, modes that die hide the one that grows; far away, the linear law ends.
    """
    relative = distance / distance[0]
    outside = ((relative > MOST) | (relative < LEAST)).nonzero()
    end = max(int(outside[0]) - 1 if len(outside) else len(relative) - 1, 1)
    start = end // 2
    return float((relative[end] / relative[start]).log() / (every * (end - start)))


def trials(setting: Setting) -> tuple[float, list[Trial]]:
    """Settle, judge, and only then leave; the largest gradient at the settled points."""
    nets = Networks(setting)
    left = nets.settle()
    exponents = nets.judge()
    distances = nets.leave()
    found = [
        Trial(mirror, lam, exponent, growth(distance, setting.steps // RECORDS))
        for (mirror, lam), exponent, distance in zip(nets.runs, exponents, distances.T, strict=True)
    ]
    return left, found


def by_decay_alone(found: Sequence[Trial]) -> int:
    """Most that a threshold on the weight decay gets right, chosen with the outcomes known."""
    cuts = [0.0, *(trial.lam for trial in found)]
    return max(sum((t.lam > cut) == (t.rate < 0) for t in found) for cut in cuts)


def _log(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(torch.logspace(low, high, count, dtype=torch.float64).tolist())


def settings(quick: bool) -> tuple[Setting, ...]:
    """28 mirrors of tanh networks and 10 of GELU networks; quick: 9 of the first."""
    every = tuple(MIRRORS)
    if quick:
        return (Setting(nn.Tanh, every[:3], _log(-1.3, -0.55, 3), 0.5, 1000, 1800),)
    return (
        Setting(nn.Tanh, every, _log(-1.7, -0.55, 7), 0.5, 2000, 3000),
        Setting(nn.GELU, ("swap", "cluster of 3"), _log(-2.0, -0.7, 5), 0.5, 2000, 3000, 1),
    )


def _curves(found: Sequence[Trial]) -> Curves:
    """Rates over exponents, a colour per mirror."""
    ends = [f([t.exponent for t in found]) for f in (min, max)]
    series = [Series("rate = exponent", ends, ends, "dashes", len(MIRRORS))]
    for i, mirror in enumerate(MIRRORS):
        of = [t for t in found if t.mirror == mirror]
        if of:
            x, y = [t.exponent for t in of], [t.rate for t in of]
            series.append(Series(mirror, x, y, "points", i))
    return Curves(
        "exponent, before the run", "log growth of the distance per step", tuple(series),
        "Mirrors of networks that learn digits, at decays from far below to above the critical.",
        vertical=((0.0, "collapse to the left"),),
    )  # fmt: skip


def run(quick: bool) -> CaseResult:
    """Verdicts of `stability` against what training did."""
    worst = 0.0
    found: list[Trial] = []
    for setting in settings(quick):
        left, part = trials(setting)
        worst, found = max(worst, left), found + part
    total, right = len(found), sum(t.right for t in found)
    collapsed = sum(t.rate < 0 for t in found)
    table = " ".join(
        f"{said}/{did} {sum((t.exponent < 0) == a and (t.rate < 0) == b for t in found)}"
        for said, a in (("collapse", True), ("leave", False))
        for did, b in (("collapsed", True), ("left", False))
    )
    clear = [t for t in found if abs(t.exponent) > 1e-3 and t.rate < 0]
    off = torch.tensor([abs(t.rate / t.exponent - 1) for t in clear] or [float("nan")])
    checks = (
        at_most("largest gradient where training on the plane settled", SOURCE, worst, 1e-2),
        at_least(f"verdicts that came true, of {total} ({table})", SOURCE, right, 0.9 * total,
                 f"{total}"),
        at_least("mirrors of the rarer outcome", SOURCE, min(collapsed, total - collapsed),
                 total / 5, "both happen"),
        Check("a threshold on the decay alone, chosen afterwards, gets right", "control", "fewer",
              by_decay_alone(found), f"<= {right}", by_decay_alone(found) <= right),
        at_most("collapse: rate over exponent, worst deviation from 1", SOURCE, float(off.max()),
                0.15, "0"),
        at_most("... median deviation", SOURCE, float(off.median()), 0.01, "0"),
    )  # fmt: skip
    return CaseResult(checks, _curves(found))


CASES = (Case(21, "collapse predicted on digits", SOURCE, run),)
