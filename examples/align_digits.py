# SPDX-License-Identifier: Apache-2.0
"""Loss barriers between independently trained networks, before and after `sf.align`.

Pairs of ReLU MLPs and of small transformers (one attention head of size 8 per 8 channels, an image
is 8 tokens of 8 pixels) learn scikit-learn's digits from different seeds.

    python examples/align_digits.py
"""

import sys

import torch
from torch import Tensor, nn

import symfast as sf
from symfast.align import match_models


class Transformer(nn.Module):
    """Two heads of attention and an MLP, both residual, over the 8 rows of an image."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(-1, 8, 8)) + self.place
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for f in (self.q, self.k, self.v))  # fmt: skip
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x.mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X).float() / 16, torch.from_numpy(y).long()
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    return X[order[:1400]], y[order[:1400]], X[order[1400:]], y[order[1400:]]


def train(net: nn.Module, steps: int, seed: int) -> nn.Module:
    X, y, _, _ = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(steps):
        rows = torch.randint(len(X), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
        optimizer.step()
    return net.eval()


def main(steps: int) -> None:
    _, _, X, y = digits()

    def loss(net: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(net(X), y)

    for name, make in (("MLP 64-64-10", mlp), ("transformer 16x2", Transformer)):
        for pair in range(3):
            nets = []
            for seed in (2 * pair, 2 * pair + 1):
                torch.manual_seed(seed)
                nets.append(train(make(), steps, seed))
            found = match_models(nets[0], nets[1], X[:16])
            before, _ = sf.loss_barrier(nets[0], nets[1], loss)
            after, losses = sf.loss_barrier(found.model, nets[1], loss)
            print(f"{name}, pair {pair}: distance {found.before:.2f} -> {found.after:.2f}, barrier "
                  f"{before:.3f} -> {after:.3f} (end losses {losses[0]:.3f}, {losses[-1]:.3f}), "
                  f"output change {found.error:.1e}")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
