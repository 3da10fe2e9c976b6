# SPDX-License-Identifier: Apache-2.0
"""Least squares through product factors: the Lasso and its relatives by plain gradient descent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from symfast.factor_sweep import MAX_DEPTH
from symfast.problems.coordinates import Coordinates, Per, check_data, coordinates
from symfast.problems.factor_start import Init, first_factors
from symfast.problems.factor_train import OPTIONS, check_optimizer, factor_axes, train_factors
from symfast.problems.order_parameters import SUPPORT, check_mirrors, norm_columns
from symfast.problems.problem import FINISHED, Axis, Replicas, State, Stretch, data_hash
from symfast.replica import Rule


@dataclass(frozen=True, eq=False)
class Factorized:
    """Least squares through products of D factors, trained by SGD, Adam or AdamW with decay.

    ``1/(2n) ||X w - y||^2 + lam ||w||_{2/D}^{2/D}``, w = f_1 ... f_D per coordinate: the Lasso for
    D = 2, ridge for D = 1. With groups the factors f_2 ... f_D are gates, one for each group, and
    the penalty is ``lam sum_g ||w_g||_2^{2/D}``: the group lasso for D = 2 (D-Gating, Kolb et al.
    2025). With an orthonormal ``frame`` O the weight is
    ``theta = (I - O O^T) v + O (f_1 ... f_D)`` and only O^T theta is penalised: in the coordinates
    [O, O_perp] that is the same problem with the other coordinates unfactored, and the mirror
    constraint O^T theta = 0 holds exactly above a finite lam: lam is the strength of the constraint
    here, cell by cell. Data are kept in float64.

    ``penalty_schedule`` lets lam fade: constant, harmonic, quadratic or geometric in epochs of
    ``epoch`` steps (PILoT, Jacobs & Burkholz, ICLR 2025); ``schedule`` is the learning rate's.

    A step takes all samples through their Gram matrix, or with ``batch_size`` or ``label_noise``
    rows of the data: minibatches are drawn with replacement from (seed, step) alone, so cells of
    one seed see the same data, noise from (seed, cell, step). ``label_noise`` is the standard
    deviation of what is added to the targets, ``gradient_noise`` of what is added to the gradient
    with respect to the trained coordinates w; the factors receive both through w, so the mirrors
    stay. Adam's decay is coupled, so it ends where the penalised loss is least, as SGD does (but
    from other starts of D > 2 elsewhere); AdamW's decoupled decay is no penalty of w, and a warning
    says so.

    Args:
        X: (n, d) data. Columns should be of similar size: standardise them.
        y: (n,) target, or (n, o) targets; weights are then a matrix (d, o).
        depth: number of factors D, 1 to 6, or several, which are then swept over.
        frame: (d, k) with orthonormal columns, or None for penalising every coordinate.
        init: "keep" starts all factors but one at 1 and that one at w0 ~ N(0, scale^2); "pilot"
            splits w0 with an imbalance of beta; "dwf" draws truncated normal factors. See
            `symfast.problems.factor_start.first_factors`.
        scale: standard deviation of the start w0.
        per: what shares gates: "element" nothing, "row" the weights of a feature, "column" those of
            an output, or one label for every feature.
        beta: imbalance of init="pilot", >= 0; with 0 no weight can ever change its sign.
        optimizer: "sgd" with momentum, "adam" (decay coupled) or "adamw" (decoupled), as in
            torch.optim.
        mirror_norms: whether the norm of every mirror is measured too: of the groups, or |w_i|.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or the frame is not orthonormal.

    Example:
        >>> import torch
        >>> from symfast.problems import Factorized
        >>> problem = Factorized(torch.eye(3), torch.ones(3), depth=(2, 3))
        >>> problem.d, problem.depths
        (3, (2, 3))
    """

    X: Tensor
    y: Tensor
    depth: int | Sequence[int] = 2
    frame: Tensor | None = None
    init: Init = "keep"
    scale: float = 0.1
    per: Per = "element"
    beta: float = 1.0
    optimizer: Rule = "sgd"
    mirror_norms: bool = False
    at: Coordinates = field(init=False, repr=False)
    offset: float = field(init=False, repr=False)  # loss at w = 0

    def __post_init__(self) -> None:
        """Check the data and form the Gram matrix in the coordinates that are trained."""
        X = torch.as_tensor(self.X, dtype=torch.float64, device="cpu").detach()
        y = torch.as_tensor(self.y, dtype=torch.float64, device="cpu").detach()
        check_data(X, y)
        if self.init not in get_args(Init):
            raise ValueError(f"init must be one of {', '.join(get_args(Init))}, not {self.init!r}")
        check_optimizer(self.optimizer)
        if self.init == "dwf" and self.per != "element":
            raise ValueError('init="dwf" goes with per="element"; gates need "keep" or "pilot"')
        for name, number in (("scale", self.scale), ("beta", self.beta)):
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{name} must be finite and not negative, not {number}")
        fields: dict[str, Any] = {
            "X": X,
            "y": y,
            "depth": _check_depths(self.depth),
            "at": coordinates(X, y.reshape(len(y), -1), self.frame, self.per),
            "offset": float(y.flatten() @ y.flatten()) / (2 * len(X)),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if self.mirror_norms:
            check_mirrors(self.at.group_norms(torch.zeros(1, self.d)).shape[1], "Factorized")

    @property
    def gram(self) -> Tensor:
        """Gram matrix (d, d) of the coordinates that are trained."""
        return self.at.gram

    @property
    def linear(self) -> Tensor:
        """Linear term (d,) in these coordinates."""
        return self.at.linear

    @property
    def factored(self) -> Tensor:
        """Which coordinates (d,) have factors."""
        return self.at.factored

    @property
    def d(self) -> int:
        """Number of weights."""
        return len(self.at.linear)

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths to sweep over."""
        return self.depth if isinstance(self.depth, tuple) else (int(self.depth),)  # type: ignore[arg-type]

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Depth, start, rates with their schedules, batch size (0: all samples), and noise."""
        return factor_axes(self.depths, self.scale, self.optimizer)

    @property
    def options(self) -> Mapping[str, Any]:
        """When to stop a replica, and what the penalty's schedule means.

        Once max |dw| between two checks, every ``check_every`` steps, is below ``tol``; steps of an
        ``epoch`` of the schedule; ``ratio`` of a geometric one.
        """
        return OPTIONS

    @property
    def replica_bytes(self) -> int:
        """Factors and moments, and a copy of each."""
        kept = 2 if self.optimizer == "sgd" else 3
        return 8 * self.d * (2 * kept * max(self.depths) + 4)

    def draw(
        self, depths: Sequence[int], seeds: Sequence[int], scales: Sequence[float] | None = None
    ) -> Tensor:
        """Return the first factors (B, D, d) of one replica per (depth, seed); D = max(depths).

        The draw depends on the seed, the scale and the depth alone.
        """
        chosen = [self.scale] * len(seeds) if scales is None else scales
        factors = torch.ones(len(seeds), max(depths), self.d, dtype=torch.float64)
        drawn: dict[tuple[int, int, float], Tensor] = {}
        for row, key in enumerate(zip(depths, seeds, chosen, strict=True)):
            if key not in drawn:
                drawn[key] = first_factors(
                    *key, self.factored, self.at.group, init=self.init, beta=self.beta
                )
            factors[row, : key[0]] = drawn[key]
        return factors

    def start(self, replicas: Replicas, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return factors and moments (R, D, d), their product w (R, d), and how runs stand."""
        depths = replicas.cells["depth"].long().tolist()
        factors = self.draw(depths, replicas.seeds.tolist(), replicas.cells["scale"].tolist())
        count = torch.zeros(len(replicas), dtype=torch.int64, device=device)
        moment = torch.zeros_like(factors, dtype=dtype, device=device)
        return {
            "factors": factors.to(device, dtype),
            "velocity": moment,
            "second": moment[:, :0] if self.optimizer == "sgd" else moment.clone(),
            "w": factors.prod(1).to(device, dtype),
            "residual": torch.full((len(replicas),), math.inf, dtype=dtype, device=device),
            "steps": count,
            "status": torch.full_like(count, FINISHED),
        }

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        """Run the persistent kernel on the replicas that have neither converged nor diverged."""
        alive = (state["status"] == FINISHED).nonzero().flatten()
        stretch.progress[0] += stretch.steps * (len(replicas) - len(alive))
        if len(alive) == 0:
            return state
        found = train_factors(
            self.at, self.optimizer, state, replicas.select(alive.cpu()), stretch, alive
        )
        state["steps"][alive] += found.steps
        names = {"w": found.weight, "factors": found.factors, "velocity": found.velocity}
        names |= {"second": found.second, "residual": found.residual, "status": found.status}
        for name, x in names.items():
            state[name][alive] = x
        return state

    def theta(self, w: Tensor) -> Tensor:
        """Weights (B, d), row-major, of the model from trained coordinates (B, d)."""
        return self.at.theta(w)

    def loss(self, w: Tensor) -> Tensor:
        """``1/(2n) ||X w - y||^2`` (B,) of trained coordinates w (B, d)."""
        return ((w @ self.gram) * w).sum(-1) / 2 - w @ self.linear + self.offset

    def penalty(self, w: Tensor, depth: Tensor) -> Tensor:
        """``sum_g ||w_g||_2^{2/D}`` (B,) over the groups, or factored coordinates without gates."""
        return (self.at.group_norms(w) ** (2 / depth)[:, None]).sum(-1)

    def measure(self, state: State, replicas: Replicas) -> dict[str, Tensor]:
        """Order parameters (R,), in float64.

        loss, objective = loss + lam * penalty, sparsity (share of factored coordinates of size
        <= 1e-4), zeros (share that is exactly zero after the fold), violation = max |O^T theta|,
        residual = max |dw| between the last two checks; with gates group_sparsity, the share of
        groups of norm <= 1e-4; with ``mirror_norms`` the norm of each mirror, mirror_0, ...
        """
        w = state["w"].to("cpu", torch.float64)
        inside, loss = w[:, self.factored].abs(), self.loss(w)
        penalty = self.penalty(w, replicas.cells["depth"])
        found = {
            "loss": loss,
            "objective": loss + replicas.cells["weight_decay"] * penalty,
            "sparsity": (inside <= SUPPORT).double().mean(-1),
            "zeros": (inside == 0).double().mean(-1),
            "violation": inside.amax(-1),
            "residual": state["residual"].to("cpu", torch.float64),
        }
        norms = self.at.group_norms(w)
        if len(self.at.group):
            found["group_sparsity"] = (norms <= SUPPORT).double().mean(-1)
        return found | (norm_columns(norms) if self.mirror_norms else {})

    def weights(self, state: State) -> Tensor:
        """Return the model's weights theta (R, d) in float64."""
        return self.theta(state["w"].to("cpu", torch.float64))

    def threshold(self) -> float:
        """Smallest lam for which depth 2 meets the constraint exactly.

        ``max |O^T grad loss(theta_c)|`` at the constrained minimiser theta_c; without a frame the
        largest useful Lasso penalty ``max |X^T y| / n``, of a group's norm with gates. In the
        notation of a penalty ``gam (||u||^2 + ||w||^2)`` this is 2 gam*.
        """
        free = ~self.factored
        w = torch.zeros(self.d, dtype=torch.float64)
        if bool(free.any()):
            w[free] = torch.linalg.lstsq(
                self.gram[free][:, free], self.linear[free], driver="gelsd"
            ).solution
        return float(self.at.group_norms((self.gram @ w - self.linear)[None]).max())

    def describe(self) -> dict[str, Any]:
        """Plain facts that identify the problem, data included, for a manifest."""
        frame = [] if self.frame is None else [torch.as_tensor(self.frame)]
        facts = {
            "kind": "Factorized",
            "samples": len(self.X),
            "weights": self.d,
            "constraints": int(self.factored.sum()) if self.frame is not None else 0,
            "depths": list(self.depths),
            "init": self.init,
            "scale": self.scale,
            "data_sha256": data_hash(self.X, self.y, *frame),
        }
        if self.init == "pilot":
            facts["beta"] = self.beta
        if self.optimizer != "sgd":
            facts["optimizer"] = self.optimizer
        if self.mirror_norms:
            facts["mirror_norms"] = True
        if self.per != "element":
            facts["per"] = self.per if isinstance(self.per, str) else list(self.per)
        return facts


def _check_depths(depth: int | Sequence[int]) -> tuple[int, ...]:
    """The depths as a tuple of distinct integers in range."""
    depths = (depth,) if isinstance(depth, int) else tuple(depth)
    if not depths or any(not isinstance(x, int) or not 1 <= x <= MAX_DEPTH for x in depths):
        raise ValueError(f"depth must be 1 to {MAX_DEPTH}, or several of them, not {depth!r}")
    if len(set(depths)) != len(depths):
        raise ValueError(f"depths must differ, got {depths}")
    return depths
