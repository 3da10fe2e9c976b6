# SPDX-License-Identifier: Apache-2.0
"""Growth of what lies beside a mirror plane while SGD moves on the plane.

On the plane SGD stays on the plane, and a small coefficient vector s beside it obeys
``s <- (1 - lr (H_b(theta_t) + lam)) s`` with the minibatch b and the point theta_t of that step.
The mean of log |s'| / |s| along the run is the top Lyapunov exponent of that product of matrices.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

#: Gradients and Hessian-vector products (rows, d) at theta (rows, d) along v (rows, d), each row
#: with its own minibatch.
Derivatives: TypeAlias = Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]
#: Steps after which rounding is removed; it grows no faster than the coefficients do.
TIDY = 50


def growth(
    derivatives: Derivatives,
    theta: Tensor,
    v: Tensor,
    project_: Callable[[Tensor], None],
    batches: Any,
    *,
    lr: float,
    weight_decay: float,
    steps: int,
    seed: int,
) -> Tensor:
    """Mean log growth per step of v along SGD on the planes, after as many steps of settling.

    Args:
        derivatives: see `Derivatives`.
        theta: (rows, d) points on their planes; row i moves by itself.
        v: (rows, d) directions normal to the planes, not zero.
        project_: projects (rows, d) onto the planes in place.
        batches: stacked minibatches; every row draws its own at every step, all equally likely.
        lr: learning rate.
        weight_decay: the gradient becomes g + weight_decay * theta.
        steps: steps that are measured.
        seed: of the draws.

    Returns:
        (rows,) float64; NaN where SGD diverges on the plane.
    """
    count = len(tree_leaves(batches)[0])
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
    for step in range(2 * steps):
        drawn = torch.randint(count, (len(theta),), generator=generator).to(theta.device)
        slope, product = derivatives(theta, v, tree_map(lambda x, at=drawn: x[at], batches))
        theta = theta - lr * (slope + weight_decay * theta)
        v = v - lr * (product + weight_decay * v)
        if step % TIDY == TIDY - 1:
            project_(theta)
            inside = v.clone()
            project_(inside)
            v = v - inside
        size = v.norm(dim=1, keepdim=True)
        v = v / size.clamp_min(torch.finfo(v.dtype).tiny)
        if step >= steps:
            total += size[:, 0].double().log()
    return total / steps
