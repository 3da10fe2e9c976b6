# SPDX-License-Identifier: Apache-2.0
"""Least squares through product factors: the Lasso and its relatives by plain gradient descent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from symfast.factor_sweep import MAX_DEPTH, factor_sweep
from symfast.problems.problem import FINISHED, Axis, Replicas, State, Stretch, data_hash

#: A weight counts as present above this size (the fold of the sparsity literature).
SUPPORT = 1e-4
#: An orthonormal frame may be off by this much.
ORTHONORMAL = 1e-8


@dataclass(frozen=True, eq=False)
class Factorized:
    """Least squares whose weights are products of D factors, trained by SGD with weight decay.

    ``1/(2n) ||X w - y||^2 + lam ||w||_{2/D}^{2/D}``, w = f_1 ... f_D per coordinate: the Lasso for
    D = 2, ridge for D = 1. With an orthonormal ``frame`` O the weight is
    ``theta = (I - O O^T) v + O (f_1 ... f_D)`` and only O^T theta is penalised: in the coordinates
    [O, O_perp] that is the same problem with the other coordinates unfactored, and the mirror
    constraint O^T theta = 0 holds exactly above a finite lam. Everything is kept in float64.

    Args:
        X: (n, d) data. Columns should be of similar size: standardise them.
        y: (n,) target.
        depth: number of factors D, 1 to 6, or several, which are then swept over.
        frame: (d, k) with orthonormal columns, or None for penalising every coordinate.
        init: "keep" starts all factors but one at 1 and that one at w0 ~ N(0, scale^2);
            "dwf" draws truncated normal factors (Kolb et al. 2025, algorithm D.1).
        scale: standard deviation of the start w0.

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
    init: Literal["keep", "dwf"] = "keep"
    scale: float = 0.1
    gram: Tensor = field(init=False, repr=False)  # (d, d), in the frame's coordinates
    linear: Tensor = field(init=False, repr=False)  # (d,)
    offset: float = field(init=False, repr=False)  # loss at w = 0
    factored: Tensor = field(init=False, repr=False)  # (d,) bool
    rotation: Tensor | None = field(init=False, repr=False)  # (d, d), [O, O_perp]

    def __post_init__(self) -> None:
        """Check the data and form the Gram matrix in the coordinates that are trained."""
        X = torch.as_tensor(self.X, dtype=torch.float64, device="cpu").detach()
        y = torch.as_tensor(self.y, dtype=torch.float64, device="cpu").detach()
        _check_data(X, y)
        rotation, k = _complete(self.frame, X.shape[1])
        rotated = X if rotation is None else X @ rotation
        fields: dict[str, Any] = {
            "X": X,
            "y": y,
            "depth": _check_depths(self.depth),
            "gram": rotated.T @ rotated / len(X),
            "linear": rotated.T @ y / len(X),
            "offset": float(y @ y) / (2 * len(X)),
            "factored": torch.arange(X.shape[1]) < k,
            "rotation": rotation,
        }
        if self.init not in ("keep", "dwf"):
            raise ValueError(f'init must be "keep" or "dwf", not {self.init!r}')
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale must be finite and not negative, not {self.scale}")
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def d(self) -> int:
        """Number of weights."""
        return self.X.shape[1]

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths to sweep over."""
        return self.depth if isinstance(self.depth, tuple) else (int(self.depth),)  # type: ignore[arg-type]

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Depth, start, step size, momentum and penalty weight lam."""
        return {
            "depth": Axis(self.depths, low=1, high=MAX_DEPTH, integer=True, label="depth D"),
            "scale": Axis(self.scale, label="scale of the start"),
            "lr": Axis(0.1, label="learning rate η"),
            "momentum": Axis(0.9, label="momentum"),
            "weight_decay": Axis(0.0, label="penalty weight λ"),
        }

    @property
    def options(self) -> Mapping[str, Any]:
        """``tol``: stop a replica once max |dw| between checks is below; ``check_every`` steps."""
        return {"tol": 0.0, "check_every": 100}

    @property
    def replica_bytes(self) -> int:
        """Factors and velocities, and a copy of each."""
        return 8 * self.d * (4 * max(self.depths) + 4)

    def draw(
        self, depths: Sequence[int], seeds: Sequence[int], scales: Sequence[float] | None = None
    ) -> Tensor:
        """Return the first factors (B, D, d) of one replica per (depth, seed); D = max(depths).

        The draw depends on the seed, the scale and for "dwf" the depth alone.
        """
        chosen = [self.scale] * len(seeds) if scales is None else scales
        factors = torch.ones(len(seeds), max(depths), self.d, dtype=torch.float64)
        drawn: dict[tuple[int, int, float], Tensor] = {}
        for row, key in enumerate(zip(depths, seeds, chosen, strict=True)):
            if key not in drawn:
                drawn[key] = self._draw(*key)
            factors[row, : key[0]] = drawn[key]
        return factors

    def _draw(self, depth: int, seed: int, scale: float) -> Tensor:
        """First factors (depth, d) of one replica."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(self.d, generator=generator, dtype=torch.float64) * scale
        factors = torch.ones(depth, self.d, dtype=torch.float64)
        if self.init == "keep":
            factors[-1] = torch.where(self.factored, normal, 1)
        else:
            factors = _truncated(depth, self.d, scale, generator)
        factors[0] = torch.where(self.factored, factors[0], normal)
        return factors

    def start(self, replicas: Replicas, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return factors and velocities (R, D, d), their product w (R, d), and how runs stand."""
        depths = replicas.cells["depth"].long().tolist()
        factors = self.draw(depths, replicas.seeds.tolist(), replicas.cells["scale"].tolist())
        count = torch.zeros(len(replicas), dtype=torch.int64, device=device)
        return {
            "factors": factors.to(device, dtype),
            "velocity": torch.zeros_like(factors, dtype=dtype, device=device),
            "w": factors.prod(1).to(device, dtype),
            "residual": torch.full((len(replicas),), math.inf, dtype=dtype, device=device),
            "steps": count,
            "status": torch.full_like(count, FINISHED),
        }

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        """Run the persistent kernel on the replicas that have neither converged nor diverged."""
        alive = (state["status"] == FINISHED).nonzero().flatten()
        stretch.progress[0] += stretch.steps * (len(replicas) - len(alive))
        like, cells = state["w"], replicas.select(alive.cpu()).cells
        if len(alive) == 0:
            return state
        with stretch.counter(like.device) as counter:
            found = factor_sweep(
                self.gram.to(like),
                self.linear.to(like),
                state["factors"][alive],
                velocity=state["velocity"][alive],
                depth=cells["depth"].to(like.device, torch.int64),
                factored=self.factored.to(like.device),
                lr=cells["lr"].to(like),
                momentum=cells["momentum"].to(like),
                lam=cells["weight_decay"].to(like),
                steps=stretch.steps,
                progress=counter,
                **stretch.options,
            )
        state["steps"][alive] += found.steps
        names = {"w": found.weight, "factors": found.factors, "velocity": found.velocity}
        for name, x in (names | {"residual": found.residual, "status": found.status}).items():
            state[name][alive] = x
        return state

    def theta(self, w: Tensor) -> Tensor:
        """Weights (B, d) of the model from trained coordinates (B, d)."""
        return w if self.rotation is None else w @ self.rotation.T

    def loss(self, w: Tensor) -> Tensor:
        """``1/(2n) ||X w - y||^2`` (B,) of trained coordinates w (B, d)."""
        return ((w @ self.gram) * w).sum(-1) / 2 - w @ self.linear + self.offset

    def penalty(self, w: Tensor, depth: Tensor) -> Tensor:
        """``||w||_{2/D}^{2/D}`` (B,) over the factored coordinates."""
        return (w.abs() ** (2 / depth)[:, None])[:, self.factored].sum(-1)

    def measure(self, state: State, replicas: Replicas) -> dict[str, Tensor]:
        """Order parameters (R,), in float64.

        loss, objective = loss + lam * penalty, sparsity (share of factored coordinates of size
        <= 1e-4), zeros (share that is exactly zero after the fold), violation = max |O^T theta|,
        residual = max |dw| between the last two checks.
        """
        w = state["w"].to("cpu", torch.float64)
        inside, loss = w[:, self.factored].abs(), self.loss(w)
        penalty = self.penalty(w, replicas.cells["depth"])
        return {
            "loss": loss,
            "objective": loss + replicas.cells["weight_decay"] * penalty,
            "sparsity": (inside <= SUPPORT).double().mean(-1),
            "zeros": (inside == 0).double().mean(-1),
            "violation": inside.amax(-1),
            "residual": state["residual"].to("cpu", torch.float64),
        }

    def weights(self, state: State) -> Tensor:
        """Return the model's weights theta (R, d) in float64."""
        return self.theta(state["w"].to("cpu", torch.float64))

    def threshold(self) -> float:
        """Smallest lam for which depth 2 meets the constraint exactly.

        ``max |O^T grad loss(theta_c)|`` at the constrained minimiser theta_c; without a frame the
        largest useful Lasso penalty ``max |X^T y| / n``. In the notation of a penalty
        ``gam (||u||^2 + ||w||^2)`` this is 2 gam*.
        """
        free = ~self.factored
        w = torch.zeros(self.d, dtype=torch.float64)
        if bool(free.any()):
            w[free] = torch.linalg.lstsq(
                self.gram[free][:, free], self.linear[free], driver="gelsd"
            ).solution
        return float((self.gram @ w - self.linear)[self.factored].abs().max())

    def describe(self) -> dict[str, Any]:
        """Plain facts that identify the problem, data included, for a manifest."""
        frame = [] if self.frame is None else [torch.as_tensor(self.frame)]
        return {
            "kind": "Factorized",
            "samples": len(self.X),
            "weights": self.d,
            "constraints": int(self.factored.sum()) if self.frame is not None else 0,
            "depths": list(self.depths),
            "init": self.init,
            "scale": self.scale,
            "data_sha256": data_hash(self.X, self.y, *frame),
        }


