# SPDX-License-Identifier: Apache-2.0
"""Predict which mirrors SGD collapses onto, then train and count how often that came true.

For several weight decays a tanh network learns scikit-learn's digits. `sf.stability` then judges
eight disjoint swap mirrors per network. Only after that is every mirror put to the test: the two
neurons are made equal, pushed 1e-3 apart, and training goes on with the same SGD.

    python examples/predict_collapse.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import symfast as sf

HIDDEN, BATCH, LR = 16, 32, 0.1
DECAYS = (0.0, 1e-3, 3e-3, 1e-2, 2e-2, 5e-2)


@dataclass(frozen=True)
class Trial:
    """One mirror: what was predicted, and what training did to the distance from its plane."""

    weight_decay: float
    exponent: float
    growth: float  # distance after over distance before

    @property
    def right(self) -> bool:
        return (self.exponent < 0) == (self.growth < 1)


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


def train(net: nn.Module, X: Tensor, y: Tensor, lam: float, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, weight_decay=lam)
    for _ in range(steps):
        rows = torch.randint(len(X), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss(net, (X[rows], y[rows])).backward()
        optimizer.step()


def trials(lam: float, seed: int, steps: int = 1000) -> list[Trial]:
    """Train, predict for eight swaps, then test each prediction by a run of its own."""
    torch.manual_seed(seed)
    X, y = digits()
    net = network()
    train(net, X, y, lam, 2 * steps, seed)
    units = sf.Units([(net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)])
    pairs = [(2 * i, 2 * i + 1) for i in range(HIDDEN // 2)]
    swaps = sf.Swap([a for a, _ in pairs], [b for _, b in pairs])
    batches = [(X[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 40 * BATCH, BATCH)]
    report = sf.stability(net, loss, [(units, swaps)], batches, lr=LR, weight_decay=lam)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    found = []
    for pair, exponent in zip(pairs, report.exponent.tolist(), strict=True):
        net.load_state_dict(start)
        plan = sf.Plan([(units, sf.Swap([pair[0]], [pair[1]]))])
        plan.project_()
        with torch.no_grad():
            for tensor, dim in units:
                tensor.select(dim, pair[0]).add_(1e-3 * torch.randn(tensor.select(dim, 0).shape))
        before = float(plan.norms()[0])
        train(net, X, y, lam, steps, seed + 1)
        found.append(Trial(lam, exponent, float(plan.norms()[0]) / before))
    return found


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
