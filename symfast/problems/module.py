# SPDX-License-Identifier: Apache-2.0
"""Any model of the user's: gradients by torch.func over stacked replicas, one fused step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from symfast.codes import PROJECT, SHRINK
from symfast.plan import Plan
from symfast.problems.module_check import activation_numbers, check_data, check_model
from symfast.problems.order_parameters import SUPPORT
from symfast.problems.problem import (
    CANCELLED,
    FINISHED,
    MEASURE_NUMBERS,
    Axis,
    Replicas,
    State,
    Stretch,
    data_hash,
)
from symfast.problems.schedule import schedule
from symfast.problems.stacked_data import Minibatches, block_size, moved
from symfast.problems.stacked_step import (
    Rule,
    StackedModel,
    StepKind,
    compiled_step,
    judge,
    make_step,
)
from symfast.problems.training_axes import training_axes
from symfast.reference.unit_mirrors import NONE

#: Steps between two looks for divergence and cancelling, counted from step 0.
CHECK_EVERY = 100

#: More than the number of constraints: none, project, shrink, prox.
_VERBS = 8

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
        make_plan: (stacked parameters by name, R) -> a Plan with ``replicas=R``. Every replica then
            has a ``constraint`` (none, project, shrink or prox) that is applied after every step,
            by lr_t times its ``strength`` as in `symfast.optim`.

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
    model: StackedModel = field(init=False, repr=False)
    activations: int = field(init=False, repr=False)  # numbers of one sample in memory
    _steps: dict[StepKind, Callable[..., Tensor]] = field(init=False, repr=False)
    _cast: dict[Any, tuple[Tensor, Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check data and model, and keep the model without its parameters."""
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise ValueError(f'optimizer must be "sgd", "adam" or "adamw", not {self.optimizer!r}')
        check_data(self.X, self.Y, self.test)
        skeleton = self._fresh(0)
        check_model(skeleton, self.X)
        shapes = {name: p.shape for name, p in skeleton.named_parameters()}
        buffers = {name: b.detach() for name, b in skeleton.named_buffers()}
        object.__setattr__(self, "model", StackedModel(skeleton, shapes, buffers))
        object.__setattr__(self, "activations", activation_numbers(skeleton, self.X))
        object.__setattr__(self, "_steps", {})
        object.__setattr__(self, "_cast", {})

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Rates, noise, batch size (0: all samples), schedule, and scale of the start."""
        numbers, planned = self.Y.is_floating_point(), self.make_plan is not None
        return training_axes(self.optimizer, label_noise=numbers, constraint=planned)

    @property
    def options(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @property
    def replica_bytes(self) -> int:
        """Parameters, moments, gradients, and the activations of a minibatch of all samples."""
        samples = min(len(self.X), 1024)
        return 8 * (8 * sum(self.model.sizes) + 4 * samples * self.activations)

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
        zeros = torch.zeros(len(replicas), dtype=torch.int64, device=device)
        second = torch.zeros_like(theta) if self.optimizer != "sgd" else theta.new_zeros(len(zeros))
        moments = {"first": torch.zeros_like(theta), "second": second}
        return {"theta": theta, **moments, "steps": zeros, "status": zeros.clone()}

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        """Step all replicas of one batch size and constraint together, one kind after the other."""
        cells = replicas.cells
        constraint = cells.get("constraint", torch.zeros(len(replicas)))
        kinds = cells["batch_size"].long() * _VERBS + constraint.long()
        for kind in kinds.unique().tolist():
            chosen = (kinds == kind).nonzero().flatten()
            batch, verb = divmod(kind, _VERBS)
            if len(chosen) == len(replicas):
                self._train_blocks(state, replicas, stretch, batch, verb)
                continue
            at = chosen.to(state["theta"].device)
            part = {name: x[at] for name, x in state.items()}
            self._train_blocks(part, replicas.select(chosen), stretch, batch, verb)
            for name, x in part.items():
                state[name][at] = x
        return state

    def _train_blocks(
        self, state: State, replicas: Replicas, stretch: Stretch, batch: int, verb: int
    ) -> None:
        """Train replicas of one kind, so many at a time that they stay in the caches."""
        numbers = 3 * sum(self.model.sizes) + (batch or len(self.X)) * self.activations
        on_cpu = state["theta"].device.type == "cpu"
        size = block_size(len(replicas), numbers) if on_cpu else len(replicas)
        for rows in torch.arange(len(replicas)).split(size):
            views = {name: x[rows[0] : rows[0] + size] for name, x in state.items()}
            self._train(views, replicas.select(rows), stretch, batch, verb)

    def _train(
        self, state: State, replicas: Replicas, stretch: Stretch, batch: int, verb: int
    ) -> None:
        """Train replicas of one kind; ``state`` is changed in place."""
        theta = state["theta"]
        place, last = theta.device, stretch.first + stretch.steps
        rates = {name: x.to(theta)[:, None] for name, x in replicas.cells.items()}
        factors = schedule(stretch).to(theta)  # (steps, kinds)
        kind = replicas.cells["schedule"].long().to(place)
        seeds, keys = replicas.seeds.to(place), replicas.keys.to(place)
        batches = Minibatches(*self._data(theta), seeds, batch, last)
        step, constrain = self._step(replicas), self._constraint(theta, verb)
        base, moments = rates["lr"], (state["first"], state["second"])
        for number in range(stretch.first, last):
            rates["lr"] = base * factors[number - stretch.first][kind][:, None]
            now = torch.tensor(number, device=place)
            step(theta, *moments, *batches(number), rates, seeds, keys, now)
            constrain(rates)
            stretch.progress[0] += len(theta)
            if (number + 1) % CHECK_EVERY == 0 or number + 1 == stretch.total:
                judge(state, number + 1)
                if int(stretch.progress[1]):
                    state["status"][state["status"] == FINISHED] = CANCELLED
                    return

    def _data(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets where the replicas are, floats in their dtype; the last are kept."""
        place = (like.device, like.dtype)
        if place not in self._cast:
            self._cast.clear()
            self._cast[place] = moved(self.X, like), moved(self.Y, like)
        return self._cast[place]

    def _step(self, replicas: Replicas) -> Callable[..., Tensor]:
        """The step for what these replicas need, compiled if asked for."""
        has = {name: bool((x != 0).any()) for name, x in replicas.cells.items()}
        names = ("momentum", "label_noise", "gradient_noise")
        kind = StepKind(self.optimizer, *(has.get(name, False) for name in names))
        if kind not in self._steps:
            plain = make_step(self.model, self.loss, kind)
            self._steps[kind] = compiled_step(plain) if self.compile else plain
        return self._steps[kind]

    def _constraint(self, theta: Tensor, verb: int) -> Callable[[dict[str, Tensor]], None]:
        """What applies the plan to the stacked parameters in place, given the rates of a step."""
        if self.make_plan is None or verb == NONE:
            return lambda rates: None
        plan = self.make_plan(self.model.parameters(theta), len(theta))

        def constrain(rates: dict[str, Tensor]) -> None:
            amount = (rates["lr"] * rates["strength"]).expand(len(theta), plan.groups)
            if verb == PROJECT:
                plan.project_()
            elif verb == SHRINK:
                plan.shrink_(amount)
            else:
                plan.prox_(amount)

        return constrain

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
        X, Y = moved(X, theta), moved(Y, theta)
        classes = not Y.is_floating_point()

        def one(row: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model(row, X)
            loss = self.loss(output, Y)
            wrong = (output.argmax(1) != Y).double().mean() if classes else loss
            return loss, wrong

        count = max(1, MEASURE_NUMBERS // (len(X) * self.activations))
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
            "plan": None if self.make_plan is None else _plan_of(self),
            "data_sha256": data_hash(*tensors),
        }


def _plan_of(problem: Module) -> list[Any]:
    """The symmetries of the plan, as plain data."""
    theta = torch.zeros(1, sum(problem.model.sizes))
    assert problem.make_plan is not None
    plan = problem.make_plan(problem.model.parameters(theta), 1)
    return [symmetry.to_dict() for _, symmetry in plan.entries]
