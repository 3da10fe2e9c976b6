# SPDX-License-Identifier: Apache-2.0
"""Minibatches and noise of stacked replicas: random numbers from counters, in plain torch.

Philox4x32-10 (Salmon et al., SC 2011): the counter is (block, step, cell, purpose), the key the
seed. So a number depends on what it is for, never on which replicas are trained together.
"""

import math

import torch
from torch import Tensor

from symfast import ops
from symfast.reference.philox import philox_words

MINIBATCH, LABEL_NOISE, GRADIENT_NOISE = range(3)
_LOW = 0xFFFFFFFF


def words(seeds: Tensor, keys: Tensor, steps: Tensor, blocks: Tensor, purpose: int) -> list[Tensor]:
    """Return four tensors of 32-bit words (int64) of the broadcast shape of the arguments.

    Args:
        seeds: int64; all 64 bits count.
        keys: int64; the lower 32 bits count.
        steps: int64; the lower 32 bits count.
        blocks: int64 in [0, 2^32).
        purpose: MINIBATCH, LABEL_NOISE or GRADIENT_NOISE.

    Example:
        >>> import torch
        >>> from symfast.problems.draws import words
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [hex(int(word)) for word in words(zero, zero, zero, zero, 0)]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    shape = torch.broadcast_shapes(seeds.shape, keys.shape, steps.shape, blocks.shape)
    counter = [blocks, steps & _LOW, keys & _LOW, torch.full_like(blocks, purpose)]
    return philox_words([word.expand(shape) for word in counter], (seeds & _LOW, seeds >> 32))


def minibatches(seeds: Tensor, first: int, steps: int, batch: int, samples: int) -> Tensor:
    """Return sample indices (seeds, steps, batch), drawn with replacement from (seed, step) alone.

    Args:
        seeds: (S,) int64.
        first: number of the first step.
        steps: how many steps.
        batch: how many samples a step.
        samples: how many there are; below 2^31.

    Example:
        >>> import torch
        >>> from symfast.problems.draws import minibatches
        >>> every = minibatches(torch.tensor([3]), 0, 10, 4, 100)
        >>> bool((every[:, 7:] == minibatches(torch.tensor([3]), 7, 3, 4, 100)).all())
        True
    """
    step = torch.arange(first, first + steps, device=seeds.device)[None, :, None]
    block = torch.arange(-(-batch // 4), device=seeds.device)[None, None, :]
    found = words(seeds[:, None, None], torch.zeros_like(step), step, block, MINIBATCH)
    flat = torch.stack(found, -1).flatten(-2)[..., :batch]
    return flat * samples >> 32


def normals(
    seeds: Tensor, keys: Tensor, step: Tensor, count: int, purpose: int, dtype: torch.dtype
) -> Tensor:
    """Return standard normal numbers (R, count) of one step, by the method of Box and Muller.

    Args:
        seeds: (R,) int64.
        keys: (R,) int64.
        step: () int64.
        count: numbers a replica.
        purpose: LABEL_NOISE or GRADIENT_NOISE.
        dtype: of the numbers; 24 random bits go into each in every dtype.

    Example:
        >>> import torch
        >>> from symfast.problems.draws import GRADIENT_NOISE, normals
        >>> one = torch.ones(1, dtype=torch.int64)
        >>> z = normals(one, one, one[0], 100_000, GRADIENT_NOISE, torch.float32)
        >>> abs(z.mean().item()) < 0.02, abs(z.std().item() - 1) < 0.02
        (True, True)
    """
    block = torch.arange(-(-count // 4), device=seeds.device)[None, :]
    found = words(seeds[:, None], keys[:, None], step, block, purpose)
    pairs = []
    for a, b in ((found[0], found[1]), (found[2], found[3])):
        radius = (((a >> 8).to(dtype) + 0.5) * 2.0**-24).log().mul(-2).sqrt()  # never log(0)
        angle = (b >> 8).to(dtype) * (math.pi * 2.0**-23)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    z: Tensor = torch.ops.symfast.interleave.default(*pairs)
    return z[:, :count]


def _interleave(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Four (R, n) as (R, 4 n): a_0, b_0, c_0, d_0, a_1, ..."""
    return torch.stack([a, b, c, d], -1).flatten(-2)


# An operator of its own, which torch.compile leaves alone: fused with what it interleaves it would
# draw all four numbers anew for every one of them.
ops.define("interleave", "(Tensor a, Tensor b, Tensor c, Tensor d) -> Tensor", _interleave)


def _interleave_fake(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], 4 * a.shape[1])


torch.library.register_fake("symfast::interleave", _interleave_fake, lib=ops.LIBRARY)
