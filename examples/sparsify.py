# SPDX-License-Identifier: Apache-2.0
"""A small CNN and a small transformer on scikit-learn's digits, made sparse in four ways.

python examples/sparsify.py --model cnn --model transformer --seeds 3 --out runs/sparsify
writes runs.csv and sparsify.png there: test accuracy over the share of weights that are not zero.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import symfast as sf

BATCH, LR, MOMENTUM = 64, 0.05, 0.9
#: Factors of small weights are small, and so is what a step does to their product.
FACTOR_LR, BETA = 0.3, 0.01
WARM_UP = 50  # steps
#: Weights below this are zero in the finished model, whatever the method.
TOL = 1e-3
STRENGTHS = {
    "spred (D = 2)": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "DWF (D = 4)": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "prox plan": (3e-4, 1e-3, 3e-3, 8e-3),
    "magnitude pruning": (0.5, 0.2, 0.05, 0.02),  # share of weights that is kept
}


class Transformer(nn.Module):
    """One encoder layer on the 8 rows of an image as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(0.1 * torch.randn(8, 32))
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, 1, 8, 8)."""
        tokens: Tensor = self.layer(self.embed(x.flatten(1, 2)) + self.position)
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def cnn() -> nn.Module:
    """Two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "transformer": Transformer}
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def digits(seed: int) -> Data:
    """1,297 images to train on and 500 to test on, another split for every seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    X = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(bunch.target)
    order = torch.arange(len(X))
    train, test = train_test_split(order, test_size=500, random_state=seed, stratify=y)
    return X[train], y[train], X[test], y[test]


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """What is made sparse: weights of two or more dims; biases and norm gains stay."""
    return [p for p in model.parameters() if p.ndim > 1]


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
    after: Callable[[float], None] = lambda lr: None,
) -> None:
    """Cross-entropy, linear warm-up and decay, clipped; ``after(lr)`` runs behind every step."""
    steps = epochs * -(-len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / WARM_UP, 1.02 - i / steps)
    )
    for x, y in batches(data, epochs, seed):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        after(float(optimizer.param_groups[0]["lr"]))
        schedule.step()


def by_factors(
    model: nn.Module, data: Data, depth: int, lam: float, seed: int, epochs: int
) -> None:
    """Products of D factors: the module stays plain, the optimizer has the factors."""
    groups = sf.plain_groups(model)
    groups[1]["lr"] = LR  # biases and norm gains are no products
    optimizer = sf.FactorSGD(
        groups, lr=FACTOR_LR, lam=lam, depth=depth, momentum=MOMENTUM, beta=BETA
    )
    train(model, optimizer, data, epochs, seed)


def by_prox(model: nn.Module, data: Data, lam: float, seed: int, epochs: int) -> None:
    """SGD, then soft-thresholding of every weight by one plan."""
    flat = [p.detach().view(-1) for p in weights_of(model)]
    plan = sf.Plan([(w, sf.SignFlip()) for w in flat])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    # momentum makes a step 1 / (1 - m) times as long: so must be the threshold
    train(model, optimizer, data, epochs, seed, lambda lr: plan.prox_(lr * lam / (1 - MOMENTUM)))


def by_magnitude(model: nn.Module, data: Data, keep: float, seed: int, epochs: int) -> None:
    """Half of the epochs dense, then the largest weights of all layers alone."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    train(model, optimizer, data, epochs // 2, seed)
    weights = weights_of(model)
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    cut = sizes.kthvalue(max(1, round((1 - keep) * len(sizes)))).values
    masks = [w.detach().abs() > cut for w in weights]

    def prune(lr: float) -> None:
        with torch.no_grad():
            for w, mask in zip(weights, masks, strict=True):
                w.mul_(mask)

    prune(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    train(model, optimizer, data, epochs - epochs // 2, seed + 1, prune)


def run(name: str, method: str, strength: float, seed: int, epochs: int = 40) -> dict[str, object]:
    """Train one model; its test accuracy and share of nonzero weights."""
    torch.manual_seed(seed)
    model, data, start = MODELS[name](), digits(seed), time.perf_counter()
    if method == "prox plan":
        by_prox(model, data, strength, seed, epochs)
    elif method == "magnitude pruning":
        by_magnitude(model, data, strength, seed, epochs)
    else:
        by_factors(model, data, 2 if "2" in method else 4, strength, seed, epochs)
    with torch.no_grad():
        for w in weights_of(model):
            w.masked_fill_(w.abs() < TOL, 0)
        model.eval()
        right = (model(data[2]).argmax(1) == data[3]).double().mean()
    total = sum(w.numel() for w in weights_of(model))
    left = sum(int((w != 0).sum()) for w in weights_of(model))
    return {
        "model": name, "method": method, "strength": strength, "seed": seed, "epochs": epochs,
        "accuracy": round(float(right), 4), "share": left / total, "weights": left,
        "seconds": round(time.perf_counter() - start, 2),
    }  # fmt: skip


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Mean over seeds with the range of seeds as bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.DataFrame(rows)
    names = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(1, len(names), figsize=(5.2 * len(names), 3.8), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for method, part in table[table["model"] == name].groupby("method", sort=False):
            by = part.groupby("strength")
            x, y = by["share"].mean(), by["accuracy"].mean()
            bars = [y - by["accuracy"].min(), by["accuracy"].max() - y]
            axis.errorbar(x, y, yerr=bars, marker="o", capsize=2, label=str(method))
        axis.set(xscale="log", xlabel="share of weights that are not zero", title=name)
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run everything asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/sparsify"))
    given = parser.parse_args()
    if given.epochs < 2 or given.seeds < 1:
        parser.error("--epochs must be at least 2 and --seeds at least 1")
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.model or list(MODELS):
        for method, strengths in STRENGTHS.items():
            for strength in strengths:
                for seed in range(given.seeds):
                    rows.append(run(name, method, strength, seed, given.epochs))
                    print(rows[-1], flush=True)  # noqa: T201
    with (given.out / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, given.out / "sparsify.png")


if __name__ == "__main__":
    main()
