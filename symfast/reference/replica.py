# SPDX-License-Identifier: Apache-2.0
"""The sweep of two-layer networks in plain torch: one step of all replicas per Python iteration."""

import torch
from torch import Tensor

from symfast.reference.philox import (
    BATCH_INDEX,
    GRADIENT_NOISE,
    LABEL_NOISE,
    normal_pair,
    philox4x32,
    random_block,
)
from symfast.reference.unit_mirrors import NONE, constrain

#: Codes of the operator's arguments and of ``status``, as in csrc/replica.h.
IDENTITY, RELU, TANH = range(3)
MSE, CROSS_ENTROPY = range(2)
SGD, ADAM, ADAMW = range(3)
FINISHED, DIVERGED, CANCELLED = 0, 2, 3
#: Replicas are looked at for divergence when this divides the steps they have taken.
LOOK_EVERY = 64
#: Rows of ``rates``.
RATES = (
    "lr", "weight_decay", "momentum", "beta2", "eps", "label_noise", "gradient_noise", "strength",
)  # fmt: skip


def minibatch(seed: int, step: int, batch: int, samples: int) -> Tensor:
    """Sample indices (batch,) of one step, drawn with replacement from (seed, step) alone.

    Index s is the upper half of the 64-bit product of word s % 4 of block s // 4 and the number of
    samples; a batch of 0 is all samples in order.

    Example:
        >>> from symfast.reference.replica import minibatch
        >>> minibatch(0, 5, 0, 3).tolist(), minibatch(0, 5, 8, 100).shape
        ([0, 1, 2], torch.Size([8]))
    """
    if batch == 0:
        return torch.arange(samples)
    words = random_block(seed, BATCH_INDEX, 0, step, torch.arange(-(-batch // 4)))
    return words.flatten()[:batch] * samples >> 32


def normals(seed: Tensor, purpose: int, cell: Tensor, steps: Tensor, count: int) -> Tensor:
    """Float32 normal numbers (R, T, count), four from a block of random words.

    Args:
        seed: (R,) int64, the key.
        purpose: LABEL_NOISE or GRADIENT_NOISE.
        cell: (R,) int64 in [0, 2^32).
        steps: (T,) int64, numbers of the steps.
        count: numbers a replica and step.

    Example:
        >>> import torch
        >>> from symfast.reference.philox import LABEL_NOISE
        >>> from symfast.reference.replica import normals
        >>> zero = torch.zeros(2, dtype=torch.int64)
        >>> normals(zero, LABEL_NOISE, torch.arange(2), torch.arange(3), 5).shape
        torch.Size([2, 3, 5])
    """
    shape = len(seed), len(steps), -(-count // 4)
    words = torch.arange(shape[2]), steps[:, None], cell[:, None, None]
    counter = torch.stack([*(w.expand(shape) for w in words), torch.full(shape, purpose << 24)], -1)
    keys = seed[:, None, None]
    w = philox4x32(counter, (keys & 0xFFFFFFFF, keys >> 32 & 0xFFFFFFFF))
    pairs = [normal_pair(w[..., i], w[..., i + 1]) for i in (0, 2)]
    return torch.stack([z for pair in pairs for z in pair], -1).flatten(2)[..., :count]


def split(theta: Tensor, inputs: int, hidden: int, outputs: int, bias: bool) -> list[Tensor]:
    """Views W1 (R, h, i), b1 (R, h), W2 (R, o, h), b2 (R, o) of theta (R, P); zeros without biases.

    Example:
        >>> import torch
        >>> from symfast.reference.replica import split
        >>> [tuple(x.shape) for x in split(torch.zeros(2, 13), 2, 3, 1, True)]
        [(2, 3, 2), (2, 3), (2, 1, 3), (2, 1)]
    """
    sizes = [hidden * inputs, hidden * bias, outputs * hidden, outputs * bias]
    W1, b1, W2, b2 = theta.split(sizes, 1)
    if not bias:
        b1, b2 = theta.new_zeros(len(theta), hidden), theta.new_zeros(len(theta), outputs)
    return [W1.unflatten(1, (hidden, inputs)), b1, W2.unflatten(1, (outputs, hidden)), b2]


def predict(x: Tensor, parts: list[Tensor], activation: int) -> tuple[Tensor, Tensor]:
    """Hidden values (R, n, h) and outputs (R, n, o) of inputs (R, n, i) or (n, i).

    Example:
        >>> import torch
        >>> from symfast.reference.replica import RELU, predict, split
        >>> a, f = predict(torch.ones(4, 2), split(torch.ones(1, 13), 2, 3, 1, True), RELU)
        >>> f[0, 0].item()
        10.0
    """
    W1, b1, W2, b2 = parts
    hidden = x @ W1.mT + b1[:, None]
    if activation == RELU:
        hidden = hidden.relu()
    elif activation == TANH:
        hidden = hidden.tanh()
    return hidden, hidden @ W2.mT + b2[:, None]


def gradient(
    x: Tensor, y: Tensor, theta: Tensor, hidden: int, bias: bool, activation: int, loss: int
) -> Tensor:
    """Gradient (R, P) of the mean loss of every replica on x (R, B, i), y (R, B, o).

    mse is the mean over samples and outputs of (f - y)^2; cross_entropy the mean over samples of
    ``-sum_o y_o log softmax(f)_o`` for targets that sum to one.

    Example:
        >>> import torch
        >>> from symfast.reference.replica import MSE, RELU, gradient
        >>> x, y = torch.ones(1, 4, 2), torch.zeros(1, 4, 1)
        >>> gradient(x, y, torch.ones(1, 13), 3, True, RELU, MSE)[0, -1].item()
        20.0
    """
    W1, b1, W2, b2 = split(theta, x.shape[-1], hidden, y.shape[-1], bias)
    active, f = predict(x, [W1, b1, W2, b2], activation)
    if loss == MSE:
        error = (f - y) * (2.0 / (y.shape[1] * y.shape[2]))
    else:
        error = (f.softmax(-1) - y) * (1.0 / y.shape[1])
    back = error @ W2
    if activation == RELU:
        back = torch.where(active > 0, back, 0)
    elif activation == TANH:
        back = back * (1 - active * active)
    parts = [back.mT @ x, back.sum(1), error.mT @ active, error.sum(1)]
    kept = parts if bias else parts[::2]
    return torch.cat([g.flatten(1) for g in kept], 1)


def _noisy_gradient(
    x: Tensor, y: Tensor, theta: Tensor, z: dict[str, Tensor], rate: dict[str, Tensor],
    model: tuple[int, bool, int, int],
) -> Tensor:  # fmt: skip
    """The gradient of a minibatch with the noise z, normal numbers, of labels and gradient."""
    if "label_noise" in z:
        spread = z["label_noise"][:, : y[0].numel()].view_as(y)
        y = y + rate["label_noise"][:, :, None] * spread
    g = gradient(x, y, theta, *model)
    if "gradient_noise" in z:
        g = g + rate["gradient_noise"] * z["gradient_noise"]
    return g


def optimizer_step_(
    rule: int, g: Tensor, lr: Tensor, rate: dict[str, Tensor], step: int,
    theta: Tensor, first: Tensor, second: Tensor,
) -> None:  # fmt: skip
    """One step of torch's SGD, Adam or AdamW in place; rates must broadcast with theta.

    Example:
        >>> import torch
        >>> from symfast.reference.replica import SGD, optimizer_step_
        >>> theta, zero = torch.ones(1, 1), torch.zeros(1, 1)
        >>> rates = {"weight_decay": zero, "momentum": zero}
        >>> optimizer_step_(SGD, theta, zero + 0.5, rates, 0, theta, zero.clone(), zero)
        >>> theta.item()
        0.5
    """
    decay, beta1 = rate["weight_decay"], rate["momentum"]
    if rule == SGD:
        push = g + decay * theta
        velocity = beta1 * first + push
        first.copy_(torch.where(beta1 != 0, velocity, 0))
        theta.sub_(lr * velocity)
        return
    if rule == ADAMW:
        theta.mul_(1 - lr * decay)
    else:
        g = g + decay * theta
    first.add_((1 - beta1) * (g - first))
    second.copy_(rate["beta2"] * second + (1 - rate["beta2"]) * g * g)
    bias1 = 1 - beta1.double() ** (step + 1)
    bias2 = 1 - rate["beta2"].double() ** (step + 1)
    scale = second.sqrt() * bias2.rsqrt().to(theta) + rate["eps"]
    theta.sub_((lr.double() / bias1).to(theta) * (first / scale))


def replica_sweep_(
    x: Tensor, y: Tensor, theta: Tensor, first: Tensor, second: Tensor, rates: Tensor,
    schedule: Tensor, kind: Tensor, seed: Tensor, cell: Tensor, batch: Tensor, constraint: Tensor,
    offsets: Tensor, members: Tensor, directions: Tensor, status: Tensor, taken: Tensor,
    progress: Tensor, hidden: int, bias: bool, activation: int, loss: int, rule: int,
    first_step: int,
) -> None:  # fmt: skip
    """Train R two-layer networks ``W2 act(W1 x + b1) + b2`` in place, ``schedule.shape[1]`` steps.

    Step t draws the minibatch from (seed, t), label and gradient noise from (seed, cell, t), and
    updates as torch.optim's SGD, Adam or AdamW does with ``lr_t = lr * schedule[kind, t]``; then
    it applies the mirrors of the hidden units with the amount lr_t strength.
    `symfast.replica.replica_sweep_` explains the arguments.

    Raises:
        RuntimeError: from torch, if shapes or dtypes do not fit.
    """
    model, noise = (hidden, bias, activation, loss), {}
    alive = (status == FINISHED).nonzero().flatten()
    for number in range(schedule.shape[1]):
        if int(progress[1]):
            status[alive] = CANCELLED
            break
        step = first_step + number
        if number % LOOK_EVERY == 0:
            window = torch.arange(step, step + min(LOOK_EVERY, schedule.shape[1] - number))
            noise = _draw_noise(rates, seed, cell, window, (batch, y, theta))
        for size in batch[alive].unique().tolist():
            rows = alive[batch[alive] == size]
            parts = [p[rows] for p in (theta, first, second)]
            rate = {name: rates[i, rows][:, None] for i, name in enumerate(RATES)}
            lr = rate["lr"] * schedule[kind[rows], number][:, None]
            z = {name: x[rows, number % LOOK_EVERY].to(theta) for name, x in noise.items()}
            inputs, targets = _minibatches(x, y, seed[rows], size, step)
            g = _noisy_gradient(inputs, targets, parts[0], z, rate, model)
            optimizer_step_(rule, g, lr, rate, step, parts[0], parts[1], parts[2])
            sizes = x.shape[1], hidden, y.shape[1], bias
            amount, tables = (lr * rate["strength"])[:, 0], (offsets, members, directions)
            _constrain_(parts[0], constraint[rows], amount, tables, sizes)
            for whole, part in zip((theta, first, second), parts, strict=True):
                whole[rows] = part
        taken[alive] = step + 1
        progress[0] += len(theta)
        if (step + 1) % LOOK_EVERY == 0:
            lost = alive[~theta[alive].isfinite().all(1)]
            status[lost] = DIVERGED
            for part in (theta, first, second):
                part[lost] = torch.nan
            alive = alive[status[alive] == FINISHED]


def _constrain_(
    theta: Tensor, constraint: Tensor, amount: Tensor, tables: tuple[Tensor, Tensor, Tensor],
    sizes: tuple[int, int, int, bool],
) -> None:  # fmt: skip
    """Apply the mirrors to theta (R, P) in place, replicas of one constraint after the other."""
    for f in constraint.unique().tolist():
        if f == NONE:
            continue
        rows, bias = constraint == f, sizes[3]
        W1, b1, W2, b2 = split(theta[rows], *sizes)
        U = torch.cat([W1, b1[:, :, None], W2.mT], 2)
        U = constrain(U, f, amount[rows], *tables)
        parts = [U[:, :, : sizes[0]], U[:, :, sizes[0]], U[:, :, sizes[0] + 1 :].mT, b2]
        kept = parts if bias else parts[::2]
        theta[rows] = torch.cat([x.flatten(1) for x in kept], 1)


def _draw_noise(
    rates: Tensor, seed: Tensor, cell: Tensor, steps: Tensor, like: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Tensor]:
    """Noise (R, T, count) of some steps, of the kinds that any replica has."""
    batch, y, theta = like
    most = int(torch.where(batch == 0, len(y), batch).max()) if len(batch) else 0
    kinds = {
        "label_noise": (LABEL_NOISE, most * y.shape[1]),
        "gradient_noise": (GRADIENT_NOISE, theta.shape[1]),
    }
    return {
        name: normals(seed, purpose, cell, steps, count)
        for name, (purpose, count) in kinds.items()
        if bool((rates[RATES.index(name)] != 0).any())
    }


def _minibatches(x: Tensor, y: Tensor, seed: Tensor, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Inputs (R, B, i) and targets (R, B, o) of one step."""
    drawn = {k: minibatch(k, step, size, len(x)) for k in seed.unique().tolist()}
    index = torch.stack([drawn[k] for k in seed.tolist()])
    return x[index], y[index]
