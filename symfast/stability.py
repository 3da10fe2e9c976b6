# SPDX-License-Identifier: Apache-2.0
"""Will training collapse onto a mirror plane, or leave it? Curvature and exponent per mirror.

Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024, Theorem 1 and
the section on SGD near the plane.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from symfast.curvature import Curvature, Loss, grouped, stack
from symfast.extras import need
from symfast.lanczos import lowest_modes
from symfast.lyapunov import lyapunov_exponent
from symfast.mirror_index import MirrorIndex, index_mirrors
from symfast.plan import Plan
from symfast.symmetry import Symmetry
from symfast.tangent import growth
from symfast.units import Units

if TYPE_CHECKING:
    import pandas as pd

#: Modes of each mirror whose exponent is measured: the lowest ones and the highest.
LOWEST = 3


@dataclass(frozen=True)
class StabilityReport:
    """One entry per mirror, in the order of the plan.

    Attributes:
        names: the parameters and units of each mirror.
        curvature: lowest eigenvalue of ``O^T H O`` of the undecayed loss on the plane, float64.
        critical_decay: ``max(0, -curvature)``: above it gradient descent is drawn to the plane.
        exponent: log growth per step of the distance from the plane; negative: SGD collapses.
            Without ``follow`` the largest ``E log|1 - eta (h_b + lam)|`` over the measured modes.
        error: standard error of the exponent over chains; 0 without ``follow``.

    Example:
        >>> import symfast as sf, torch
        >>> one = torch.ones(1)
        >>> found = sf.StabilityReport(("u",), -2.0 * one, 2.0 * one, -0.1 * one, 0.0 * one)
        >>> found.attractive.tolist()
        [True]
    """

    names: tuple[str, ...]
    curvature: Tensor
    critical_decay: Tensor
    exponent: Tensor
    error: Tensor

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
            "error": self.error.tolist(),
            "attractive": self.attractive.tolist(),
        })  # fmt: skip


def stability(
    model: nn.Module,
    loss: Loss | Callable[[Callable[..., Any]], Tensor],
    plan: Plan | Iterable[tuple[Units, Symmetry]],
    batches: Sequence[Any] | None = None,
    *,
    lr: float | None = None,
    weight_decay: float = 0.0,
    iterations: int = 20,
    chunk: int = 32,
    follow: int = 0,
    chains: int = 16,
    seed: int = 0,
) -> StabilityReport:
    """Predict for every mirror whether SGD collapses onto its plane from nearby.

    Each mirror is judged by itself, at the parameters projected onto its plane. The lowest
    eigenvalues of ``O^T H O`` come from Lanczos steps with Hessian-vector products, batched over
    mirrors; for the lowest modes and the highest the curvature ``h_b`` of every minibatch is
    measured, and the exponent ``E log|1 - lr (h_b + weight_decay)|`` of plain SGD is the verdict.
    The verdict is local: it holds as long as the curvature on the plane stays what it is, and it
    is exact where the minibatches' ``O^T H_b O`` commute.

    ``follow`` drops both restrictions: SGD runs on the plane, in ``chains`` independent runs from
    the projected parameters, and carries a small displacement from the plane along by the Hessian
    of every minibatch it meets. The mean log growth of the displacement is the exponent; first as
    many steps as are measured are left for settling.

    Args:
        model: its parameters are read, never changed; the loss sees it in its present mode.
        loss: ``loss(net, batch)`` with ``net`` called like the model; a scalar, differentiable
            twice (no fused attention kernels), the mean over the batch, without weight decay.
            Without batches ``loss(net)``, of all data.
        plan: a `Plan`, or pairs (Units, symmetry), on parameters of the model.
        batches: minibatches, all equally likely; of the size that training uses. None for gradient
            descent on the whole loss.
        lr: learning rate; None for gradient flow, whose exponent, per unit of time, is
            ``-(curvature + weight_decay)``.
        weight_decay: the gradient becomes g + weight_decay * theta.
        iterations: Lanczos steps; exact when a mirror has no more coefficients than that.
        chunk: mirrors at a time; memory grows as chunk * iterations * parameters of a mirror, and
            chunk * parameters of the model (times ``chains`` if ``follow``).
        follow: measured steps of SGD on the plane, 0 to stay at the projected parameters. The
            batches must then have equal shapes, and an exponent is NaN where SGD diverges on the
            plane.
        chains: independent runs per mirror.
        seed: of the batches drawn.

    Raises:
        ValueError: if there is no batch or no mirror, a tensor of the plan is no parameter of the
            model, the loss is not finite, batches to be followed differ in shape, or there is no
            lr to follow with.

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
    if batches is None:
        whole: Any = loss
        loss, batches = (lambda net, _: cast(Tensor, whole(net))), [torch.zeros(1)]
    if follow and lr is None:
        raise ValueError("following SGD takes steps of some size: give lr")
    if not batches or not mirrors:
        raise ValueError(f"there are {len(batches)} batches and {len(mirrors)} mirrors; give both")
    measure = Curvature(model, parameters, cast(Loss, loss))
    groups, stacked = grouped(batches), stack(batches) if follow else None
    parts = []
    for i in range(0, len(mirrors), chunk):
        planes = _Planes(mirrors[i : i + chunk], measure.theta)
        curvature, exponent = _judge(measure, planes, groups, lr, weight_decay, iterations)
        error = torch.zeros_like(exponent)
        if follow and lr is not None:
            runs = _follow(measure, planes, stacked, lr, weight_decay, follow, chains, seed + i)
            exponent = runs.mean(1)
            error = _standard_error(runs)
        parts.append((curvature, exponent, error))
    curvature, exponent, error = (torch.cat(column) for column in zip(*parts, strict=True))
    names = tuple(mirror.name for mirror in mirrors)
    return StabilityReport(names, curvature, (-curvature).clamp_min(0), exponent, error)


