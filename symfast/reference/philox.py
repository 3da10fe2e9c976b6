# SPDX-License-Identifier: Apache-2.0
"""Philox4x32 and normal numbers from its words, in plain torch: csrc/philox.h bit by bit."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: What a number is for, as in csrc/philox.h.
ANCHOR, GRADIENT_NOISE, BATCH_INDEX, LABEL_NOISE = 1, 2, 3, 4

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOG = (
    -0.1010688915848732, 0.1622258424758911, -0.1725083291530609, 0.19900165498256683,
    -0.24969908595085144, 0.33335059881210327, -0.5000036358833313, 0.9999999403953552,
)  # fmt: skip
_SIN = (-0.00019501821952871978, 0.008332016877830029, -0.16666650772094727, 1.0)
_COS = (-0.0013579403748735785, 0.04165441915392876, -0.49999842047691345, 0.9999999403953552)


def philox4x32(
    counter: Tensor, key: tuple[int, int] | tuple[Tensor, Tensor], rounds: int = 10
) -> Tensor:
    """Rounds of Philox on counters (..., 4) of 32-bit words.

    Args:
        counter: int64 (..., 4), each word in [0, 2^32).
        key: two words, or tensors of words that broadcast to the counters' leading dims.
        rounds: ten are the usual number, seven the fewest that pass every test of the paper.

    Returns:
        int64 (..., 4), each in [0, 2^32). Salmon et al., "Parallel Random Numbers: As Easy as
        1, 2, 3", SC 2011.

    Example:
        >>> import torch
        >>> from symfast.reference.philox import philox4x32
        >>> [hex(w) for w in philox4x32(torch.zeros(4, dtype=torch.int64), (0, 0)).tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    return torch.stack(philox_words(counter.unbind(-1), key, rounds), -1)


def philox_words(
    counter: Sequence[Tensor], key: tuple[int, int] | tuple[Tensor, Tensor], rounds: int = 10
) -> list[Tensor]:
    """Return the four words of `philox4x32`, of a counter that is four tensors of one shape.

    Example:
        >>> import torch
        >>> from symfast.reference.philox import philox_words
        >>> hex(philox_words([torch.tensor(0)] * 4, (0, 0))[0].item())
        '0x6627e8d5'
    """
    x0, x1, x2, x3 = counter
    key0, key1 = key
    for _ in range(rounds):
        # Only the low half of a word is looked at, as in csrc/philox.h: a product wraps to its low
        # 64 bits, and a shift extends the sign.
        p0, p1 = (x0 & _LOW) * _MULTIPLIERS[0], (x2 & _LOW) * _MULTIPLIERS[1]
        x0, x2 = p1 >> 32 ^ x1 ^ key0, p0 >> 32 ^ x3 ^ key1
        x1, x3 = p1, p0
        key0, key1 = key0 + _WEYL[0], key1 + _WEYL[1]
    return [x & _LOW for x in (x0, x1, x2, x3)]


def random_block(
    seed: int, purpose: int, parameter: int, step: int, block: Tensor, rounds: int = 10
) -> Tensor:
    """Four words for every block number: the counter is (block, step, parameter, purpose).

    Args:
        seed: 64 bits, the key.
        purpose: ANCHOR, GRADIENT_NOISE, ...
        parameter: 32 bits, which parameter (or stream).
        step: 32 bits.
        block: int64 (...), below 2^56.
        rounds: see `philox4x32`.

    Returns:
        int64 (..., 4).

    Example:
        >>> import torch
        >>> from symfast.reference.philox import ANCHOR, random_block
        >>> random_block(7, ANCHOR, 0, 0, torch.arange(3)).shape
        torch.Size([3, 4])
    """
    words = [
        block & _LOW,
        torch.full_like(block, step & _LOW),
        torch.full_like(block, parameter & _LOW),
        block >> 32 | purpose << 24,
    ]
    return philox4x32(torch.stack(words, -1), (seed & _LOW, seed >> 32 & _LOW), rounds)


def uniform(words: Tensor) -> Tensor:
    """Float32 numbers in [0, 1) from the upper 24 bits of words.

    Example:
        >>> import torch
        >>> from symfast.reference.philox import uniform
        >>> uniform(torch.tensor([0, 1 << 31])).tolist()
        [0.0, 0.5]
    """
    return (words >> 8).float() * 2.0**-24


def normal_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 normal numbers from two words each (Box and Muller; radius below 5.8).

    Example:
        >>> import torch
        >>> from symfast.reference.philox import normal_pair
        >>> first, second = normal_pair(torch.tensor([123]), torch.tensor([456]))
        >>> first.dtype
        torch.float32
    """
    k = (_signed(b << 2 & _LOW) >> 9) * 2 + 1
    return _rotated(_radius((a >> 9) * 2 + 1, 24), b, k, 2.0**-23)


def _signed(word: Tensor) -> Tensor:
    return (word ^ 1 << 31) - (1 << 31)


def multiply_add(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """Float32 ``a * b + c`` rounded once, from float64 arithmetic.

    The product is exact in float64. The sum is rounded to odd, after which rounding to float32
    gives what a fused instruction gives (Boldo and Melquiond, 2008).

    Example:
        >>> import torch
        >>> from symfast.reference.philox import multiply_add
        >>> multiply_add(torch.tensor(2.0), torch.tensor(3.0), 1.0).item()
        7.0
    """
    p = a.double() * b.double()
    c = torch.as_tensor(c, dtype=torch.float32, device=p.device).double()
    total = p + c
    back = total - p
    error = (p - (total - back)) + (c - back)
    bits = total.contiguous().view(torch.int64)
    away = torch.where((error > 0) == (total > 0), 1, -1)
    odd = torch.where((error != 0) & (bits & 1 == 0), bits + away, bits)
    return odd.view(torch.float64).float()


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    p = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = multiply_add(p, x, c)
    return p


def _radius(n: Tensor, width: int) -> Tensor:
    bits = n.float().view(torch.int32)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1.0
    ln2 = torch.full_like(f, math.log(2))
    log_u = multiply_add((exponent - width).float(), ln2, _polynomial(_LOG, f) * f)
    # torch's float32 sqrt is not correctly rounded; by way of float64 it is
    return (log_u * -2.0).double().sqrt().float()


def _rotated(radius: Tensor, turn: Tensor, k: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    eighth = torch.tensor(math.pi / 4, dtype=torch.float32, device=radius.device) * unit
    x = k.float() * eighth
    z = x * x
    s, c = _polynomial(_SIN, z) * x, _polynomial(_COS, z)
    r = torch.where(turn >> 31 & 1 == 1, -radius, radius)
    swapped = turn >> 30 & 1 == 1
    return r * torch.where(swapped, s, c), r * torch.where(swapped, c, s)
