# SPDX-License-Identifier: Apache-2.0
"""Five phase diagrams over weight decay and noise, for three mirror symmetries.

    python examples/phase_diagrams.py            # all five, 32 x 32 cells x 8 seeds each
    python examples/phase_diagrams.py rank --size 8 --out runs/mine

sparsity: units of a ReLU network that vanish (rescaling). product: weights that are products of
two factors and vanish (rescaling of single numbers). rank: singular values of a linear
network that vanish (rotation). factorisation: the same for a matrix V U^T. distinct: hidden units
of a tanh student that remain different (permutation). Data ship with scikit-learn.
docs/phase_diagrams.md tells theory and measurement.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import symfast as sf
from symfast.sweep.data import load


@dataclass(frozen=True)
class Diagram:
    """One phase diagram: what is trained, over which ranges, and what is drawn."""

    problem: sf.problems.TwoLayer | sf.problems.Factorized
    metric: str
    weight_decay: tuple[float, float]  # logarithmic
    label_noise: float  # linear from 0
    lr: float
    batch_size: int
    steps: int
    predict: Callable[[float], float] | None = None  # the metric without noise, of weight decay
    # what decay without noise equals decay with label noise
    effective: Callable[[float, float], float] | None = None


def sparsity() -> Diagram:
    """A ReLU network on the diabetes data: how many of 16 hidden units are left."""
    X, y, _ = load("diabetes")
    problem = sf.problems.TwoLayer(X, y, hidden=16, activation="relu")
    return Diagram(problem, "units", (1e-3, 1.0), 4.0, lr=0.05, batch_size=8, steps=10_000)


def product() -> Diagram:
    """The diabetes regression with weights u v: the share of weights that vanish.

    Without noise that is the Lasso with penalty lam. With noise, log |u + v| of a weight that stays
    has no drift, E log|1 - eta lam - eta g| = 0, so E g = -(lam + eta E[g^2] / 2) to second order:
    the conditions of a Lasso with penalty lam + eta Var(y - x w + noise) / (2 B), for features of
    variance 1 and minibatches of B.
    """
    X, y, _ = load("diabetes")
    problem, lr, batch = sf.problems.Factorized(X, y, depth=2), 0.02, 8

    def predict(lam: float) -> float:
        return float((lasso(problem, lam).abs() <= 1e-4).double().mean())

    def effective(lam: float, noise: float) -> float:
        penalty = lam
        for _ in range(20):  # the residuals depend on the weights
            loss = float(problem.loss(lasso(problem, penalty)[None]))
            penalty = lam + lr * (2 * loss + noise**2) / (2 * batch)
        return penalty

    return Diagram(problem, "sparsity", (2e-3, 1.0), 8.0, lr, batch, 20_000, predict, effective)


def lasso(problem: sf.problems.Factorized, lam: float) -> Tensor:
    """The Lasso's weights (d,) by proximal gradient descent."""
    w, rate = torch.zeros_like(problem.linear), 1 / torch.linalg.eigvalsh(problem.gram)[-1]
    for _ in range(1000):
        z = w - rate * (problem.gram @ w - problem.linear)
        w = z.sign() * (z.abs() - rate * lam).clamp_min(0)
    return w


def rank() -> Diagram:
    """A linear network between whitened inputs: its rank follows singular values exactly."""
    X, scores = digits(12)
    problem = sf.problems.TwoLayer(X, scores, hidden=12, activation="identity", bias=False)
    s = torch.linalg.svdvals(scores.T @ X / len(X))
    outputs = scores.shape[1]

    def predict(lam: float) -> float:
        """The loss is 1/o ||M - W2 W1||^2 + const for white inputs: s -> max(s - lam o/2, 0)."""
        return float((s > lam * outputs / 2).sum())

    return Diagram(problem, "product_rank", (1e-2, 0.3), 6.0, 0.3, 8, 10_000, predict)