def _check_data(X: Tensor, y: Tensor) -> None:
    """Refuse data that are not one finite (n, d) matrix and one (n,) target."""
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"X must be a matrix of samples by features, not of shape {tuple(X.shape)}"
        )
    if y.shape != X.shape[:1]:
        raise ValueError(
            f"y must hold one number for each of {len(X)} samples, not {tuple(y.shape)}"
        )
    for name, x in (("X", X), ("y", y)):
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite; clean the data first")


def _check_depths(depth: int | Sequence[int]) -> tuple[int, ...]:
    """The depths as a tuple of distinct integers in range."""
    depths = (depth,) if isinstance(depth, int) else tuple(depth)
    if not depths or any(not isinstance(x, int) or not 1 <= x <= MAX_DEPTH for x in depths):
        raise ValueError(f"depth must be 1 to {MAX_DEPTH}, or several of them, not {depth!r}")
    if len(set(depths)) != len(depths):
        raise ValueError(f"depths must differ, got {depths}")
    return depths


def _complete(frame: Tensor | None, d: int) -> tuple[Tensor | None, int]:
    """Return [O, O_perp] (d, d) and the number k of columns of O; (None, d) without a frame."""
    if frame is None:
        return None, d
    columns = torch.as_tensor(frame, dtype=torch.float64, device="cpu").detach()
    if columns.ndim != 2 or columns.shape[0] != d or not 1 <= columns.shape[1] <= d:
        raise ValueError(
            f"frame must have shape ({d}, k) with k from 1 to {d}, not {tuple(columns.shape)}"
        )
    k = columns.shape[1]
    defect = float((columns.T @ columns - torch.eye(k, dtype=torch.float64)).abs().max())
    if not defect <= ORTHONORMAL:
        raise ValueError(f"the frame's columns must be orthonormal; O^T O is off by {defect:.1e}")
    left, _, _ = torch.linalg.svd(columns, full_matrices=True)
    return torch.cat([columns, left[:, k:]], 1), k


def _truncated(depth: int, d: int, scale: float, generator: torch.Generator) -> Tensor:
    """Factors (depth, d) from N(0, sigma^2), rejected unless low < |f| < high (DWF init)."""
    sigma = scale ** (1 / depth)
    low, high = (0.01 * scale) ** (1 / depth), min(1.0, (2 * scale) ** (1 / depth))
    factors = torch.zeros(depth, d, dtype=torch.float64)
    bad = torch.ones_like(factors, dtype=torch.bool) if scale > 0 else factors.bool()
    while bool(bad.any()):
        fresh = torch.randn(int(bad.sum()), generator=generator, dtype=torch.float64) * sigma
        factors[bad] = fresh
        bad = (factors.abs() <= low) | (factors.abs() >= high)
    return factors
