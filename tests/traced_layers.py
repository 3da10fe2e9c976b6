# SPDX-License-Identifier: Apache-2.0
"""Layers of torch, each between two others: what find_symmetries should see in them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Chain(nn.Module):
    """A layer between a first and a last one, ReLU around it."""

    def __init__(self, first: nn.Module, middle: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = first, middle, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.middle(F.relu(self.first(x)))))


class Normed(nn.Module):
    """A norm right behind a layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(x))))


class Cross(nn.Module):
    """Cross attention with keys and values of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.last(self.attention(query, key, value)[0])


class SharedKeys(nn.Module):
    """torch's own grouped-query attention, causal."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(6, 16), nn.Linear(6, 8)
        self.v, self.o = nn.Linear(6, 8), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(out.transpose(1, 2).flatten(2))


class Cell(nn.Module):
    """A recurrent cell, three steps from no state."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(3, 5), cell, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x:
            state = self.cell(F.relu(self.first(step)), state)
        return self.last(state[0] if isinstance(state, tuple) else state)


class Tied(nn.Module):
    """An embedding that is also the output, around a residual stream without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(7, 6), nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return F.linear(x + self.down(F.relu(self.up(x))), self.embed.weight)


class Pair(nn.Module):
    """Two inputs read by one bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 5)
        self.both, self.last = nn.Bilinear(4, 5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.both(F.relu(self.a(x)), self.b(x))))


class Stream(nn.Module):
    """A residual stream under layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.norm(x + self.down(F.silu(self.up(self.norm(x))))))


class Bag(nn.Module):
    """An operator that is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(7, 6), nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(F.relu(self.bag(tokens)))


def encoder() -> nn.Module:
    """Torch's encoder layer, its weights away from zero."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer
