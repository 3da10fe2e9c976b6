# SPDX-License-Identifier: Apache-2.0
"""A small CNN and a small transformer on scikit-learn's digits, made sparse in four ways.

python examples/sparsify.py --seeds 3 --out runs/sparsify --figure sparsify.png

Every method trains for 30 epochs; then weights below 1e-3 are zero for good and the others train on
for 10 epochs without a penalty, the same for all. Learning rates are chosen beforehand on another
split. Rows go to OUT/runs.csv: a stopped run goes on where it was. DWF starts at ordinary weights.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import symfast as sf

BATCH, MOMENTUM, WARM_UP = 64, 0.9, 50  # warm-up in steps
EPOCHS, FINE_EPOCHS, FINE_LR = 30, 10, 0.05
#: Weights below this are zero in the finished model, whatever the method.
TOL = 1e-3
#: Imbalance of the first factors by depth: what gives factors of zero weights a gradient.
BETA = {2: 0.01, 4: 0.3}
#: The transformer bears stronger penalties.
SCALE = {"cnn": 1.0, "transformer": 2.0}
#: The seed that learning rates are chosen with, and the most weights that may be left then.
TUNE_SEED, TUNE_SHARE = 1000, 0.1


class Transformer(nn.Module):
    """One encoder layer on the 8 rows of an image as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(0.1 * torch.randn(8, 32))
        self.layer = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, 1, 8, 8)."""
        tokens: Tensor = self.layer(self.embed(x.flatten(1, 2)) + self.position)
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def cnn() -> nn.Module:
    """Two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "transformer": Transformer}
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def digits(seed: int, tune: bool) -> Data:
    """Images and labels to train on and to test on, another split for every seed.

    1,297 and 500; to choose learning rates, 997 and 300 out of the first seed's 1,297.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    X = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(bunch.target)
    train, test = train_test_split(
        torch.arange(len(X)), test_size=500, random_state=0 if tune else seed, stratify=y
    )
    if tune:
        train, test = train_test_split(train, test_size=300, random_state=0, stratify=y[train])
    return X[train], y[train], X[test], y[test]


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """What is made sparse: weights of two or more dims; biases and norm gains stay."""
    return [p for p in model.parameters() if p.ndim > 1]


def share_left(model: nn.Module) -> float:
    """The share of weights that are not zero."""
    weights = weights_of(model)
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def batches(data: Data, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of all epochs."""
    g = torch.Generator().manual_seed(seed)
    X, y = data[:2]
    for _ in range(epochs):
        for rows in torch.randperm(len(X), generator=g).split(BATCH):
            yield X[rows], y[rows]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    epochs: int,
    seed: int,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Cross-entropy, linear warm-up and decay, clipped; ``after()`` runs behind every step."""
    steps = epochs * -(-len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / WARM_UP, 1.02 - i / steps)
    )
    for x, y in batches(data, epochs, seed):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        after()
        schedule.step()


Optimizers = Callable[[nn.Module, float, float], torch.optim.Optimizer]


def factors(depth: int) -> Optimizers:
    """SGD on products of D factors: the module stays plain, the optimizer has the factors."""

    def make(model: nn.Module, lr: float, lam: float) -> torch.optim.Optimizer:
        groups = sf.plain_groups(model)
        groups[1]["lr"] = FINE_LR  # biases and norm gains are no products
        return sf.FactorSGD(
            groups, lr=lr, lam=lam, depth=depth, momentum=MOMENTUM, beta=BETA[depth]
        )

    return make


def prox(model: nn.Module, lr: float, lam: float) -> torch.optim.Optimizer:
    """SGD whose step soft-thresholds every weight."""
    plan = sf.Plan([(w, sf.SignFlip()) for w in weights_of(model)])
    # momentum makes a step 1 / (1 - m) times as long: so must be the threshold
    strength = lam / (1 - MOMENTUM)
    return sf.optim.SGD(
        model.parameters(), lr, MOMENTUM, plan=plan, constraint="prox", strength=strength
    )


def dense(model: nn.Module, lr: float, keep: float) -> torch.optim.Optimizer:
    """Plain SGD."""
    return torch.optim.SGD(model.parameters(), lr, MOMENTUM)


@dataclass(frozen=True)
class Method:
    """How to train, the strengths on the curve, and the learning rates to choose from.

    Strengths are penalties of the CNN (SCALE of the transformer), or shares of weights to keep.
    """

    optimizer: Optimizers
    strengths: tuple[float, ...]
    rates: tuple[float, ...]


METHODS = {
    "magnitude pruning": Method(dense, (0.3, 0.1, 0.05, 0.03, 0.02), (0.05, 0.1, 0.2)),
    "prox plan": Method(prox, (2e-4, 4e-4, 7e-4, 1e-3, 1.4e-3), (0.05, 0.1, 0.2)),
    "spred (D = 2)": Method(factors(2), (2e-4, 4e-4, 7e-4, 1e-3, 1.4e-3), (0.5, 1.0, 2.0)),
    "DWF (D = 4)": Method(factors(4), (2e-4, 3e-4, 4e-4, 5e-4, 6e-4), (1.0, 1.5, 2.0)),
}
PRUNING = "magnitude pruning"


def strengths_of(name: str, method: str) -> list[float]:
    """What is on a model's curve."""
    scale = 1.0 if method == PRUNING else SCALE[name]
    return [scale * s for s in METHODS[method].strengths]


