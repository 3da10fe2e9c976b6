# SPDX-License-Identifier: Apache-2.0
"""Will training collapse onto a mirror plane, or leave it? Curvature and exponent per mirror.

Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024, Theorem 1 and
the section on SGD near the plane.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from symfast.extras import need
from symfast.lanczos import lowest_modes
from symfast.lyapunov import lyapunov_exponent
from symfast.mirror_index import MirrorIndex, index_mirrors
from symfast.plan import Plan
from symfast.symmetry import Symmetry
from symfast.units import Units

if TYPE_CHECKING:
    import pandas as pd

Loss: TypeAlias = Callable[[Callable[..., Any], Any], Tensor]
#: Modes of each mirror whose exponent is measured: the lowest ones and the highest.
LOWEST = 3


@dataclass(frozen=True)
class StabilityReport:
    """One entry per mirror, in the order of the plan.

    Attributes:
        names: the parameters and units of each mirror.
        curvature: lowest eigenvalue of ``O^T H O`` of the undecayed loss on the plane, float64.
        critical_decay: ``max(0, -curvature)``: above it gradient descent is drawn to the plane.
        exponent: largest ``E log|1 - eta (h_b + lam)|`` over the measured modes; negative: SGD
            collapses onto the plane.

    Example:
        >>> import symfast as sf, torch
        >>> one = torch.ones(1)
        >>> found = sf.StabilityReport(("u",), -2.0 * one, 2.0 * one, -0.1 * one)
        >>> found.attractive.tolist()
        [True]
    """

    names: tuple[str, ...]
    curvature: Tensor
    critical_decay: Tensor
    exponent: Tensor

    @property
    def attractive(self) -> Tensor:
        """Whether SGD is predicted to collapse onto the plane, (mirrors,) bool."""
        return self.exponent < 0

    @property
    def table(self) -> "pd.DataFrame":
        """One row per mirror."""
        need("the table of a report", "demo", "pandas")
        import pandas as pd

        return pd.DataFrame({
            "mirror": self.names,
            "curvature": self.curvature.tolist(),
            "critical_decay": self.critical_decay.tolist(),
            "exponent": self.exponent.tolist(),
            "attractive": self.attractive.tolist(),
        })  # fmt: skip


def stability(
    model: nn.Module,
    loss: Loss,
    plan: Plan | Iterable[tuple[Units, Symmetry]],
    batches: Sequence[Any],
    *,
    lr: float,
    weight_decay: float = 0.0,
    iterations: int = 20,
    chunk: int = 32,
) -> StabilityReport:
    """Predict for every mirror whether SGD collapses onto its plane from nearby.

    Each mirror is judged by itself, at the parameters projected onto its plane. The lowest
    eigenvalues of ``O^T H O`` come from Lanczos steps with Hessian-vector products, batched over
    mirrors; for the lowest modes and the highest the curvature ``h_b`` of every minibatch is
    measured, and the exponent ``E log|1 - lr (h_b + weight_decay)|`` of plain SGD is the verdict.
    The verdict is local: it holds as long as the curvature on the plane stays what it is.

    Args:
        model: its parameters are read, never changed; the loss sees it in its present mode.
        loss: ``loss(net, batch)`` with ``net`` called like the model; a scalar, differentiable
            twice (no fused attention kernels), the mean over the batch, without weight decay.
        plan: a `Plan`, or pairs (Units, symmetry), on parameters of the model.
        batches: minibatches, all equally likely; of the size that training uses.
        lr: learning rate.
        weight_decay: the gradient becomes g + weight_decay * theta.
        iterations: Lanczos steps; exact when a mirror has no more coefficients than that.
        chunk: mirrors at a time; memory grows as chunk * iterations * parameters of a mirror, and
            chunk * parameters of the model.

    Raises:
        ValueError: if there is no batch or no mirror, a tensor of the plan is no parameter of the
            model, or the loss is not finite.

    Example:
        >>> import symfast as sf, torch
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 4, bias=False), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> units = sf.Units([(model[0].weight, 0), (model[2].weight, 1)])
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> report = sf.stability(
        ...     model, lambda net, batch: (net(batch[0]) - batch[1]).square().mean(),
        ...     [(units, sf.SignFlip())], [(x, y)], lr=0.1, weight_decay=10.0)
        >>> report.attractive.tolist()  # a large decay kills every neuron
        [True, True, True, True]
    """
    entries = plan._given if isinstance(plan, Plan) else list(plan)
    parameters = dict(model.named_parameters())
    mirrors = index_mirrors(entries, parameters)
    if not batches or not mirrors:
        raise ValueError(f"there are {len(batches)} batches and {len(mirrors)} mirrors; give both")
    measure = _Curvature(model, parameters, loss)
    parts = [
        _judge(measure, mirrors[i : i + chunk], batches, lr, weight_decay, iterations)
        for i in range(0, len(mirrors), chunk)
    ]
    curvature, exponent = (torch.cat(column) for column in zip(*parts, strict=True))
    return StabilityReport(
        tuple(mirror.name for mirror in mirrors), curvature, (-curvature).clamp_min(0), exponent
    )


class _Curvature:
    """Hessian-vector products at flat parameters (mirrors, d), by two reverse passes."""

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], loss: Loss) -> None:
        self.shapes = {name: p.shape for name, p in parameters.items()}
        self.sizes = [p.numel() for p in parameters.values()]
        self.theta = torch.cat([p.detach().flatten() for p in parameters.values()])
        self.model, self.loss = model, loss

    def _loss(self, theta: Tensor, batch: Any) -> Tensor:
        pieces = theta.split(self.sizes)
        weights = {
            name: piece.view(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

        def net(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.model, weights, args, kwargs)

        return self.loss(net, batch)

    def product(self, theta: Tensor, v: Tensor, batch: Any) -> Tensor:
        """``H_b(theta_i) v_i`` for every mirror i."""

        def slope_along(theta: Tensor, v: Tensor) -> Tensor:
            slope: Tensor = grad(self._loss)(theta, batch)
            return (slope * v).sum()

        found: Tensor = vmap(grad(slope_along))(theta, v)
        return found


def _judge(
    measure: _Curvature,
    mirrors: Sequence[MirrorIndex],
    batches: Sequence[Any],
    lr: float,
    weight_decay: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Lowest curvature and largest exponent (mirrors,) of one chunk."""
    theta = measure.theta.expand(len(mirrors), -1).clone()
    for mirror, row in zip(mirrors, theta, strict=True):
        mirror.project_(row)

    def embed(c: Tensor) -> Tensor:
        v = torch.zeros_like(theta)
        for mirror, coordinates, row in zip(mirrors, c, v, strict=True):
            mirror.scatter_(row, coordinates.to(row.dtype))
        return v

    def read(v: Tensor) -> Tensor:
        widest = max(mirror.size for mirror in mirrors)
        c = torch.zeros(len(mirrors), widest, dtype=torch.float64, device=v.device)
        for mirror, row, out in zip(mirrors, v, c, strict=True):
            out[: mirror.size] = mirror.gather(row)
        return c

    def apply(c: Tensor) -> Tensor:
        v = embed(c)
        total = sum((measure.product(theta, v, batch) for batch in batches), torch.zeros_like(v))
        return read(total) / len(batches)

    sizes = torch.tensor([mirror.size for mirror in mirrors], device=theta.device)
    values, modes = lowest_modes(apply, sizes, iterations, LOWEST)
    exponents = []
    for mode in modes:  # (mirrors, widest)
        v = embed(mode)
        h = torch.stack([(v * measure.product(theta, v, b)).sum(-1) for b in batches]).double()
        exponents.append(lyapunov_exponent(h, lr, weight_decay))
    return values, torch.stack(exponents).amax(0)
