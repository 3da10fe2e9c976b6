# SPDX-License-Identifier: Apache-2.0
"""Truth case 14: over many tasks, decay to zero loses rank and decay to an anchor does not.

Pixels are standardised: raw ones are so small that under this decay the plain networks die before
they have learnt the first task, and dead networks lose nothing.
"""

import torch
from torch import Tensor, nn

from symfast.rank import effective_rank
from symfast.removal import remove_symmetry
from symfast.verify.case import Case, CaseResult, Curves, Series, at_least
from symfast.verify.removal import digits

SOURCE = "Ziyin, Xu, Chuang, ICLR 2025 (syre)"
SIZES = (64, 64, 64, 64, 10)
#: A network of which fewer than this are right has not learnt its task; chance is 0.1.
LEARNT = 0.7


class Networks(nn.Module):
    """Independent ReLU networks 64-64-64-64-10, one per seed, as stacked parameters."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generators = [torch.Generator().manual_seed(100 + seed) for seed in range(seeds)]
        for n, m in zip(SIZES, SIZES[1:], strict=False):
            stack = [(2 * torch.rand(n, m, generator=g) - 1) / n**0.5 for g in generators]
            self.weights.append(nn.Parameter(torch.stack(stack)))
            self.biases.append(nn.Parameter(torch.zeros(seeds, 1, m)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (seeds, batch, 10) and the last hidden layer."""
        hidden = x
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(b, x, W)
            if i + 1 < len(self.weights):
                x = hidden = x.relu()
        return x, hidden


def pixels_and_labels() -> tuple[Tensor, Tensor]:
    """Digits with every pixel of mean 0 and standard deviation 1; constant ones are 0."""
    X, y = digits()
    spread = X.std(0)
    return (X - X.mean(0)) / torch.where(spread > 0, spread, 1), y


def run_tasks(sigma: float, seeds: int, tasks: int, steps: int) -> tuple[Tensor, Tensor]:
    """Effective rank and accuracy (tasks, seeds) after each task of permuted pixels and labels."""
    X, y = pixels_and_labels()
    model = Networks(seeds)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.03)
    if sigma:
        remove_symmetry(optimizer, sigma, seed=1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    ranks, right = [], []
    for _ in range(tasks):
        pixels = torch.stack([torch.randperm(64, generator=g) for g in generators])
        labels = torch.stack([torch.randperm(10, generator=g)[y] for g in generators])
        inputs = torch.stack([X[:, order] for order in pixels])
        for _ in range(steps):
            rows = torch.stack([torch.randint(len(X), (64,), generator=g) for g in generators])
            batch = inputs.gather(1, rows[..., None].expand(-1, -1, 64))
            logits, _ = model(batch)
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.gather(1, rows).flatten(), reduction="sum"
            )
            optimizer.zero_grad()
            (loss / 64).backward()
            optimizer.step()
        with torch.no_grad():
            logits, hidden = model(inputs)
            values = torch.linalg.svdvals(hidden.double())
        ranks.append(torch.tensor([effective_rank(s) for s in values]))
        right.append((logits.argmax(-1) == labels).double().mean(1))
    return torch.stack(ranks), torch.stack(right)


def run(quick: bool) -> CaseResult:
    """Five seeds, paired: the same start, tasks and batches with and without the anchor."""
    tasks, steps = (6, 250) if quick else (12, 400)
    paths = [run_tasks(sigma, 5, tasks, steps) for sigma in (0.0, 0.05)]
    (ranks, right), (free_ranks, free_right) = paths
    rank, accuracy = free_ranks[-1] - ranks[-1], free_right[-1] - right[-1]
    means = f"{float(free_ranks[-1].mean()):.1f} against {float(ranks[-1].mean()):.1f}"
    shares = f"{float(free_right[-1].mean()):.3f} against {float(right[-1].mean()):.3f}"
    x = range(1, tasks + 1)
    series = tuple(
        Series(name, x, path[0].mean(1).tolist())
        for name, path in zip(("decay to zero", "decay to an anchor"), paths, strict=True)
    )
    caption = "Effective rank of the last hidden layer after each task, mean of 5 seeds."
    checks = [
        at_least("plain decay: least accuracy on the first task (the networks live)", "control",
                 float(right[0].min()), LEARNT, "learnt"),
        at_least(f"seeds with higher effective rank ({means})", SOURCE, int((rank > 0).sum()), 4,
                 "5 of 5"),
        at_least("mean gain in effective rank", SOURCE, float(rank.mean()), 2.0, ">= 2"),
        at_least(f"seeds with higher accuracy ({shares})", SOURCE, int((accuracy > 0).sum()), 4,
                 "5 of 5"),
    ]  # fmt: skip
    if not quick:  # six short tasks do not show it
        claim = "plain decay: seeds whose effective rank falls from the first task to the last"
        fallen = int((ranks[-1] < ranks[0]).sum())
        checks.append(at_least(claim, SOURCE, fallen, 4, "5 of 5"))
    return CaseResult(tuple(checks), Curves("task", "effective rank", series, caption))


CASES = (Case(14, "loss of plasticity", SOURCE, run),)
