# SPDX-License-Identifier: Apache-2.0
"""Predict which mirrors SGD collapses onto, then train and count how often that came true.

For several weight decays a tanh network learns scikit-learn's digits. In eight copies one pair of
neurons each is made equal, and training goes on: equal neurons stay equal. `sf.stability` then
judges the mirror of each pair. Only after that the two neurons are pushed 1e-4 apart, and 18,000
further steps show whether they come together again.

    python examples/predict_collapse.py
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

import symfast as sf

HIDDEN, BATCH, LR = 16, 128, 0.1
DECAYS = (0.0, 1e-3, 1e-2, 2e-2, 5e-2, 0.1)


@dataclass(frozen=True)
class Trial:
    """One mirror: what was predicted, and what training did to the distance from its plane."""

    weight_decay: float
    exponent: float
    growth: float  # distance at the end over distance at the start

    @property
    def right(self) -> bool:
        return (self.exponent < 0) == (self.growth < 1)


@cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return torch.from_numpy(X).double() / 16, torch.from_numpy(y).long()


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, HIDDEN, dtype=torch.float64),
        nn.Tanh(),
        nn.Linear(HIDDEN, 10, dtype=torch.float64),
    )


def loss(net: object, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])  # type: ignore[operator]


def train(weights: list[Tensor], lam: float, steps: int, seed: int) -> None:
    """Plain SGD on stacked networks (R, ...) in place; all see the same minibatches."""
    X, y = digits()
    generator = torch.Generator().manual_seed(seed)
    W, b, V, c = (w.requires_grad_() for w in weights)
    for _ in range(steps):
        rows = torch.randint(len(X), (BATCH,), generator=generator)
        logits = torch.tanh(X[rows] @ W.mT + b[:, None]) @ V.mT + c[:, None]  # (R, BATCH, 10)
        target = y[rows].expand(len(W), -1)
        # a sum over networks: each gets the gradient of its own mean over the batch
        total = nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="sum")
        slopes = torch.autograd.grad(total / BATCH, (W, b, V, c))
        with torch.no_grad():
            for w, slope in zip((W, b, V, c), slopes, strict=True):
                w -= LR * (slope + lam * w)
    for w in weights:
        w.requires_grad_(False)


def trials(lam: float, seed: int, steps: int = 3000) -> list[Trial]:
    """Train, make one pair equal in each of eight copies, settle, predict; then test each."""
    torch.manual_seed(seed)
    X, y = digits()
    net = network().requires_grad_(False)
    weights = [p[None].clone() for p in net.parameters()]
    train(weights, lam, 2 * steps, seed)
    pairs = [(2 * i, 2 * i + 1) for i in range(HIDDEN // 2)]
    weights = [w.repeat(len(pairs), *[1] * (w.ndim - 1)) for w in weights]
    moved = [(weights[0], 0), (weights[1], 0), (weights[2], 1)]
    for i, (a, b) in enumerate(pairs):
        for w, dim in moved:
            first, second = w[i].select(dim, a), w[i].select(dim, b)
            second.copy_((first + second) / 2)
            first.copy_(second)
    train(weights, lam, 2 * steps, seed + 1)  # equal neurons stay equal, whatever the batches
    exponents = []
    batches = [(X[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 14 * BATCH, BATCH)]
    units = sf.Units([(net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)])
    for i, (a, b) in enumerate(pairs):
        for p, w in zip(net.parameters(), weights, strict=True):
            p.copy_(w[i])
        report = sf.stability(
            net, loss, [(units, sf.Swap([a], [b]))], batches, lr=LR, weight_decay=lam, iterations=12
        )
        exponents.append(float(report.exponent[0]))
    for i, (a, _) in enumerate(pairs):  # only now the runs
        for w, dim in moved:
            w[i].select(dim, a).add_(1e-4 * torch.randn_like(w[i].select(dim, a)))
    before = distances(moved, pairs)
    train(weights, lam, 6 * steps, seed + 2)
    growth = distances(moved, pairs) / before
    return [Trial(lam, *both) for both in zip(exponents, growth.tolist(), strict=True)]


def distances(moved: list[tuple[Tensor, int]], pairs: list[tuple[int, int]]) -> Tensor:
    """Distance of network i from the plane of pair i."""
    return torch.stack([
        torch.cat([w[i].select(d, a) - w[i].select(d, b) if w[i].ndim > 1
                   else (w[i][a] - w[i][b])[None] for w, d in moved]).norm() / 2**0.5
        for i, (a, b) in enumerate(pairs)
    ])  # fmt: skip


def main() -> None:
    found = [trial for lam in DECAYS for trial in trials(lam, seed=0)]
    for trial in found:
        print(f"decay {trial.weight_decay:6.3f}  exponent {trial.exponent:+.5f}  "
              f"distance x {trial.growth:9.3g}  {'right' if trial.right else 'WRONG'}")  # fmt: skip
    collapsed = sum(trial.growth < 1 for trial in found)
    print(f"{sum(trial.right for trial in found)} of {len(found)} predictions right; "
          f"{collapsed} mirrors collapsed, {len(found) - collapsed} were left")  # fmt: skip


if __name__ == "__main__":
    main()
