# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW with a plan, gradient noise and anchored decay."""

import warnings
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from torch import Tensor

from symfast.anchor import Anchor
from symfast.artificial import any_factor
from symfast.optim.optimizer import SymmetryOptimizer
from symfast.plan import Plan
from symfast.reference import update as formula


class Adam(SymmetryOptimizer):
    r"""torch.optim.Adam in one pass over memory, with a plan's constraint.

    .. math::
        g \leftarrow g + \text{noise}\, z + \lambda D (p - a), \quad
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        p \leftarrow p - \eta\, \hat m / (\sqrt{\hat v} + \epsilon),

    then the plan's verb, as for `symfast.optim.SGD`: on the CPU in the same pass, on CUDA in a
    second launch on the parameters after the step. Weight decay is coupled: part of g, as the
    equivalence of factors and L1 penalties needs (`AdamW` decouples it). States have the
    parameter's dtype; half types are computed in float32. ``.grad`` is never written.

    Args:
        params: tensors, ``named_parameters()`` or groups, as for torch.
        lr: a number or a one-element tensor, which schedulers change in place.
        betas, eps, weight_decay, maximize: as for torch. amsgrad, differentiable: refused.
        foreach, fused, capturable: accepted and ignored: steps are fused and never wait for the
            device.
        noise, seed, plan, constraint, strength, mode, anchor: see `symfast.optim.SGD`.

    Raises:
        ValueError, TypeError, RuntimeError: in words, for impossible options and parameters.

    Source: Kingma and Ba, ICLR 2015.

    Example:
        >>> import symfast as sf, torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = sf.optim.Adam([w], lr=0.5, plan=sf.Plan([(w, sf.SignFlip([1]))]))
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.5, 0.0]
    """

    rule = formula.ADAM
    moments = ("exp_avg", "exp_avg_sq")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
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
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "foreach": foreach, "maximize": maximize,
            "capturable": capturable, "differentiable": differentiable, "fused": fused,
            "noise": noise, "seed": seed, "constraint": constraint, "strength": strength,
            "mode": mode, "anchor": anchor,
        }  # fmt: skip
        super().__init__(params, defaults, plan)

    def _row(self, group: dict[str, Any], lr: float, fresh: bool) -> tuple[float, ...]:
        anchor = group["anchor"] or {"sigma": -1.0, "spread": 0.0}
        beta1, beta2 = group["betas"]
        sign = -1.0 if group["maximize"] else 1.0
        return (
            lr, float(group["weight_decay"]), float(self.decoupled), beta1, beta2,
            float(group["eps"]), 0.0, sign, float(group["noise"]), anchor["sigma"],
            anchor["spread"],
        )  # fmt: skip


class AdamW(Adam):
    r"""torch.optim.AdamW in one pass over memory, with a plan's constraint.

    As `Adam`, but the decay is decoupled: ``p <- (1 - lr weight_decay) p`` before the step, or
    ``p <- p - lr weight_decay D (p - a)`` with an anchor.

    Warns:
        UserWarning: if a parameter is a product factor (`symfast.factorize`) and decays: decoupled
            decay on factors is not an L1 penalty on their product; SGD and Adam keep that law.

    Source: Loshchilov and Hutter, ICLR 2019.

    Example:
        >>> import symfast as sf, torch
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> sf.optim.AdamW([w], lr=0.5).defaults["weight_decay"]
        0.01
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, see `Adam`; warns of decaying product factors."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["weight_decay"] and any_factor(group["params"]):
            warnings.warn(
                "AdamW decays product factors apart from the gradient, so that the decay is no "
                "L1 penalty on their product; use sf.optim.Adam or SGD, or weight_decay=0",
                UserWarning,
                stacklevel=3,
            )
