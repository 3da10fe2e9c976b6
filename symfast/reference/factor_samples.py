# SPDX-License-Identifier: Apache-2.0
"""Gradients of the product-factor sweep with minibatches and noise, in plain torch."""

from typing import NamedTuple

import torch
from torch import Tensor

from symfast.reference.philox import GRADIENT_NOISE, LABEL_NOISE
from symfast.reference.replica import minibatch, normals

#: Steps whose noise is drawn at once.
WINDOW = 32


class Samples(NamedTuple):
    """What a step draws from; R replicas, n samples, d = i o coordinates."""

    x: Tensor  # (n, i), in the coordinates that are trained
    y: Tensor  # (n, o)
    noise: Tensor  # (2, R), standard deviations of label and gradient noise
    draws: Tensor  # (3, R) int64: seed, cell, batch size, 0 for all samples
    by_output: bool  # coordinate (f, o) is o i + f, otherwise f o + o'

    @classmethod
    def of(
        cls, x: Tensor, y: Tensor, noise: Tensor, draws: Tensor, by_output: bool, like: Tensor
    ) -> "Samples":
        """Return what the operator was given; (2, 0) and (3, 0) are zeros for replicas (R,)."""
        if noise.shape[1] == 0:
            noise = like.new_zeros(2, len(like))
            draws = torch.zeros(3, len(like), dtype=torch.int64, device=like.device)
        return cls(x, y, noise, draws, by_output)

    def select(self, rows: Tensor) -> "Samples":
        """Return the samples of some replicas."""
        return self._replace(noise=self.noise[:, rows], draws=self.draws[:, rows])


def sample_gradient(w: Tensor, x: Tensor, y: Tensor, by_output: bool) -> Tensor:
    """Gradient (R, d) of ``1/(2B) ||x w - y||^2`` for x (R, B, i), y (R, B, o).

    Example:
        >>> import torch
        >>> from symfast.reference.factor_samples import sample_gradient
        >>> x, y = torch.ones(1, 4, 2), torch.zeros(1, 4, 1)
        >>> sample_gradient(torch.ones(1, 2), x, y, by_output=False).tolist()
        [[2.0, 2.0]]
    """
    i, o = x.shape[2], y.shape[2]
    W = w.unflatten(1, (o, i)).mT if by_output else w.unflatten(1, (i, o))
    g: Tensor = x.mT @ (x @ W - y) / x.shape[1]
    return (g.mT if by_output else g).flatten(1)


class Gradients:
    """Gradients of replicas, step by step: Gram w - linear, or of samples, and noise.

    Args:
        gram: (d, d).
        linear: (d,).
        samples: data, noise and draws of the replicas.

    Example:
        >>> import torch
        >>> from symfast.reference.factor_samples import Gradients, Samples
        >>> x, draws = torch.eye(2), torch.zeros(3, 1, dtype=torch.int64)
        >>> samples = Samples(x, x[:, :1], torch.zeros(2, 1), draws, by_output=False)
        >>> Gradients(x / 2, x[0] / 2, samples)(torch.ones(1, 2), 0).tolist()
        [[0.0, 0.5]]
    """

    def __init__(self, gram: Tensor, linear: Tensor, samples: Samples) -> None:
        self.gram, self.linear, self.samples = gram, linear, samples
        batch, labels = samples.draws[2], samples.noise[0]
        self.sampled = (batch > 0) | (labels != 0)
        rows = torch.where(batch == 0, len(samples.y), batch)
        most = int(rows[self.sampled].max()) if bool(self.sampled.any()) else 0
        self.counts = most * samples.y.shape[1], len(linear)
        self.noise: list[Tensor | None] = [None, None]
        self.window = range(0)

    def __call__(self, w: Tensor, step: int) -> Tensor:
        """Gradient (R, d) at w (R, d) in one step."""
        if step not in self.window:
            self._draw(step)
        labels, gradients = self.noise
        g = w @ self.gram - self.linear
        seed, _, batch = self.samples.draws
        for size in batch[self.sampled].unique().tolist():
            rows = (self.sampled & (batch == size)).nonzero().flatten()
            drawn = {
                k: minibatch(k, step, size, len(self.samples.x)) for k in set(seed[rows].tolist())
            }
            index = torch.stack([drawn[k] for k in seed[rows].tolist()]).to(w.device)
            x, y = self.samples.x[index], self.samples.y[index]
            if labels is not None:
                z = labels[rows, step - self.window.start, : y[0].numel()].view_as(y)
                y = y + self.samples.noise[0, rows, None, None] * z.to(y)
            g[rows] = sample_gradient(w[rows], x, y, self.samples.by_output)
        if gradients is not None:
            z = gradients[:, step - self.window.start].to(g)
            g = g + self.samples.noise[1, :, None] * z
        return g

    def _draw(self, step: int) -> None:
        """Noise (R, steps, count) of the next steps, of the kinds that any replica has."""
        self.window = range(step, step + WINDOW)
        seed, cell, _ = self.samples.draws
        steps = torch.arange(step, step + WINDOW, device=seed.device)
        for kind, purpose in enumerate((LABEL_NOISE, GRADIENT_NOISE)):
            if bool((self.samples.noise[kind] != 0).any()):
                self.noise[kind] = normals(seed, purpose, cell, steps, self.counts[kind])
