# SPDX-License-Identifier: Apache-2.0
"""The penalty above which an artificial mirror's constraint holds exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from symfast.errors import ArtificialError
from symfast.plan import Plan
from symfast.plan_state import with_tensors


@dataclass(frozen=True)
class PenaltyThreshold:
    """What `penalty_threshold` found; ``float()`` of it is gamma.

    Args:
        gamma: gamma*, of the penalty ``gamma (||u||^2 + ||w||^2)``.
        lam: 2 gamma*, the same as torch's weight decay on the factors of `symfast.dcs`.
        residual: largest entry of the gradient along the plane at theta_c; 0 at a minimum.
        steps: L-BFGS iterations used.
        converged: whether the residual fell below the tolerance; gamma means nothing otherwise.

    Example:
        >>> import symfast as sf
        >>> found = sf.PenaltyThreshold(0.5, 1.0, residual=0.0, steps=3, converged=True)
        >>> float(found)
        0.5
    """

    gamma: float
    lam: float
    residual: float
    steps: int
    converged: bool

    def __float__(self) -> float:
        return self.gamma


def penalty_threshold(
    loss: Callable[[], Tensor],
    params: Sequence[Tensor],
    plan: Plan,
    *,
    mode: Literal["l1", "group"] = "l1",
    tol: float = 1e-9,
    max_steps: int = 1000,
) -> PenaltyThreshold:
    """Find gamma* above which `dcs` with ``gamma (||u||^2 + ||w||^2)`` enforces a plan exactly.

    Let theta_c minimise the loss subject to ``O^T theta = 0`` for every group of the plan. Then

        ``gamma* = ||O^T grad l(theta_c)||_inf / 2``,  or ``max_mirrors ||O^T grad l||_2 / 2`` for
        mode "group".

    For a convex loss the constraint holds exactly if and only if gamma >= gamma*; for others
    gamma* is necessary at that minimum. It is the threshold of depth 2; deeper factors make the
    constraint a local minimum at any gamma > 0. Derived from the induced problem
    ``l + 2 gamma ||O^T theta||_1`` of Ziyin, ICML 2024.

    theta_c is found from the parameters projected onto the plane, by torch's L-BFGS with strong
    Wolfe line search on gradients projected by the same plan, until the largest entry of the
    projected gradient is at most ``tol * max(1, that of the start)`` or max_steps are done. The
    parameters and their ``.grad`` are afterwards what they were.

    Args:
        loss: no arguments, the full (not minibatch) loss as a scalar, from params.
        params: everything that is optimised, plain (before `dcs`).
        plan: constraints on some of params; its targets must be params themselves, not views.
        mode: of `dcs`.
        tol: for the projected gradient.
        max_steps: of L-BFGS.

    Returns:
        PenaltyThreshold; look at ``converged``.

    Raises:
        ArtificialError: (a ValueError) if the plan touches something that is not in params, or the
            loss or its gradient is not finite; the parameters are restored.

    Example:
        >>> import symfast as sf, torch
        >>> theta = torch.tensor([3.0, 1.0], requires_grad=True)
        >>> plan = sf.Plan([(theta, sf.SignFlip([0]))])
        >>> found = sf.penalty_threshold(lambda: (theta - 5).square().sum() / 2, [theta], plan)
        >>> found.converged, found.gamma, theta.tolist()
        (True, 2.5, [3.0, 1.0])
    """
    if mode not in ("l1", "group"):
        raise ArtificialError(f"mode is {mode!r}; choose 'l1' or 'group'")
    params = list(params)
    shadows = [torch.zeros_like(p, requires_grad=False) for p in params]
    shadow_plan = _like(plan, params, shadows)
    before = [(p.detach().clone(), p.grad, p.requires_grad) for p in params]
    try:
        with torch.no_grad():
            plan.project_()
        residual, steps, converged = _minimise(loss, params, shadows, shadow_plan, tol, max_steps)
        with torch.no_grad():
            plan.project_()
        _gradient(loss, params, shadows)
        if mode == "l1":
            sizes = [float(c.abs().max()) for c in shadow_plan.coefficients() if c.numel()]
        else:
            sizes = shadow_plan.norms(per="mirror").tolist()
        gamma = max(sizes, default=0.0) / 2
    finally:
        for p, (value, grad, needed) in zip(params, before, strict=True):
            with torch.no_grad():
                p.copy_(value)
            p.grad = grad
            p.requires_grad_(needed)
    return PenaltyThreshold(gamma, 2 * gamma, residual, steps, converged)


def _like(plan: Plan, params: list[Tensor], shadows: list[Tensor]) -> Plan:
    """The same plan on other tensors."""
    by_id = {id(p): shadow for p, shadow in zip(params, shadows, strict=True)}

    def shadow(tensor: Tensor) -> Tensor:
        if id(tensor) not in by_id:
            raise ArtificialError(
                f"the plan touches a tensor of shape {tuple(tensor.shape)} that is not in params"
            )
        return by_id[id(tensor)]

    return Plan(with_tensors(plan.entries, shadow), overlap="order", replicas=plan.replicas)


def _gradient(loss: Callable[[], Tensor], params: list[Tensor], shadows: list[Tensor]) -> Tensor:
    """Put the gradient into the shadows; returns the loss."""
    with torch.enable_grad():
        for p in params:
            p.requires_grad_(True)
        value = loss()
        found = torch.autograd.grad(value, params, allow_unused=True)
    for shadow, g in zip(shadows, found, strict=True):
        shadow.copy_(torch.zeros_like(shadow) if g is None else g)
    if not all(bool(x.isfinite().all()) for x in (value, *shadows)):
        raise ArtificialError("the loss or its gradient is not finite on the plane")
    return value


def _minimise(
    loss: Callable[[], Tensor],
    params: list[Tensor],
    shadows: list[Tensor],
    shadow_plan: Plan,
    tol: float,
    max_steps: int,
) -> tuple[float, int, bool]:
    """L-BFGS on the plane; residual, iterations, whether the residual is small."""
    for p, shadow in zip(params, shadows, strict=True):
        p.grad = shadow

    def closure() -> float:
        value = _gradient(loss, params, shadows)
        shadow_plan.project_()
        return float(value.detach())

    closure()
    small = tol * max(1.0, _largest(shadows))
    optimizer = torch.optim.LBFGS(
        params, max_iter=max_steps, max_eval=4 * max_steps, tolerance_grad=small,
        tolerance_change=0.0, history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip
    optimizer.step(closure)
    closure()
    residual = _largest(shadows)
    if residual > small:  # the loss cannot tell such steps apart any more, the gradient can
        residual = _polish(params, shadows, closure, small)
    steps = int(optimizer.state[params[0]].get("n_iter", 0))
    return residual, steps, residual <= small


def _polish(
    params: list[Tensor], shadows: list[Tensor], closure: Callable[[], float], small: float
) -> float:
    """Barzilai-Borwein gradient steps near a minimum; leaves the best point and its gradient."""
    best, kept, step = _largest(shadows), [p.detach().clone() for p in params], 1e-2
    for _ in range(200):
        before = [g.clone() for g in shadows]
        with torch.no_grad():
            for p, g in zip(params, shadows, strict=True):
                p.sub_(step * g)
        closure()
        if _largest(shadows) < best:
            best, kept = _largest(shadows), [p.detach().clone() for p in params]
        if best <= small:
            break
        change = [old - new for old, new in zip(before, shadows, strict=True)]
        along = sum(float((old * y).sum()) for old, y in zip(before, change, strict=True))
        if along <= 0:
            break
        step *= sum(float(old.square().sum()) for old in before) / along
    with torch.no_grad():
        for p, value in zip(params, kept, strict=True):
            p.copy_(value)
    closure()
    return best


def _largest(tensors: list[Tensor]) -> float:
    """Largest absolute entry; NaN counts as infinite."""
    sizes = [float(x.abs().max().nan_to_num(nan=torch.inf)) for x in tensors if x.numel()]
    return max(sizes, default=0.0)
