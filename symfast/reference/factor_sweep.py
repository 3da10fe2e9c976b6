# SPDX-License-Identifier: Apache-2.0
"""The product-factor sweep in plain torch: one step of all replicas per Python iteration."""

import torch
from torch import Tensor

from symfast.reference.factor_samples import Gradients, Samples
from symfast.reference.replica import SGD, optimizer_step_

#: Values of the ``status`` output, as in csrc/factor_sweep.h.
FINISHED, CONVERGED, DIVERGED, CANCELLED = range(4)


def leave_one_out(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return for every factor the product of the others, and the full product.

    Prefix times suffix products, never a quotient, because factors may be exactly zero.

    Args:
        factors: (..., D, d).

    Returns:
        others (..., D, d) and product (..., d).

    Example:
        >>> import torch
        >>> from symfast.reference.factor_sweep import leave_one_out
        >>> others, product = leave_one_out(torch.tensor([[2.0], [0.0], [3.0]]))
        >>> others.flatten().tolist(), product.tolist()
        ([0.0, 6.0, 0.0], [0.0])
    """
    ones = torch.ones_like(factors[..., :1, :])
    prefix = torch.cat([ones, factors[..., :-1, :]], -2).cumprod(-2)
    suffix = torch.cat([ones, factors[..., 1:, :].flip(-2)], -2).cumprod(-2).flip(-2)
    return prefix * suffix, suffix[..., 0, :] * factors[..., 0, :]


def factor_sweep(
    gram: Tensor, linear: Tensor, factors: Tensor, velocity: Tensor, second: Tensor,
    depth: Tensor, factored: Tensor, lr: Tensor, momentum: Tensor, lam: Tensor, moments: Tensor,
    schedule: Tensor, kind: Tensor, lr_schedule: Tensor, lr_kind: Tensor, group: Tensor,
    x: Tensor, y: Tensor, noise: Tensor, draws: Tensor, by_output: bool, rule: int,
    first_step: int, tol: float, check_every: int, progress: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Train B replicas of a factorised least-squares problem by momentum SGD, Adam or AdamW.

    With w = prod_j f_j, g = Gram w - c and c_j = 2 lam / D, every step does for every factor
    ``v_j = m v_j + g prod_{e != j} f_e + c_j f_j``, ``f_j = f_j - lr v_j``: torch's SGD with
    coupled decay on ``1/2 w^T Gram w - c^T w + lam ||w||_{2/D}^{2/D}``, lam and lr times their
    schedules. With a batch size or label noise the gradient is that of rows of the data, ``1/B
    sum_s x_s (x_s . w - y_s - sigma z_s)``, and gradient noise adds ``sigma' z`` to it.
    With gates a group of coordinates has f_1 .. f_{D-1} in common: all its copies take the step of
    the sum of their gradients. See `symfast.factor_sweep.factor_sweep` for the arguments. Source:
    Ziyin & Wang 2023 (D = 2), Kolb et al. 2025 (D > 2).

    Args:
        gram: (d, d), symmetric.
        linear: (d,).
        factors: (B, D, d), start; slots beyond a replica's depth are left alone.
        velocity: (B, D, d), start; Adam's first moment.
        second: (B, D, d), start of Adam's second moment; (B, 0, d) for SGD.
        depth: (B,) int64, 1..D.
        factored: (d,) bool; False is a plain weight, depth 1 without decay.
        lr: (B,).
        momentum: (B,).
        lam: (B,).
        moments: (2, B), rows beta2 and eps of Adam; (2, 0) for SGD.
        schedule: (kinds, steps), factors of lam.
        kind: (B,) int64, row of the schedule.
        lr_schedule: (kinds, steps), factors of lr.
        lr_kind: (B,) int64, row of it.
        group: (d,) int64, first coordinate of the group; (0,) without gates.
        x: (n, i) data in these coordinates, d = i o; looked at by replicas with samples only.
        y: (n, o).
        noise: (2, B), standard deviations of label and gradient noise, or (2, 0) without any.
        draws: (3, B) int64: seed, cell, batch size, 0 for all samples in order; or (3, 0).
        by_output: whether coordinate (f, o) is o i + f instead of f o + o'.
        rule: SGD, ADAM (decay coupled) or ADAMW, as in `symfast.reference.replica`.
        first_step: number of the first step, which keys the random numbers.
        tol: stop a replica when max |dw| between two checks is below it; 0 never stops.
        check_every: steps between two checks.
        progress: (2,) int64; [0] grows by the replica steps done, [1] != 0 cancels.

    Returns:
        w (B, d), factors, velocity, steps used (B,), residual (B,) = last max |dw|, status (B,),
        second.

    Raises:
        RuntimeError: from torch, if shapes or dtypes do not fit.
    """
    active, decay = _active(depth, factored, factors.shape[1]), _decay(depth, factored, lam)
    state = _used(active, (factors, velocity, second))
    out = [factors.clone(), velocity.clone(), second.clone()]
    w = leave_one_out(state[0])[1]
    out_w = w.clone()
    residual, status, used = torch.full_like(lr, torch.inf), depth * 0 + FINISHED, depth * 0
    samples = Samples.of(x, y, noise, draws, by_output, lr)
    alive, done, steps = torch.arange(len(lr), device=lr.device), 0, schedule.shape[1]
    while done < steps and len(alive):
        if progress[1]:
            status[alive] = CANCELLED
            break
        before, chunk = w, min(check_every, steps - done)
        mask, rates = active[alive], _rates(momentum, moments, alive)
        gradients = Gradients(gram, linear, samples.select(alive))
        for step in range(done, done + chunk):
            rate = (lr[alive] * lr_schedule[lr_kind[alive], step])[:, None, None]
            factor = schedule[kind[alive], step][:, None, None]
            rates["weight_decay"] = decay[alive][:, None, :] * factor
            push = _push(gradients(w, first_step + step)[:, None, :], state[0], group)
            state = _step(rule, push, state, mask, rate, rates, first_step + step)
            w = leave_one_out(state[0])[1]
        done += chunk
        progress[0] += chunk * len(lr)
        residual[alive], status[alive] = _judge(w, before, tol)
        used[alive], out_w[alive] = done, w
        for whole, part in zip(out, state, strict=True):
            whole[alive] = torch.where(mask[:, : part.shape[1]], part, whole[alive])
        keep = status[alive] == FINISHED
        alive, w, state = alive[keep], w[keep], [x[keep] for x in state]
    if not bool(progress[1]):
        progress[0] += (steps - done) * len(lr)
    return out_w, out[0], out[1], used, residual, status, out[2]


def _active(depth: Tensor, factored: Tensor, slots: int) -> Tensor:
    """Which factors (B, D, d) are trained: plain weights have one."""
    slot = torch.arange(slots, device=depth.device)[None, :, None]
    return slot < torch.where(factored, depth[:, None], 1)[:, None, :]


def _decay(depth: Tensor, factored: Tensor, lam: Tensor) -> Tensor:
    """Weight decay (B, d) of every factor."""
    return torch.where(factored, 2 * lam[:, None] / depth[:, None], 0)


def _judge(w: Tensor, before: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """Residual and status of each replica after a check."""
    change = (w - before).abs().amax(-1) if w.shape[1] else w.new_zeros(len(w))
    diverged = ~w.isfinite().all(-1)
    status = torch.where(change < tol, CONVERGED, FINISHED)
    return torch.where(diverged, torch.nan, change), torch.where(diverged, DIVERGED, status)


def _used(active: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Factors and moments, 1 and 0 in the slots that are not used; SGD has no second moment."""
    f, *moments = state
    return [torch.where(active, f, 1)] + [
        torch.where(active, x, 0) if x.shape[1] else x for x in moments
    ]


def _rates(momentum: Tensor, moments: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Rates (B, 1, 1) of the moments of some replicas, by name."""
    named = {"momentum": momentum}
    if moments.shape[1]:
        named |= {"beta2": moments[0], "eps": moments[1]}
    return {name: x[rows, None, None] for name, x in named.items()}


def _push(gradient: Tensor, f: Tensor, group: Tensor) -> Tensor:
    """Gradients (B, D, d) of the factors for those of w (B, 1, d)."""
    others, _ = leave_one_out(f)
    push = gradient * others
    if len(group):  # (B, 1, d) sums over groups, instead of gradient times own factor
        own = gradient * f[:, :1]
        total = torch.zeros_like(own).index_add_(2, group, own)[:, :, group]
        shared, _ = leave_one_out(torch.cat([total, f[:, 1:]], 1))
        push = torch.cat([push[:, :1], shared[:, 1:]], 1)
    return push


def _step(
    rule: int, push: Tensor, state: list[Tensor], mask: Tensor, lr: Tensor,
    rates: dict[str, Tensor], step: int,
) -> list[Tensor]:  # fmt: skip
    """Factors and moments after a step; slots that are not used stay."""
    f, v, s = state
    if rule == SGD:
        v = torch.where(mask, rates["momentum"] * v + (push + rates["weight_decay"] * f), 0)
        return [f - lr * v, v, s]
    fresh = [x.clone() for x in state]
    optimizer_step_(rule, push, lr, rates, step, fresh[0], fresh[1], fresh[2])
    return [torch.where(mask, x, y) for x, y in zip(fresh, state, strict=True)]
