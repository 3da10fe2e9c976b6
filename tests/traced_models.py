# SPDX-License-Identifier: Apache-2.0
"""Small models of every kind that find_symmetries follows, with an input each."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Transformer(nn.Module):
    """Embedding, attention, layer norm, tied output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.last = nn.LayerNorm(16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        return F.linear(self.last(x), self.embed.weight)


class GroupedQuery(nn.Module):
    """Attention written by hand, four query heads on two key heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(6, 16), nn.Linear(6, 8)
        self.v, self.o = nn.Linear(6, 8), nn.Linear(16, 6)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, 4).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = (q @ k.transpose(-1, -2)) / 2
        mixed = scores.softmax(-1) @ v
        return self.o(mixed.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """Residual stream under RMS norm with equal gains, SwiGLU inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.RMSNorm(8)
        self.up, self.gate = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)
        self.down, self.last = nn.Linear(12, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.last(self.norm(x))


class HandNorm(nn.Module):
    """The same stream, its norm written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.inner(self.norm(x))
        return self.last(self.norm(x))


class Residual(nn.Module):
    """Convolutions with batch norm around a residual add, pooled and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4, 5)
        for norm in (self.stem_norm, self.norm):
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.norm(self.conv(x)))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Depthwise(nn.Module):
    """A depthwise, a grouped and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv1d(2, 8, 3), nn.Conv1d(8, 8, 3, groups=8, padding=1)
        self.g, self.t = nn.Conv1d(8, 6, 1, groups=2), nn.ConvTranspose1d(6, 4, 2)
        self.o = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.d(self.a(x)))
        return self.o(torch.tanh(self.t(F.relu(self.g(x)))))


class Joined(nn.Module):
    """Two layers and the input, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(3, 4), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([F.relu(self.a(x)), torch.tanh(self.b(x)), x], -1))


class Recurrent(nn.Module):
    """A recurrent layer read by a linear one."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False) -> None:
        super().__init__()
        self.rnn = kind(3, 4, layers, bidirectional=both)  # type: ignore[arg-type]
        self.out = nn.Linear(8 if both else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Shared(nn.Module):
    """One square layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = torch.tanh(self.twice(torch.tanh(self.first(x) if x.shape[-1] == 3 else x)))
        return self.last(x)


class Rotary(nn.Module):
    """Rotary positions: pairs of key and query units turn with time, so they cannot mix."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.register_buffer("speed", torch.tensor([1.0, 0.1]), persistent=False)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (4, 4)).transpose(1, 2)

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[2]).to(x), self.speed.to(x))  # type: ignore[arg-type]
        angle = torch.cat([angles, angles], -1)
        return x * angle.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        mask = torch.full(2 * (x.shape[1],), float("-inf")).triu(1)
        scores = self.turn(q) @ self.turn(k).transpose(-1, -2) / 2 + mask
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Vision(nn.Module):
    """Patches, a class token, learned positions, and a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.place = (
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.Parameter(torch.randn(1, 5, 8)),
        )
        self.mix, self.back = nn.Linear(8, 12), nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head((x + self.back(F.glu(self.mix(x)))).mean(1))


class Unknown(nn.Module):
    """Units sorted by value: an operator that is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sort(self.a(x), dim=-1).values)
