# SPDX-License-Identifier: Apache-2.0
"""What many threads do at once in tests/test_threads.py: a seed in, the same numbers out.

As a program it prints a digest of each piece of work, each done by a thread of its own; the first
thing every thread does is to import symfast.
"""

import hashlib
import importlib
import sys
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Normal numbers; their type is named, for the default is float64 during an analysis."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def optimizer_steps(seed: int) -> Tensor:
    """Constrained AdamW, its anchor drawn in registers."""
    import symfast as sf

    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(normal(generator, 64, 33))
    plan = sf.Plan([(sf.Units([(w, 0)]), sf.Swap(range(32), range(32, 64)))])
    optimizer = sf.optim.AdamW([w], lr=0.1, plan=plan, anchor=sf.Anchor(0.1, seed=seed))
    for _ in range(8):
        w.grad = normal(generator, 64, 33)
        optimizer.step()
    assert torch.equal(w[:32], w[32:])
    return w.detach()


def factor_steps(seed: int) -> Tensor:
    """Product factors with momentum."""
    import symfast as sf

    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(normal(generator, 500).abs() + 0.5)
    optimizer = sf.FactorSGD([{"params": [w], "depth": 3}], lr=0.01, lam=0.1, momentum=0.9)
    for _ in range(8):
        w.grad = normal(generator, 500)
        optimizer.step()
    return w.detach()


def functions(seed: int) -> Tensor:
    """A mirror with gradients, and polar factors."""
    import symfast as sf

    generator = torch.Generator().manual_seed(seed)
    theta = normal(generator, 300, 24).requires_grad_()
    A = normal(generator, 40, 12, 12)
    Q = sf.polar(A)
    projected = sf.project(theta, torch.linalg.qr(normal(generator, 24, 3)).Q)
    (gradient,) = torch.autograd.grad(projected.square().sum(), theta)
    return torch.cat([projected.detach().flatten(), gradient.flatten(), Q.flatten()])


def sweeps(seed: int) -> Tensor:
    """Whole trainings of both kernels."""
    import symfast as sf

    X = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for problem in (
        sf.problems.TwoLayer(X, X[:, :1], hidden=3),
        sf.problems.Factorized(X, X[:, 0]),
    ):
        result = sf.sweep(problem, lr=[0.01, 0.02], seeds=2, steps=40)
        found.append(torch.as_tensor(result.weights).double().flatten())
    return torch.cat(found)


def models(seed: int) -> Tensor:
    """Symmetries of a model that are found and applied."""
    import symfast as sf

    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 8, dtype=torch.float32), nn.ReLU(), nn.Linear(8, 3, dtype=torch.float32)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(generator, *parameter.shape))
    x = normal(generator, 5, 6)
    found = sf.find_symmetries(model, x)
    plan = sf.Plan([(group.units, sf.Swap([0], [1])) for group in found if group.m == 8][:1])
    plan.project_()
    return torch.cat([plan.norms(), model(x).detach().double().flatten()])


WORK: list[Callable[[int], Tensor]] = [optimizer_steps, factor_steps, functions, sweeps, models]


def digest(work: Callable[[int], Tensor], seed: int) -> str:
    """The bits of a result in few letters."""
    return hashlib.sha256(work(seed).numpy().tobytes()).hexdigest()[:16]


def main(at_once: bool, seeds: int) -> None:
    """Print a line for each piece of work, in order."""
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-6)
    keys = [(work, seed) for seed in range(seeds) for work in WORK]
    lines = [""] * len(keys)
    barrier = threading.Barrier(len(keys) if at_once else 1)

    def run(number: int) -> None:
        barrier.wait(60)
        importlib.import_module("symfast")
        lines[number] = f"{keys[number][0].__name__} {digest(*keys[number])}"

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
        if not at_once:
            thread.join()
    for thread in threads:
        thread.join()
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0 if all(lines) else 1)  # what a thread died of is on stderr


if __name__ == "__main__":
    main(sys.argv[1] == "together", int(sys.argv[2]))
