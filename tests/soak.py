# SPDX-License-Identifier: Apache-2.0
"""Random work for a long time, with memory that must stay flat: python tests/soak.py --minutes 30.

Plans of random symmetries and layouts, optimizer steps, factor steps, functional verbs with
gradients, sweeps with and without a store, search and inspection of models. Every kind of work is
checked while it runs. Exit code 1 if a check fails or memory grows.
"""

import argparse
import gc
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from plan_problems import LAYOUTS, symmetries

import symfast as sf

#: What memory may grow by after the first quarter: allocators settle, leaks do not.
ALLOWED = 32 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plans(draw: random.Random) -> None:
    """A plan of one or two random entries: every verb, and what a projection leaves."""
    entries = []
    for _ in range(draw.choice([1, 2])):
        m = draw.randint(2, 40)
        tensor, dim = LAYOUTS[draw.choice(list(LAYOUTS))](m, torch.float32)
        symmetry = draw.choice(symmetries(m, draw.randrange(1 << 20)))
        entries.append((sf.Units([(tensor, dim)]), symmetry))
    plan = sf.Plan(entries)
    plan.reflect_()
    plan.shrink_(draw.random())
    plan.prox_(draw.random(), mode=draw.choice(["l1", "group"]))
    plan.project_()
    assert plan.norms().max() < 1e-3


def optimizers(draw: random.Random) -> None:
    """Some constrained steps."""
    m, n = draw.randint(2, 30), draw.randint(1, 50)
    w = torch.nn.Parameter(torch.randn(m, n))
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap([0], [1]))])
    kind = draw.choice([sf.optim.SGD, sf.optim.Adam, sf.optim.AdamW])
    anchor = draw.choice([None, sf.Anchor(0.1)])
    optimizer = kind([w], lr=0.01, weight_decay=0.1, plan=plan, anchor=anchor)
    for _ in range(5):
        w.grad = torch.randn(m, n)
        optimizer.step()
    assert torch.equal(w[0], w[1])


def factors(draw: random.Random) -> None:
    """A factorized layer, trained and folded."""
    layer = torch.nn.Linear(draw.randint(1, 30), draw.randint(1, 30))
    x = torch.randn(4, layer.in_features)
    before = layer(x)
    sf.factorize(layer, "weight", depth=draw.randint(2, 5))
    torch.testing.assert_close(layer(x), before, atol=1e-4, rtol=1e-4)
    optimizer = torch.optim.SGD(sf.factor_groups(layer, lam=0.01), lr=0.01)
    layer(x).square().mean().backward()
    optimizer.step()
    sf.fold(layer)
    assert "weight" in layer.state_dict()


def functions(draw: random.Random) -> None:
    """The functional verbs and their gradients."""
    d = draw.randint(2, 60)
    theta = torch.randn(draw.randint(1, 50), d, requires_grad=True)
    frame = torch.linalg.qr(torch.randn(d, draw.randint(1, min(d, 8)))).Q
    projected = sf.project(theta, frame)
    projected.square().sum().backward()
    torch.testing.assert_close(theta.grad, 2 * projected.detach(), atol=1e-4, rtol=1e-4)


def sweeps(draw: random.Random) -> None:
    """A small sweep, in memory or in a directory."""
    X = torch.randn(20, 3, dtype=torch.float64)
    if draw.random() < 0.5:
        problem: sf.problems.Problem = sf.problems.TwoLayer(X, X[:, :1], hidden=4)
    else:
        problem = sf.problems.Factorized(X, X[:, 0], depth=2)
    with tempfile.TemporaryDirectory() as folder:
        out = draw.choice([None, folder])
        result = sf.sweep(problem, lr=[0.01, 0.02], seeds=2, steps=30, out=out)
    assert (result.table.status == "finished").all()


def models(draw: random.Random) -> None:
    """Find, inspect, compress."""
    hidden = draw.randint(3, 12)
    layers = [torch.nn.Linear(4, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2)]
    model, x = torch.nn.Sequential(*layers), torch.randn(5, 4)
    with torch.no_grad():
        model[0].weight[0] = model[0].bias[0] = 0
    sf.inspect(model, x)
    small, proof = sf.compress(model, x)
    assert proof.removed
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


WORK: list[Callable[[random.Random], None]] = [
    plans, optimizers, factors, functions, sweeps, models,
]  # fmt: skip


@dataclass
class Soak:
    """How often each kind of work was done, and memory over time."""

    rounds: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes from the median of the second quarter to the median of the last."""
        sizes = [size for _, size in self.memory]
        quarter = max(1, len(sizes) // 4)
        early, late = sorted(sizes[quarter : 2 * quarter]), sorted(sizes[-quarter:])
        return late[len(late) // 2] - early[len(early) // 2]


def soak(seconds: float, seed: int = 0, say: Callable[[str], None] = lambda text: None) -> Soak:
    """Work for so long; memory is looked at after every round."""
    draw, found, start = random.Random(seed), Soak(), time.monotonic()
    torch.manual_seed(seed)
    shown = start
    while (now := time.monotonic()) - start < seconds or found.rounds < 8:
        for work in WORK:
            work(draw)
        gc.collect()
        found.rounds += 1
        found.memory.append((now - start, resident()))
        if now - shown > 30:
            shown = now
            say(f"{now - start:6.0f} s  {found.rounds} rounds  {resident() >> 20} MB")
    return found


def main() -> int:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = soak(60 * arguments.minutes, arguments.seed, lambda text: print(text, flush=True))
    print(f"{found.rounds} rounds; memory grew by {found.growth / 2**20:.1f} MB")
    return int(found.growth > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
