# SPDX-License-Identifier: Apache-2.0
"""Two-layer networks: thousands of whole trainings in one kernel call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from symfast.problems.order_parameters import (
    TwoLayerWeights,
    check_mirrors,
    mirror_parameters,
    order_parameters,
)
from symfast.problems.problem import (
    DIVERGED,
    FINISHED,
    Axis,
    Replicas,
    State,
    Stretch,
    data_hash,
)
from symfast.problems.schedule import schedule
from symfast.problems.training_axes import training_axes
from symfast.problems.two_layer_loss import losses
from symfast.reference.replica import split
from symfast.replica import (
    MOST_HIDDEN,
    MOST_INPUTS,
    MOST_OUTPUTS,
    Activation,
    Loss,
    Rule,
    UnitMirrors,
    parameter_count,
    replica_sweep_,
)
from symfast.symmetry import Symmetry


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """Train many replicas of ``f(x) = W2 act(W1 x + b1) + b2``, each whole training in the kernel.

    Every replica has its own learning rate, decay, momentum, noise, batch size, schedule, seed and
    scale of the start. Minibatches are drawn with replacement from (seed, step) alone, so cells of
    one seed see the same data; label and gradient noise are drawn from (seed, cell, step). A
    replica gives the same bits alone and in a sweep, on one kind of processor. Weight decay acts
    on all parameters, biases included, as in torch.optim. The start is torch.nn.Linear's,
    ``U(-1/sqrt(fan_in), 1/sqrt(fan_in))``, times the scale.

    With ``mirrors``, symmetries of the hidden units, every replica has a ``constraint`` (none,
    project, shrink or prox) and a ``strength``, applied inside the kernel after every step to the
    unit matrix with rows ``u_j = (w_j, b_j, v_j)``, by the amount lr_t strength as in
    `symfast.optim`: so prox trains ``loss + strength ||A^T U||_1``.

    Args:
        X: (n, i) inputs, i up to 256.
        Y: (n, o) or (n,) targets, o up to 64; for cross_entropy (n,) whole numbers, the classes.
        hidden: number of hidden units h, up to 256.
        activation: "identity", "relu" or "tanh".
        bias: whether b1 and b2 exist.
        test: (X, Y) that are only measured.
        loss: "mse", the mean of (f - y)^2 over samples and outputs as torch has it, or
            "cross_entropy".
        optimizer: "sgd", "adam" (decay coupled, through the moments) or "adamw" (decoupled).
        mirrors: a symmetry of the hidden units or several: SignFlip, Swap, Cluster, Direction or
            Mirror (h, k). They are applied one after the other, dense ones last.
        mirror_norms: whether the norm of every mirror is measured too.

    Raises:
        ValueError: if the data do not fit together, are not finite, or are too wide, or a mirror is
            not one of the hidden units.

    Example:
        >>> import torch
        >>> from symfast.problems.two_layer import TwoLayer
        >>> X = torch.randn(64, 3)
        >>> problem = TwoLayer(X, X[:, :1], hidden=4, activation="tanh")
        >>> problem.parameters, sorted(problem.axes)[:3]
        (21, ['batch_size', 'gradient_noise', 'label_noise'])
    """

    X: Tensor
    Y: Tensor
    hidden: int
    activation: Activation = "relu"
    bias: bool = True
    test: tuple[Tensor, Tensor] | None = None
    loss: Loss = "mse"
    optimizer: Rule = "sgd"
    mirrors: Symmetry | Sequence[Symmetry] = ()
    mirror_norms: bool = False
    targets: Tensor = field(init=False, repr=False)  # (n, o)
    test_targets: Tensor | None = field(init=False, repr=False, default=None)  # (test n, o)
    tables: UnitMirrors = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check names, sizes and data."""
        for name, value, kinds in (
            ("activation", self.activation, Activation),
            ("loss", self.loss, Loss),
            ("optimizer", self.optimizer, Rule),
        ):
            if value not in get_args(kinds):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kinds))}, not {value!r}"
                )
        outputs = self._outputs()
        object.__setattr__(self, "targets", self._checked(self.X, self.Y, "X and Y", outputs))
        if self.test is not None:
            targets = self._checked(*self.test, "the test data", outputs)
            object.__setattr__(self, "test_targets", targets)
            if self.test[0].shape[1] != self.inputs:
                raise ValueError(f"test inputs must have {self.inputs} columns, like X")
        for name, size, most in (
            ("inputs", self.inputs, MOST_INPUTS),
            ("hidden", self.hidden, MOST_HIDDEN),
            ("outputs", self.outputs, MOST_OUTPUTS),
        ):
            if not 1 <= size <= most:
                raise ValueError(f"{name} must be 1 to {most}, not {size}")
        given = self.mirrors if isinstance(self.mirrors, Sequence) else (self.mirrors,)
        object.__setattr__(self, "mirrors", tuple(given))
        object.__setattr__(self, "tables", UnitMirrors.of(given, self.hidden))
        if self.mirror_norms:
            check_mirrors(sum(x.frame(self.hidden).shape[1] for x in given), "TwoLayer")

    def _outputs(self) -> int:
        """Number of outputs, by the classes of the training targets if they are classes."""
        if self.loss == "mse":
            return 1 if self.Y.ndim == 1 else self.Y.shape[-1]
        if self.Y.is_floating_point() or self.Y.ndim != 1 or self.Y.numel() == 0:
            raise ValueError("for cross_entropy Y must hold one whole number, a class, per sample")
        return int(self.Y.max()) + 1

    def _checked(self, X: Tensor, Y: Tensor, what: str, outputs: int) -> Tensor:
        """Targets as a float64 matrix, of zeros and ones for classes."""
        if X.ndim != 2 or 0 in X.shape or not X.is_floating_point():
            raise ValueError(f"{what}: inputs must be a matrix of floats, samples by features")
        if len(Y) != len(X) or Y.ndim not in (1, 2):
            raise ValueError(f"{what}: targets must have a row for each of {len(X)} samples")
        if self.loss == "cross_entropy":
            if (
                Y.is_floating_point()
                or Y.ndim != 1
                or not 0 <= int(Y.min()) <= int(Y.max()) < outputs
            ):
                raise ValueError(f"{what}: classes must be whole numbers from 0 to {outputs - 1}")
            return torch.nn.functional.one_hot(Y.long(), outputs).double().cpu()
        targets = Y.detach().double().cpu().reshape(len(Y), -1)
        if targets.shape[1] != outputs:
            raise ValueError(f"{what}: targets must have {outputs} columns")
        if not bool(X.isfinite().all()) or not bool(targets.isfinite().all()):
            raise ValueError(f"{what}: there are values that are not finite; clean the data first")
        return targets

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.X.shape[1]

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.targets.shape[1]

    @property
    def parameters(self) -> int:
        """Number of parameters P."""
        return parameter_count(self.inputs, self.hidden, self.outputs, self.bias)

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Rates, noise, batch size (0: all samples), schedule, scale, and the constraint."""
        labels, mirrors = self.loss == "mse", bool(self.mirrors)
        return training_axes(self.optimizer, label_noise=labels, constraint=mirrors)

    @property
    def options(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @property
    def replica_bytes(self) -> int:
        """Parameters and moments, and what their measurement needs."""
        return 8 * (8 * self.parameters + 4 * self.hidden * self.hidden)

    def start(self, replicas: Replicas, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return theta (R, P) drawn by seed, times the scale, and moments of zero."""
        seeds, at = replicas.seeds.unique(return_inverse=True)
        drawn = torch.stack([self._draw(int(seed)) for seed in seeds])[at]
        theta = (drawn * replicas.cells["scale"][:, None]).to(device, dtype)
        zeros = torch.zeros(len(replicas), dtype=torch.int64, device=device)
        second = torch.zeros_like(theta) if self.optimizer != "sgd" else theta[:, :0].clone()
        moments = {"first": torch.zeros_like(theta), "second": second}
        return {"theta": theta, **moments, "steps": zeros, "status": zeros.clone()}

    def _draw(self, seed: int) -> Tensor:
        """Start (P,) of one seed in float64."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(self.parameters, generator=generator, dtype=torch.float64) * 2 - 1
        first = self.hidden * (self.inputs + self.bias)
        uniform[:first] /= self.inputs**0.5
        uniform[first:] /= self.hidden**0.5
        return uniform

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        """Train all replicas for a stretch in one kernel call, in place."""
        theta, cells = state["theta"], replicas.cells
        place: dict[str, Any] = {"dtype": theta.dtype, "device": theta.device}
        rates = {name: cells[name].to(**place) for name in self.axes if name not in _NOT_RATES}
        status = state["status"]
        with stretch.counter(theta.device) as counter:
            replica_sweep_(
                self.X.to(**place).contiguous(),
                self.targets.to(**place).contiguous(),
                theta,
                state["first"],
                state["second"],
                rates=rates,
                schedule=schedule(stretch).T.to(**place).contiguous(),
                kind=cells["schedule"].long().to(theta.device),
                seed=replicas.seeds.to(theta.device).contiguous(),
                cell=(replicas.keys & 0xFFFFFFFF).to(theta.device),
                batch=cells["batch_size"].long().to(theta.device),
                status=status,
                taken=state["steps"],
                hidden=self.hidden,
                bias=self.bias,
                activation=self.activation,
                loss=self.loss,
                rule=self.optimizer,
                first_step=stretch.first,
                progress=counter,
                mirrors=self.tables,
                constraint=cells["constraint"].long().to(theta.device) if self.mirrors else None,
            )
        if stretch.first + stretch.steps == stretch.total:  # the kernel looks every 64 steps only
            lost = (status == FINISHED) & ~theta.isfinite().all(1)
            status[lost] = DIVERGED
        return state

    def parts(self, theta: Tensor) -> TwoLayerWeights:
        """W1 (R, h, i), b1 (R, h), W2 (R, o, h), b2 (R, o) of theta (R, P)."""
        found = split(theta, self.inputs, self.hidden, self.outputs, self.bias)
        return TwoLayerWeights(found[0], found[1], found[2], found[3], self.activation)

    def measure(self, state: State, replicas: Replicas) -> dict[str, Tensor]:
        """Order parameters (R,): losses and errors, and `order_parameters` of the weights.

        With mirrors also violation, ``||A^T U||`` over all of them, and with ``mirror_norms`` the
        norm of each, mirror_0, ... in the order of the symmetries. Everything is measured in
        float64; a replica that diverged has NaN.
        """
        theta = state["theta"].double()
        data = {"": (self.X, self.targets)}
        if self.test is not None and self.test_targets is not None:
            data["test_"] = (self.test[0], self.test_targets)
        found: dict[str, Tensor] = {}
        for prefix, (X, Y) in data.items():
            found |= losses(self, theta, X.to(theta), Y.to(theta), prefix)
        parts = self.parts(theta)
        if self.mirrors:
            found |= mirror_parameters(parts, self.mirrors, self.mirror_norms)  # type: ignore[arg-type]
        return found | order_parameters(parts)

    def weights(self, state: State) -> Tensor:
        """Return theta (R, P): W1, b1, W2, b2, row-major."""
        return state["theta"]

    def describe(self) -> dict[str, Any]:
        """Plain facts that identify the problem, data included."""
        test = () if self.test is None else self.test
        return {
            "kind": "TwoLayer",
            "samples": len(self.X),
            "sizes": [self.inputs, self.hidden, self.outputs],
            "activation": self.activation,
            "bias": self.bias,
            "loss": self.loss,
            "optimizer": self.optimizer,
            **({"mirrors": [x.to_dict() for x in self.mirrors]} if self.mirrors else {}),  # type: ignore[union-attr]
            **({"mirror_norms": True} if self.mirror_norms else {}),
            "data_sha256": data_hash(self.X, self.targets, *test),
        }


#: Axes that are not rates of the kernel.
_NOT_RATES = ("schedule", "scale", "batch_size", "constraint")
