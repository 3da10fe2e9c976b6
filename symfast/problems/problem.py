# SPDX-License-Identifier: Apache-2.0
"""What `symfast.sweep` asks of a problem: axes, start, train, measure, describe."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

#: Names of the values of ``state["status"]``.
STATUS = ("finished", "converged", "diverged", "cancelled")
FINISHED, CONVERGED, DIVERGED, CANCELLED = range(4)
#: Numbers of hidden values that are held at once when replicas are measured.
MEASURE_NUMBERS = 1 << 24

Value: TypeAlias = float | str
#: Tensors whose first dim is the replica; "steps" and "status" (R,) int64 are always among them.
State: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Axis:
    """One hyperparameter that may differ from replica to replica.

    Args:
        default: value, or values to sweep over, where the user names none.
        low: smallest value allowed.
        high: largest value allowed.
        integer: whether only whole numbers make sense.
        choices: names, if the axis is a choice; its tensor then holds their index.

    Example:
        >>> from symfast.problems.problem import Axis
        >>> Axis(0.1).check("lr", 0.2)
        0.2
    """

    default: Value | tuple[Value, ...]
    low: float = 0.0
    high: float = math.inf
    integer: bool = False
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> Value:
        """Return the value in its type.

        Raises:
            ValueError: if it is no number, out of range, not finite, or not one of the choices.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{name} must be one of {', '.join(self.choices)}, not {value!r}")
            return str(value)
        if isinstance(value, str):
            raise ValueError(f"{name} must be a number, not {value!r}")
        number = float(value)
        if not math.isfinite(number) or number < 0 <= self.low:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
        if not self.low <= number <= self.high:
            raise ValueError(f"{name} must be {self.low:g} to {self.high:g}, got {value}")
        if self.integer and number != int(number):
            raise ValueError(f"{name} must be a whole number, got {value}")
        return int(number) if self.integer else number

    def number(self, value: Value) -> float:
        """Return the value as the tensor of a cell holds it."""
        return float(self.choices.index(str(value)) if self.choices else value)


@dataclass(frozen=True, eq=False)
class Replicas:
    """Which runs are trained together: R of them, in any order, of any cells.

    Example:
        >>> import torch
        >>> from symfast.problems.problem import Replicas
        >>> cells = {"lr": torch.tensor([0.1, 0.2])}
        >>> replicas = Replicas(cells, seeds=torch.tensor([0, 0]), keys=torch.tensor([5, 7]))
        >>> len(replicas), replicas.select(torch.tensor([1])).keys.tolist()
        (2, [7])
    """

    cells: Mapping[str, Tensor]  # (R,) float64 on the CPU for every axis of the problem
    seeds: Tensor  # (R,) int64, not negative: keys start and minibatches
    keys: Tensor  # (R,) int64, not negative: name of the cell, keys label and gradient noise

    def __len__(self) -> int:
        """Number of replicas R."""
        return len(self.seeds)

    def select(self, rows: Tensor) -> "Replicas":
        """Return some of the replicas, by index or mask."""
        cells = {name: x[rows] for name, x in self.cells.items()}
        return Replicas(cells, self.seeds[rows], self.keys[rows])


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some consecutive steps of a training run: one kernel call."""

    first: int  # steps done before; step numbers key the random numbers
    steps: int  # steps to do now
    total: int  # steps of the whole run, for schedules
    progress: Tensor  # (2,) int64; add replica steps to [0], stop soon once [1] is not 0
    options: Mapping[str, Any] = field(default_factory=dict)  # of the problem, all of them

    @contextmanager
    def counter(self, device: torch.device) -> Iterator[Tensor]:
        """Lend ``progress`` to a kernel on a device.

        A kernel elsewhere counts there, and is read when it is done: reading it meanwhile would
        wait for it.
        """
        there = self.progress.to(device)
        yield there
        self.progress[0] = there[0]


@runtime_checkable
class Problem(Protocol):
    """A training job of which `symfast.sweep` runs many replicas.

    A replica's result depends on its hyperparameters, its seed and its key alone: never on the
    other replicas, on their number or order, nor on how the steps are cut into stretches (bit for
    bit on one device and dtype). A replica that diverged keeps its last state, with status DIVERGED
    in ``state["status"]`` and the steps it took in ``state["steps"]``.

    Example:
        >>> import torch, symfast as sf
        >>> isinstance(sf.problems.Factorized(torch.eye(2), torch.ones(2)), sf.problems.Problem)
        True
    """

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Hyperparameters by name (lr, weight_decay, label_noise, ...), slowest in a grid first."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What else `train` needs, with defaults: one value for a whole sweep."""

    @property
    def replica_bytes(self) -> int:
        """Memory of one replica while it trains; chunks are cut by it."""

    def start(self, replicas: Replicas, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return the state of fresh replicas; a draw depends on cell values and seed alone."""

    def train(self, state: State, replicas: Replicas, stretch: Stretch) -> State:
        """Return the state some steps later, in one kernel call; ``state`` may be overwritten.

        Minibatch indices are keyed by (seed, step) only: all cells of one seed see the same data
        order. Label and gradient noise are keyed by (seed, key, step).
        """

    def measure(self, state: State, replicas: Replicas) -> dict[str, Tensor]:
        """Return order parameters (R,) by name."""

    def weights(self, state: State) -> Tensor:
        """Return the weights (R, p) of the models."""

    def describe(self) -> dict[str, Any]:
        """Return plain facts that identify the problem, a hash of the data included."""


def cell_key(axes: Mapping[str, Axis], cell: Mapping[str, Value]) -> int:
    """Return the 63-bit name of a cell: the same in every grid that holds these hyperparameters.

    Values at their default do not count, so that an axis added later changes no key.

    Example:
        >>> from symfast.problems.problem import Axis, cell_key
        >>> axes = {"lr": Axis(0.1), "momentum": Axis(0.9)}
        >>> cell_key(axes, {"lr": 0.5, "momentum": 0.9}) == cell_key(axes, {"lr": 0.5})
        True
    """
    named = sorted((name, x) for name, x in cell.items() if x != axes[name].default)
    digest = hashlib.blake2b(json.dumps(named).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def data_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of shapes and values, the same for every dtype that holds the values.

    Example:
        >>> import torch
        >>> from symfast.problems.problem import data_hash
        >>> data_hash(torch.ones(2)) == data_hash(torch.ones(2).double())
        True
    """
    digest = hashlib.sha256()
    for x in tensors:
        digest.update(repr(tuple(x.shape)).encode())
        digest.update(x.detach().cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()