def factorisation() -> Diagram:
    """The correlations of the wine data as a product of two 13 x 13 factors, seen with noise.

    A row of the matrix is the target of a unit vector, so V U^T is a network without biases, and a
    minibatch is some rows.
    """
    X, _, _ = load("wine")
    matrix = X.T @ X / len(X)
    rows = torch.eye(len(matrix), dtype=torch.float64)
    problem = sf.problems.TwoLayer(rows, matrix, hidden=13, activation="identity", bias=False)
    s = torch.linalg.svdvals(matrix)

    def predict(lam: float) -> float:
        """The loss is 1/d^2 ||M - V U^T||^2: s -> max(s - lam d^2/2, 0), of which 1% counts."""
        kept = s - lam * len(matrix) ** 2 / 2
        return float((kept > 0.01 * kept[0].clamp_min(0)).sum())

    return Diagram(problem, "product_rank", (1e-3, 0.1), 3.0, 1.0, 4, 8_000, predict)


def distinct() -> Diagram:
    """A tanh student of 12 units learns a tanh teacher of 3: how many of its units differ."""
    X, _ = digits(8)
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    problem = sf.problems.TwoLayer(X, (X @ teacher).tanh().sum(1), hidden=12, activation="tanh")
    return Diagram(problem, "distinct", (1e-4, 0.1), 4.0, lr=0.1, batch_size=8, steps=10_000)


def digits(components: int) -> tuple[Tensor, Tensor]:
    """First principal components of the digits: white, and with their own sizes (largest 1)."""
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().data)
    pixels = pixels - pixels.mean(0)
    left, size, _ = torch.linalg.svd(pixels, full_matrices=False)
    white = left[:, :components] * len(pixels) ** 0.5
    return white, white * size[:components] / size[0]


DIAGRAMS = {
    "sparsity": sparsity,
    "product": product,
    "rank": rank,
    "factorisation": factorisation,
    "distinct": distinct,
}


def run(
    diagram: Diagram, size: int, seeds: int, out: Path | None, steps: int | None = None
) -> sf.SweepResult:
    """Train size x size cells times seeds in float32 and return the result."""
    low, high = torch.tensor(diagram.weight_decay, dtype=torch.float64).log10().tolist()
    return sf.sweep(
        diagram.problem,
        weight_decay=torch.logspace(low, high, size, dtype=torch.float64),
        label_noise=torch.linspace(0, diagram.label_noise, size, dtype=torch.float64),
        lr=diagram.lr,
        momentum=0.0,
        batch_size=diagram.batch_size,
        seeds=seeds,
        steps=steps or diagram.steps,
        dtype=torch.float32,
        out=out,
        keep_weights=False,
    )


def report(name: str, diagram: Diagram, result: sf.SweepResult) -> None:
    """Print the diagram's corners and edge, beside what theory says without noise."""
    means = result.table.groupby(["label_noise", "weight_decay"])[diagram.metric].mean().unstack()
    print(f"{name}: {result}, {result.seconds:.1f} s in the kernel")
    columns = means.columns[:: max(1, len(means.columns) // 8)]
    print("weight decay  " + "".join(f"{x:9.2g}" for x in columns))
    predict, effective = diagram.predict, diagram.effective
    for noise in means.index[:: max(1, len(means) // 4)]:
        print(f"noise {noise:6.2f}  " + "".join(f"{means.loc[noise, x]:9.2f}" for x in columns))
        if predict is not None and effective is not None:
            there = [predict(effective(x, noise)) for x in columns]
            print("theory        " + "".join(f"{x:9.2f}" for x in there))
    if predict is not None and effective is None:
        print("theory, none  " + "".join(f"{predict(x):9.2f}" for x in columns))


def main() -> None:
    """Read the command line and draw the diagrams it names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(DIAGRAMS), help=", ".join(DIAGRAMS))
    parser.add_argument("--size", type=int, default=32, help="cells along each axis")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, help="steps of every run, instead of the diagram's")
    parser.add_argument("--out", type=Path, default=Path("runs/phase_diagrams"))
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(DIAGRAMS))
    if unknown:
        parser.error(f"there is no diagram {unknown[0]}; there are {', '.join(DIAGRAMS)}")
    for name in arguments.names:
        diagram = DIAGRAMS[name]()
        result = run(
            diagram, arguments.size, arguments.seeds, arguments.out / name, arguments.steps
        )
        report(name, diagram, result)
        figure = result.plot(diagram.metric, x="weight_decay", y="noise")
        figure.savefig(arguments.out / name / f"{diagram.metric}.png")
        result.to_html(arguments.out / name / "report.html", [diagram.metric, "loss"])


if __name__ == "__main__":
    main()
