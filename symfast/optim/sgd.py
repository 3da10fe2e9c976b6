# SPDX-License-Identifier: Apache-2.0
"""SGD with a plan, gradient noise and anchored decay."""

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor

from symfast.anchor import Anchor
from symfast.optim.optimizer import SymmetryOptimizer
from symfast.plan import Plan
from symfast.reference import update as formula


class SGD(SymmetryOptimizer):
    r"""torch.optim.SGD in one pass over memory, with a plan's constraint.

    .. math::
        g \leftarrow g + \text{noise}\, z + \lambda D (p - a), \quad
        m \leftarrow \mu m + (1 - \tau) g, \quad p \leftarrow p - \eta\, m,

    and then, for the coefficients ``C = A^T U`` of every group of ``plan``: "project" ``C = 0``;
    "shrink" ``C <- (1 - lr strength) C``; "prox" the soft threshold by ``lr strength``. On the
    CPU that is in the same pass; on CUDA the verb is a second launch, on the parameters after the
    step. Without plan, noise and anchor it is torch's SGD, to the bit in float64. Parameters are
    float64, float32, bfloat16 or float16; half types are computed in float32. ``.grad`` is never
    written.

    Args:
        params: tensors, ``named_parameters()`` or groups, as for torch.
        lr: a number or a one-element tensor, which schedulers change in place.
        momentum, dampening, weight_decay, nesterov, maximize: as for torch.
        foreach, fused: accepted and ignored: every step is fused. differentiable: refused.
        noise: standard deviation of noise on the gradient, from a counter keyed by ``seed``, the
            parameter's number, the step and the element: reproducible and the same on CPU and GPU.
            Normal but for its tails, which end at 4.4 standard deviations.
        plan: what to constrain, all of it parameters of this optimizer or views of them; elements
            of parameters without gradient are constrained too. Checkpoints tell which it was.
        constraint, strength: "project", "shrink" or "prox", see above. All groups share the
            constraint; lr times strength must be the same within an entry of the plan.
        mode: of "prox": "l1" by coefficient, as above; "group" by the norm of every
            mirror (group lasso), in passes of its own after the step.
        anchor: weight decay pulls to this random point (syre) instead of zero.

    Raises:
        ValueError, TypeError, RuntimeError: in words, for impossible options and parameters.

    Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024; for the
    anchor Ziyin, Xu and Chuang, ICLR 2025.

    Example:
        >>> import symfast as sf, torch
        >>> w = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> plan = sf.Plan([(w, sf.Swap([0], [1]))])
        >>> optimizer = sf.optim.SGD([w], lr=0.5, plan=plan)
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [[1.5, 2.5], [1.5, 2.5]]
    """

    rule = formula.SGD
    moments = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        noise: float = 0.0,
        seed: int = 0,
        plan: Plan | None = None,
        constraint: Literal["project", "shrink", "prox"] = "project",
        strength: float = 0.0,
        mode: Literal["l1", "group"] = "l1",
        anchor: Anchor | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize, "foreach": foreach,
            "differentiable": differentiable, "fused": fused, "noise": noise, "seed": seed,
            "constraint": constraint, "strength": strength, "mode": mode, "anchor": anchor,
        }  # fmt: skip
        super().__init__(params, defaults, plan)

    def _wants_first(self, group: dict[str, Any]) -> bool:
        return bool(group["momentum"] != 0)

    def _wants_step(self, group: dict[str, Any]) -> bool:
        return bool(group["noise"] != 0)

    def _row(self, group: dict[str, Any], lr: float, fresh: bool) -> tuple[float, ...]:
        anchor = group["anchor"] or {"sigma": -1.0, "spread": 0.0}
        # torch's first buffer is the gradient itself, undamped
        damped = 1.0 if fresh else 1.0 - group["dampening"]
        sign = -1.0 if group["maximize"] else 1.0
        return (
            lr, float(group["weight_decay"]), 0.0, float(group["momentum"]), damped, 0.0,
            float(group["nesterov"]), sign, float(group["noise"]), anchor["sigma"],
            anchor["spread"],
        )  # fmt: skip
