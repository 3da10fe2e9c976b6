# SPDX-License-Identifier: Apache-2.0
"""An anchor and gradient noise from counters, in plain torch: csrc/anchor.h bit by bit."""

import torch
from torch import Tensor

from symfast.reference.philox import ANCHOR, GRADIENT_NOISE, multiply_add, random_block

_LOW = 0xFFFFFFFF
_FIRST, _THIRD, _FIFTH = 4.020757842226885e-07, 4.1403181594794793e-22, 2.0366864513116207e-35


def anchor_words(seed: int, parameter: int, element: Tensor) -> Tensor:
    """One 32-bit word for every element: a bijective hash of its low 32 bits under two keys.

    ``x = i + key0; x ^= x >> 16; x = 0x21f0aaad x + key1; x ^= x >> 15; x *= 0xd35a2d97;
    x ^= x >> 15``, the keys from a Philox block of (seed, parameter, element >> 32). The
    constants are those of least bias in C. Wellons, "hash prospector", 2018.

    Args:
        seed: 64 bits.
        parameter: 32 bits.
        element: int64, any shape: flat indices into the parameter.

    Returns:
        int64 in [0, 2^32), the shape of element.

    Example:
        >>> import torch
        >>> from symfast.reference.anchor import anchor_words
        >>> len(anchor_words(3, 0, torch.arange(1000)).unique())
        1000
    """
    stretches, at = (element >> 32).unique(return_inverse=True)
    keys = random_block(seed, ANCHOR, parameter, 0, stretches)[at]
    x = (element + keys[..., 0]) & _LOW
    x = x ^ x >> 16
    x = (x * 0x21F0AAAD + keys[..., 1]) & _LOW
    x = x ^ x >> 15
    x = x * 0xD35A2D97 & _LOW  # wraps to 64 bits: the low half is right
    return x ^ x >> 15


def word_normals(word: Tensor) -> Tensor:
    """The normal numbers of 32-bit words, as float32.

    The bytes b of a word give ``y = 255 (64 b0 + 63 b1) + 257 (64 b2 + 63 b3) - 8290560``, nearly
    a sum of four uniform numbers, and an odd polynomial of fifth degree makes it normal: variance
    1, kurtosis 2.99, the distribution function within 5.2e-4, at most 4.4.

    Example:
        >>> import torch
        >>> from symfast.reference.anchor import word_normals
        >>> [round(z, 2) for z in word_normals(torch.tensor([0, 0x80808080, 0xFFFFFFFF])).tolist()]
        [-4.37, 0.01, 4.37]
    """
    b0, b1, b2, b3 = (word >> shift & 0xFF for shift in (0, 8, 16, 24))
    y = (255 * (64 * b0 + 63 * b1) + 257 * (64 * b2 + 63 * b3) - 8290560).float()  # exact
    z = y * y
    return y * multiply_add(z, multiply_add(z, torch.full_like(z, _FIFTH), _THIRD), _FIRST)


def anchor_normals(seed: int, parameter: int, element: Tensor) -> Tensor:
    """The anchor N(seed, parameter, element) as float32.

    Args:
        seed: 64 bits.
        parameter: 32 bits.
        element: int64, any shape: flat indices into the parameter.

    Example:
        >>> import torch
        >>> from symfast.reference.anchor import anchor_normals
        >>> z = anchor_normals(3, 0, torch.arange(100_000))
        >>> abs(z.mean().item()) < 0.02, abs(z.std().item() - 1) < 0.02
        (True, True)
    """
    return word_normals(anchor_words(seed, parameter, element))


def anchor_spreads(seed: int, parameter: int, element: Tensor) -> Tensor:
    """``2 u - 1`` with u uniform in [0, 1): how the decay to an anchor differs by element.

    A product scrambles the anchor's word, so that u shows nothing of the anchor's size.

    Args:
        seed: 64 bits.
        parameter: 32 bits.
        element: int64, any shape: flat indices into the parameter.

    Example:
        >>> import torch
        >>> from symfast.reference.anchor import anchor_spreads
        >>> s = anchor_spreads(3, 0, torch.arange(1000))
        >>> bool((s >= -1).all()), bool((s < 1).all())
        (True, True)
    """
    word = anchor_words(seed, parameter, element) * 0x9E3779B1 & _LOW
    return (word >> 8).float() * 2.0**-23 - 1.0


def noise_normals(seed: int, parameter: int, step: int, element: Tensor) -> Tensor:
    """Gradient noise N(seed, parameter, step, element) as float32, a word of Philox for each.

    Seven rounds are the fewest with which Philox4x32 passes every test of its paper.

    Args:
        seed: 64 bits.
        parameter: 32 bits.
        step: 32 bits.
        element: int64, any shape: flat indices into the parameter.

    Example:
        >>> import torch
        >>> from symfast.reference.anchor import noise_normals
        >>> i = torch.arange(1000)
        >>> bool((noise_normals(3, 0, 1, i) == noise_normals(3, 0, 2, i)).all())
        False
    """
    v, lane = element >> 4 & 1, element & 15
    block = 8 * (element >> 5) + lane // 2
    words = random_block(seed, GRADIENT_NOISE, parameter, step, block, rounds=7)
    return word_normals(words.gather(-1, (2 * (lane % 2) + v).unsqueeze(-1)).squeeze(-1))