def _standard_error(runs: Tensor) -> Tensor:
    """Of the mean over (mirrors, chains); NaN where one chain says nothing about it."""
    chains = runs.shape[1]
    return runs.std(1) / chains**0.5 if chains > 1 else torch.full_like(runs[:, 0], torch.nan)


class _Planes:
    """Points (mirrors, d) on the planes, and coefficients as displacements from them."""

    def __init__(self, mirrors: Sequence[MirrorIndex], theta: Tensor) -> None:
        self.mirrors = mirrors
        self.sizes = torch.tensor([mirror.size for mirror in mirrors], device=theta.device)
        self.theta = theta.expand(len(mirrors), -1).clone()
        self.project_(self.theta)

    def project_(self, rows: Tensor) -> None:
        """Project (mirrors * chains, d) in place; the chains of a mirror are neighbours."""
        chains = len(rows) // len(self.mirrors)
        for i, row in enumerate(rows):
            self.mirrors[i // chains].project_(row)

    def embed(self, c: Tensor) -> Tensor:
        """Coefficients (mirrors, widest) as displacements (mirrors, d)."""
        v = torch.zeros_like(self.theta)
        for mirror, coordinates, row in zip(self.mirrors, c, v, strict=True):
            mirror.scatter_(row, coordinates.to(row.dtype))
        return v

    def read(self, v: Tensor) -> Tensor:
        """Coefficients (mirrors, widest) of displacements (mirrors, d), float64."""
        c = torch.zeros(len(v), int(self.sizes.max()), dtype=torch.float64, device=v.device)
        for mirror, row, out in zip(self.mirrors, v, c, strict=True):
            out[: mirror.size] = mirror.gather(row)
        return c


def _judge(
    measure: Curvature,
    planes: _Planes,
    groups: Sequence[Any],
    lr: float | None,
    weight_decay: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Lowest curvature and largest exponent (mirrors,) of one chunk."""
    counts = [len(tree_leaves(group)[0]) for group in groups]

    def apply(c: Tensor) -> Tensor:
        v = planes.embed(c)
        total = torch.zeros_like(v)
        for group, count in zip(groups, counts, strict=True):
            total += count * measure.product(planes.theta, v, group)
        return planes.read(total) / sum(counts)

    values, modes = lowest_modes(apply, planes.sizes, iterations, LOWEST)
    if lr is None:
        return values, -(values + weight_decay)
    exponents = []
    for mode in modes:  # (mirrors, widest)
        v = planes.embed(mode)
        h = torch.cat([measure.along(planes.theta, v, group) for group in groups]).double()
        exponents.append(lyapunov_exponent(h, lr, weight_decay))
    return values, torch.stack(exponents).amax(0)


def _follow(
    measure: Curvature,
    planes: _Planes,
    batches: Any,
    lr: float,
    weight_decay: float,
    steps: int,
    chains: int,
    seed: int,
) -> Tensor:
    """Exponents (mirrors, chains) along SGD on the planes."""
    generator = torch.Generator().manual_seed(seed)
    widest = int(planes.sizes.max())
    start = [
        planes.embed(torch.randn(len(planes.mirrors), widest, generator=generator))
        for _ in range(chains)
    ]
    v = torch.stack(start, 1).flatten(0, 1)
    theta = planes.theta.repeat_interleave(chains, 0)
    found = growth(
        measure.derivatives, theta, v, planes.project_, batches,
        lr=lr, weight_decay=weight_decay, steps=steps, seed=seed,
    )  # fmt: skip
    return found.view(-1, chains)
