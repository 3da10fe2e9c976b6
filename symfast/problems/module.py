# SPDX-License-Identifier: Apache-2.0
"""Any model of the user's: gradients by torch.func over stacked replicas, one fused step."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from symfast.plan import Plan
from symfast.problems.draws import minibatches
from symfast.problems.module_check import activation_numbers, check_data, check_model
from symfast.problems.problem import (
    CANCELLED,
    DIVERGED,
    FINISHED,
    Axis,
    Replicas,
    State,
    Stretch,
    data_hash,
)
from symfast.problems.schedule import schedule
from symfast.problems.stacked_step import Rule, StackedModel, StepKind, make_step
from symfast.problems.training_axes import training_axes

#: Weights at most this large count as zero.
SUPPORT = 1e-4
#: Steps between two looks for divergence and cancelling, counted from step 0.
CHECK_EVERY = 100
#: Numbers that are measured at once.
MEASURE_NUMBERS = 1 << 24

#: Makes the plan that every step applies, of the stacked parameters (R, ...) by name.
MakePlan = Callable[[dict[str, Tensor], int], Plan]


@dataclass(frozen=True, eq=False)
class Module:
    """Train many replicas of any model: torch.func gradients, then one fused step of all of them.

    Every replica has its own learning rate, decay, momentum, noise, batch size and schedule.
    Minibatches are drawn with replacement from (seed, step) alone, so cells of one seed see the
    same data; label and gradient noise are drawn from (seed, cell, step). A replica trained with
    others or alone agrees to rounding: batched matrix products may round differently for another
    number of replicas.

    Args:
        make_model: returns a fresh model; called once per seed, after torch.manual_seed(seed). The
            model must be a function of its parameters: no running statistics, no dropout.
        loss: (output, target) -> scalar, the mean over the minibatch.
        X: (n, ...) inputs.
        Y: (n, ...) targets; whole numbers are classes, and accuracies are measured.
        test: (X, Y) that are only measured.
        optimizer: "sgd", "adam" (decay coupled, through the moments) or "adamw" (decoupled).
        compile: compile gradient and step with torch.compile: 1.3 to 3 times as fast
            (benchmarks/README.md), after tens of seconds for every number of replicas and batch
            size. Where that fails, a warning says why and the step runs uncompiled.
        make_plan: (stacked parameters by name, R) -> a Plan with ``replicas=R``; its
            constraint is applied after every step.
        constraint: "project", or "shrink" or "prox" with ``strength``.
        strength: amount of the shrink or threshold of the prox, of every step.

    Raises:
        ValueError: if the data do not fit together or are not finite, or the model has running
            statistics, dropout, no parameters, or parameters that are no floats.

    Example:
        >>> import symfast as sf, torch
        >>> X, Y = torch.randn(64, 3), torch.randn(64, 1)
        >>> problem = sf.problems.Module(
        ...     lambda: torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, X, Y
        ... )
        >>> result = sf.sweep(problem, lr=[0.01, 0.1], batch_size=8, seeds=2, steps=20)
        >>> result.table.status.tolist()
        ['finished', 'finished', 'finished', 'finished']
    """

    make_model: Callable[[], torch.nn.Module]
    loss: Callable[[Any, Tensor], Tensor]
    X: Tensor
    Y: Tensor
    test: tuple[Tensor, Tensor] | None = None
    optimizer: Rule = "sgd"
    compile: bool = False
    make_plan: MakePlan | None = None
    constraint: str = "project"
    strength: float = 0.0
    model: StackedModel = field(init=False, repr=False)
    _steps: dict[StepKind, Callable[..., Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check data and model, and keep the model without its parameters."""
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise ValueError(f'optimizer must be "sgd", "adam" or "adamw", not {self.optimizer!r}')
        if self.constraint not in ("project", "shrink", "prox"):
            raise ValueError(f"constraint must be project, shrink or prox, not {self.constraint!r}")
        check_data(self.X, self.Y, self.test)
        skeleton = self._fresh(0)
        check_model(skeleton, self.X)
        shapes = {name: p.shape for name, p in skeleton.named_parameters()}
        buffers = {name: b.detach() for name, b in skeleton.named_buffers()}
        object.__setattr__(self, "model", StackedModel(skeleton, shapes, buffers))
        object.__setattr__(self, "_steps", {})

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Rates, noise, batch size (0: all samples), schedule, and scale of the start."""
        return training_axes(self.optimizer, label_noise=self.Y.is_floating_point())

    @property
    def options(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @property
    def replica_bytes(self) -> int:
        """Parameters, moments, gradients, and the activations of a minibatch of all samples."""
        samples = min(len(self.X), 1024)
        return 8 * (8 * sum(self.model.sizes) + 4 * samples * self._activations())

    def _activations(self) -> int:
        """Numbers that one sample puts into memory."""
        return activation_numbers(self.model.skeleton, self.X)

    def _fresh(self, seed: int) -> torch.nn.Module:
        """The user's model of one seed; the global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make_model()

    def start(self, replicas: Replicas, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return the parameters theta (R, P), times the scale, and moments of zero."""
        rows, at = replicas.seeds.unique(return_inverse=True)
        flat = []
        for seed in rows.tolist():
            model = self._fresh(seed)
            shapes = {name: p.shape for name, p in model.named_parameters()}
            if shapes != self.model.shapes:
                raise ValueError("make_model must return models with the same parameters each time")
            flat.append(torch.cat([p.detach().flatten().to(dtype) for p in model.parameters()]))
        theta = torch.stack(flat)[at] * replicas.cells["scale"].to(dtype)[:, None]
        theta = theta.to(device)
        self._constraint(theta)()
        zeros = torch.zeros(len(replicas), dtype=torch.int64, device=device)
        second = torch.zeros_like(theta) if self.optimizer != "sgd" else theta.new_zeros(len(zeros))
        moments = {"first": torch.zeros_like(theta), "second": second}
        return {"theta": theta, **moments, "steps": zeros, "status": zeros.clone()}

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        """Step all replicas of one batch size together, one batch size after the other."""
        sizes = replicas.cells["batch_size"].unique().tolist()
        for size in sizes:
            chosen = (replicas.cells["batch_size"] == size).nonzero().flatten()
            if len(sizes) == 1:
                self._train(state, replicas, stretch, int(size))
            else:
                rows = chosen.to(state["theta"].device)
                part = {name: x[rows] for name, x in state.items()}
                self._train(part, replicas.select(chosen), stretch, int(size))
                for name, x in part.items():
                    state[name][rows] = x
        return state

    def _train(self, state: State, replicas: Replicas, stretch: Stretch, batch: int) -> None:
        """Train replicas of one batch size; ``state`` is changed in place."""
        theta = state["theta"]
        X, Y = (x.to(theta.device) for x in (self.X, self.Y))
        X, Y = (x.to(theta.dtype) if x.is_floating_point() else x for x in (X, Y))
        rates = {name: x.to(theta)[:, None] for name, x in replicas.cells.items()}
        factors = schedule(stretch).to(theta)  # (steps, kinds)
        kind = replicas.cells["schedule"].long().to(theta.device)
        seeds, keys = replicas.seeds.to(theta.device), replicas.keys.to(theta.device)
        rows, at = seeds.unique(return_inverse=True)
        step, constrain = self._step(replicas), self._constraint(theta)
        base, drawn = rates["lr"], torch.empty(0)
        for number in range(stretch.first, stretch.first + stretch.steps):
            done = number - stretch.first
            if batch and done % CHECK_EVERY == 0:
                count = min(CHECK_EVERY, stretch.steps - done)
                drawn = minibatches(rows, number, count, batch, len(X))
            x, y = _pick(X, Y, drawn[:, done % CHECK_EVERY][at] if batch else None, len(theta))
            rates["lr"] = base * factors[done][kind][:, None]
            moments = (state["first"], state["second"])
            step(
                theta, *moments, x, y, rates, seeds, keys, torch.tensor(number, device=theta.device)
            )
            constrain()
            stretch.progress[0] += len(theta)
            if (number + 1) % CHECK_EVERY == 0 or number + 1 == stretch.total:
                _judge(state, number + 1)
                if int(stretch.progress[1]):
                    state["status"][state["status"] == FINISHED] = CANCELLED
                    return

    def _step(self, replicas: Replicas) -> Callable[..., Tensor]:
        """The step for what these replicas need, compiled if asked for."""
        has = {name: bool((x != 0).any()) for name, x in replicas.cells.items()}
        names = ("momentum", "label_noise", "gradient_noise")
        kind = StepKind(self.optimizer, *(has.get(name, False) for name in names))
        if kind not in self._steps:
            plain = make_step(self.model, self.loss, kind)
            self._steps[kind] = _compiled(plain) if self.compile else plain
        return self._steps[kind]

    def _constraint(self, theta: Tensor) -> Callable[[], object]:
        """What applies the plan to the stacked parameters, in place; it keeps up with theta."""
        if self.make_plan is None:
            return lambda: None
        plan = self.make_plan(self.model.parameters(theta), len(theta))
        if self.constraint == "project":
            return plan.project_
        apply = plan.shrink_ if self.constraint == "shrink" else plan.prox_
        return partial(apply, self.strength)

    def measure(self, state: State, replicas: Replicas) -> dict[str, Tensor]:
        """Order parameters (R,): loss, test_loss, error rates of classes, norm, sparsity, zeros."""
        theta = state["theta"]
        found = self._losses(theta, self.X, self.Y, "")
        if self.test is not None:
            found |= self._losses(theta, *self.test, "test_")
        size = theta.abs()
        return found | {
            "norm": theta.norm(dim=1),
            "sparsity": (size <= SUPPORT).double().mean(1),
            "zeros": (size == 0).double().mean(1),
        }

    def _losses(self, theta: Tensor, X: Tensor, Y: Tensor, prefix: str) -> dict[str, Tensor]:
        """Loss, and the error rate if targets are classes, on all samples."""
        X = X.to(theta.device, theta.dtype if X.is_floating_point() else X.dtype)
        Y = Y.to(theta.device, theta.dtype if Y.is_floating_point() else Y.dtype)
        classes = not Y.is_floating_point()

        def one(row: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model(row, X)
            loss = self.loss(output, Y)
            wrong = (output.argmax(1) != Y).double().mean() if classes else loss
            return loss, wrong

        count = max(1, MEASURE_NUMBERS // (len(X) * self._activations()))
        losses, errors = vmap(one, chunk_size=count)(theta)
        found = {f"{prefix}loss": losses.double()}
        return found | ({f"{prefix}error": errors} if classes else {})

    def weights(self, state: State) -> Tensor:
        """Return the parameters (R, P), in the order of ``named_parameters``."""
        return state["theta"]

    def describe(self) -> dict[str, Any]:
        """Plain facts that identify the problem; the model by its text and its start of seed 0."""
        start = torch.cat([p.detach().flatten() for p in self._fresh(0).parameters()])
        tensors = [self.X, self.Y, *(self.test or ()), start, *self.model.buffers.values()]
        return {
            "kind": "Module",
            "samples": len(self.X),
            "weights": len(start),
            "model": str(self.model.skeleton),
            "loss": getattr(self.loss, "__qualname__", type(self.loss).__name__),
            "optimizer": self.optimizer,
            "compile": self.compile,
            "plan": None if self.make_plan is None else [self.constraint, self.strength],
            "data_sha256": data_hash(*tensors),
        }


def _pick(X: Tensor, Y: Tensor, index: Tensor | None, replicas: int) -> tuple[Tensor, Tensor]:
    """Minibatches (R, B, ...), or all samples in order."""
    if index is None:
        return X.expand(replicas, *X.shape), Y.expand(replicas, *Y.shape)
    return X[index], Y[index]


def _judge(state: State, steps: int) -> None:
    """Count steps of the replicas that are alive, and mark those whose weights are not finite."""
    alive = state["status"] == FINISHED
    state["steps"][alive] = steps
    lost = ~state["theta"].isfinite().all(1)
    state["status"][alive & lost] = DIVERGED


def _compiled(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The compiled step, which gives way to the plain one where torch.compile cannot help."""
    compiled: Callable[..., Tensor] | None = torch.compile(plain, dynamic=False)

    def step(*arguments: Any) -> Tensor:
        nonlocal compiled
        if compiled is not None:
            try:
                return compiled(*arguments)
            except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
                reason = str(error).strip().split("\n")[0]
                warnings.warn(
                    f"torch.compile failed, the step runs uncompiled and slower: {reason}",
                    stacklevel=2,
                )
                compiled = None
        return plain(*arguments)

    return step