def cut(model: nn.Module, keep: float | None) -> list[Tensor]:
    """Zero the weights below TOL, or all but the largest share of them; masks of the others."""
    weights = weights_of(model)
    level = TOL
    if keep is not None:
        sizes = torch.cat([w.detach().abs().flatten() for w in weights])
        level = float(sizes.kthvalue(round((1 - keep) * len(sizes)) + 1).values)
    masks = [w.detach().abs() >= level for w in weights]
    with torch.no_grad():
        for w, mask in zip(weights, masks, strict=True):
            w.mul_(mask)
    return masks


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """On the images to test on."""
    return round(float((model(data[2]).argmax(1) == data[3]).double().mean()), 4)


def run(name: str, method: str, strength: float, lr: float, seed: int) -> dict[str, object]:
    """Train one model; its accuracy and share of nonzero weights. ``strength`` 0 is dense."""
    torch.manual_seed(seed)
    tune = seed == TUNE_SEED
    model, data = MODELS[name](), digits(seed, tune)
    train(model, METHODS[method].optimizer(model, lr, strength), data, EPOCHS, seed)
    pruning = strength if method == PRUNING else None
    masks = cut(model, pruning if strength else 1.0)
    alone, weights = accuracy(model, data), weights_of(model)

    @torch.no_grad()
    def keep_zeros() -> None:
        for w, mask in zip(weights, masks, strict=True):
            w.mul_(mask)

    fine = torch.optim.SGD(model.parameters(), FINE_LR, MOMENTUM)
    train(model, fine, data, FINE_EPOCHS, seed + 1, keep_zeros)
    return {
        "model": name, "method": method, "strength": strength, "lr": lr, "seed": seed,
        "share": round(share_left(model), 5), "alone": alone, "accuracy": accuracy(model, data),
    }  # fmt: skip


class Table:
    """Finished runs in a csv file; a run that is there is not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, object]] = []
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    words = ("model", "method")
                    self.rows.append({k: v if k in words else float(v) for k, v in row.items()})

    def get(self, *key: object) -> dict[str, object]:
        """The row of (model, method, strength, lr, seed), made now if it is not there."""
        names = ("model", "method", "strength", "lr", "seed")
        for row in self.rows:
            if tuple(row[name] for name in names) == key:
                return row
        row = run(*key)  # type: ignore[arg-type]
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)
        print(row, flush=True)
        return row


def choose_rate(table: Table, name: str, method: str) -> float:
    """The rate with the best accuracy among models that have a tenth of their weights or fewer."""
    found = METHODS[method]

    def best(lr: float) -> float:
        rows = [table.get(name, method, s, lr, TUNE_SEED) for s in strengths_of(name, method)[1::2]]
        return max(
            (float(str(r["accuracy"])) for r in rows if float(str(r["share"])) <= TUNE_SHARE),
            default=-1.0,
        )

    return max(found.rates, key=best)


def main() -> None:
    """Choose learning rates, then run everything asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/sparsify"))
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error("--seeds must be at least 1")
    torch.set_num_threads(1)  # tensors this small gain nothing from more
    given.out.mkdir(parents=True, exist_ok=True)
    table, rows = Table(given.out / "runs.csv"), []
    for name in given.model or list(MODELS):
        for method in METHODS:
            lr = choose_rate(table, name, method)
            strengths = [0.0] * (method == PRUNING) + strengths_of(name, method)
            rows += [
                table.get(name, method, strength, lr, seed)
                for strength in strengths
                for seed in range(given.seeds)
            ]
    from sparsify_plot import plot  # beside this file; needs matplotlib and pandas

    plot(rows, given.figure or given.out / "sparsify.png")


if __name__ == "__main__":
    main()
