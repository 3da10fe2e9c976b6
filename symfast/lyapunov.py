# SPDX-License-Identifier: Apache-2.0
"""When SGD collapses onto a mirror plane: exponents and critical rates of the linear map.

Near the plane a coefficient s = o^T theta obeys ``s <- (1 - eta (h + lam)) s`` with the curvature h
of one minibatch along o. It collapses in probability iff ``E log|1 - eta (h + lam)| < 0``.
Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024, section on SGD;
the second-order rate and its failure are derived.
"""

import torch
from torch import Tensor


def lyapunov_exponent(h: Tensor, lr: float | Tensor, lam: float | Tensor = 0.0) -> Tensor:
    """Mean log factor per step of a coefficient under plain SGD.

    ``mean_b log|1 - lr (h_b + lam)|`` over the first dim. Negative: the mirror attracts.

    Args:
        h: (batches, ...) curvature along the coefficient, one row per equally likely minibatch.
        lr: learning rate, a number or broadcastable to ``h``.
        lam: weight decay (the gradient becomes g + lam theta).

    Returns:
        (...) in h's dtype; -inf where a step annihilates the coefficient.

    Raises:
        ValueError: if there is no minibatch.

    Example:
        >>> import torch
        >>> from symfast.lyapunov import lyapunov_exponent
        >>> h = torch.tensor([-1.2, 1.0], dtype=torch.float64)
        >>> [round(float(lyapunov_exponent(h, lr)), 4) for lr in (0.1, 1 / 6, 0.3)]
        [0.004, 0.0, -0.0246]
    """
    if h.ndim == 0 or h.shape[0] == 0:
        raise ValueError("h must have one row per minibatch, and at least one of them")
    steps: Tensor = (1 - lr * (h + lam)).abs().log()
    return steps.mean(0)


def critical_rate(h: Tensor, lam: float = 0.0) -> float:
    """Second-order estimate of the learning rate beyond which a saddle attracts.

    ``-2 E[h + lam] / E[(h + lam)^2]``: the zero of the exponent expanded to second order in the
    rate. It can name a rate where the exact exponent is not negative; `exact_critical_rate` tells.

    Args:
        h: (batches,) curvature along the coefficient.
        lam: weight decay.

    Returns:
        The rate; 0 where the mean curvature is not negative (any small rate collapses).

    Example:
        >>> import torch
        >>> from symfast.lyapunov import critical_rate
        >>> round(critical_rate(torch.tensor([-1.2, 1.0], dtype=torch.float64)), 5)
        0.16393
    """
    shifted = h.double() + lam
    return max(float(-2 * shifted.mean() / shifted.square().mean()), 0.0)


def exact_critical_rate(h: Tensor, lam: float = 0.0, most: float | None = None) -> float | None:
    """Smallest learning rate at which the exact exponent turns from positive to negative.

    Found by a scan of 300 rates up to ``most`` and bisection to 1e-12 relative.

    Args:
        h: (batches,) curvature along the coefficient.
        lam: weight decay.
        most: largest rate looked at; three times `critical_rate` if left out.

    Returns:
        The rate, or None if the exponent does not turn negative up to ``most``; 0.0 where the mean
        curvature is positive already.

    Example:
        >>> import torch
        >>> from symfast.lyapunov import exact_critical_rate
        >>> h = torch.tensor([-1.2, 1.0], dtype=torch.float64)
        >>> abs(exact_critical_rate(h) - 1 / 6) < 1e-9
        True
    """
    h = h.double()
    if float((h + lam).mean()) > 0:
        return 0.0
    high = 3 * critical_rate(h, lam) if most is None else most
    rates = torch.linspace(0, high, 301, dtype=torch.float64)[1:]
    below: float | None = None
    for rate in rates.tolist():
        if float(lyapunov_exponent(h, rate, lam)) < 0:
            below = rate
            break
    if below is None:
        return None
    left, right = max(below - high / 300, 1e-300), below
    while right - left > 1e-12 * right:
        middle = (left + right) / 2
        if float(lyapunov_exponent(h, middle, lam)) < 0:
            right = middle
        else:
            left = middle
    return right
