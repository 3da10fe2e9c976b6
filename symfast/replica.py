# SPDX-License-Identifier: Apache-2.0
"""Whole trainings of many two-layer networks in one operator call, in place."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from symfast import ops
from symfast.reference import replica as reference
from symfast.reference.unit_mirrors import NONE
from symfast.symmetry import Cluster, SignFlip, Swap, Symmetry

Activation = Literal["identity", "relu", "tanh"]
Loss = Literal["mse", "cross_entropy"]
Rule = Literal["sgd", "adam", "adamw"]

#: Largest numbers of inputs, hidden units and outputs; csrc/replica.h has the same numbers.
MOST_INPUTS, MOST_HIDDEN, MOST_OUTPUTS = 256, 256, 64

ops.define(
    "replica_sweep_",
    "(Tensor x, Tensor y, Tensor(a!) theta, Tensor(b!) first, Tensor(c!) second, Tensor rates, "
    "Tensor schedule, Tensor kind, Tensor seed, Tensor cell, Tensor batch, Tensor constraint, "
    "Tensor offsets, Tensor members, Tensor directions, Tensor(d!) status, Tensor(e!) taken, "
    "Tensor(f!) progress, int hidden, bool bias, int activation, int loss, int rule, "
    "int first_step) -> ()",
    reference.replica_sweep_,
)


class UnitMirrors(NamedTuple):
    """Mirrors of h hidden units: groups of units first, then directions, one after the other."""

    offsets: Tensor  # (groups + 1,) int64, group g is members[offsets[g]:offsets[g + 1]]
    members: Tensor  # int64; a group of one unit is its sign flip, of several their permutation
    directions: Tensor  # (k, h), orthonormal rows

    @classmethod
    def of(cls, symmetries: Sequence[Symmetry], hidden: int) -> "UnitMirrors":
        """Return the tables of SignFlip, Swap, Cluster, Direction and Mirror(h, k).

        Raises:
            ValueError: if a symmetry is not one of ``hidden`` units.

        Example:
            >>> import symfast as sf
            >>> from symfast.replica import UnitMirrors
            >>> tables = UnitMirrors.of([sf.Swap([0], [2]), sf.SignFlip([1])], hidden=3)
            >>> tables.offsets.tolist(), tables.members.tolist()
            ([0, 2, 3], [0, 2, 1])
        """
        groups: list[list[int]] = []
        rows = [torch.zeros(0, hidden, dtype=torch.float64)]
        for symmetry in symmetries:
            if isinstance(symmetry, SignFlip):
                groups += [[i] for i in symmetry.indices(hidden).tolist()]
            elif isinstance(symmetry, Swap):
                groups += symmetry.indices(hidden).tolist()
            elif isinstance(symmetry, Cluster):
                groups += [part.tolist() for part in symmetry.members(hidden)]
            else:
                frame = symmetry.frame(hidden)
                if frame.ndim != 2:
                    raise ValueError(f"a mirror of units has a frame ({hidden}, k), not a batch")
                rows.append(frame.T)
        offsets = torch.tensor([0, *map(len, groups)]).cumsum(0)
        members = torch.tensor([i for group in groups for i in group], dtype=torch.int64)
        return cls(offsets, members, torch.cat(rows))

    def to(self, like: Tensor) -> "UnitMirrors":
        """Return the tables on a tensor's device, directions in its dtype."""
        offsets, members = self.offsets.to(like.device), self.members.to(like.device)
        return UnitMirrors(offsets, members, self.directions.to(like).contiguous())


def parameter_count(inputs: int, hidden: int, outputs: int, bias: bool = True) -> int:
    """Number P of parameters: W1 (h, i), b1 (h), W2 (o, h), b2 (o), in this order.

    Example:
        >>> from symfast.replica import parameter_count
        >>> parameter_count(16, 32, 1)
        577
    """
    return hidden * (inputs + outputs) + (hidden + outputs) * bias


def replica_sweep_(
    x: Tensor,
    y: Tensor,
    theta: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    rates: dict[str, Tensor],
    schedule: Tensor,
    kind: Tensor,
    seed: Tensor,
    cell: Tensor,
    batch: Tensor,
    status: Tensor,
    taken: Tensor,
    hidden: int,
    bias: bool = True,
    activation: Activation = "relu",
    loss: Loss = "mse",
    rule: Rule = "sgd",
    first_step: int = 0,
    progress: Tensor | None = None,
    mirrors: UnitMirrors | None = None,
    constraint: Tensor | None = None,
) -> None:
    """Train R networks ``f(x) = W2 act(W1 x + b1) + b2`` for some steps, all in one kernel call.

    Step t draws its minibatch from (seed, t) with replacement, adds label noise to the targets and
    gradient noise to the gradient g of the mean loss, both drawn from (seed, cell, t), and updates
    as torch.optim's SGD (``v = m v + g + c theta, theta = theta - lr_t v``), Adam or AdamW; then
    the mirrors of the hidden units are applied with the amount ``lr_t strength``, as the
    constraints of `symfast.optim` are. A replica gives the same bits alone and with others, and in
    one call and in several, on the same processor. Replicas whose status is not 0 are left alone.
    No gradient flows.

    Args:
        x: (n, i) inputs, float32 or float64, contiguous like all that follow.
        y: (n, o) targets; for cross_entropy rows that sum to one.
        theta: (R, P), see `parameter_count`; overwritten.
        first: (R, P) velocity or first moment; overwritten.
        second: (R, P) second moment, overwritten; (R, 0) for sgd.
        rates: (R,) tensors by the names of `symfast.reference.replica.RATES`; missing ones are 0.
        schedule: (kinds, steps) factors of lr for the steps to do.
        kind: (R,) int64, row of the schedule.
        seed: (R,) int64.
        cell: (R,) int64 in [0, 2^32).
        batch: (R,) int64 batch size, 0 for all samples in order.
        status: (R,) int64, overwritten: 0 finished, 2 diverged (all parameters NaN), 3 cancelled.
        taken: (R,) int64, overwritten: steps taken, counted from step 0.
        hidden: number of hidden units h.
        bias: whether b1 and b2 exist.
        activation: "identity", "relu" or "tanh".
        loss: "mse", the mean over samples and outputs, or "cross_entropy".
        rule: "sgd", "adam" (decay coupled, through the moments) or "adamw" (decoupled).
        first_step: number of the first step, which keys the random numbers.
        progress: (2,) int64; the kernel adds replica steps to [0] and stops if [1] is set.
        mirrors: of the hidden units, see `UnitMirrors`; moments are left as they are.
        constraint: (R,) int64: 0 none, 1 project, 2 shrink, 3 prox.

    Raises:
        ValueError: if a name is unknown.
        RuntimeError: if shapes, dtypes, devices or layouts do not fit.

    Example:
        >>> import torch
        >>> from symfast.replica import parameter_count, replica_sweep_
        >>> x, zero = torch.randn(64, 2), torch.zeros(3, dtype=torch.int64)
        >>> theta = 0.5 * torch.randn(3, parameter_count(2, 4, 1))
        >>> replica_sweep_(
        ...     x, x[:, :1] * x[:, 1:], theta, torch.zeros_like(theta), theta.new_empty(3, 0),
        ...     rates={"lr": torch.tensor([0.01, 0.1, 0.2])}, schedule=torch.ones(1, 100),
        ...     kind=zero, seed=zero, cell=zero, batch=zero + 8, status=zero.clone(),
        ...     taken=zero.clone(), hidden=4, activation="tanh",
        ... )
        >>> bool(theta.isfinite().all())
        True
    """
    codes = [
        _code("activation", activation, Activation),
        _code("loss", loss, Loss),
        _code("rule", rule, Rule),
    ]
    if progress is None:
        progress = torch.zeros(2, dtype=torch.int64, device=theta.device)
    if constraint is None:
        constraint = torch.full_like(status, NONE)
    tables = (mirrors or UnitMirrors.of((), hidden)).to(theta)
    with torch.no_grad():
        torch.ops.symfast.replica_sweep_.default(
            x, y, theta, first, second, _rate_table(rates, theta), schedule, kind, seed, cell,
            batch, constraint, *tables, status, taken, progress, hidden, bias, *codes, first_step,
        )  # fmt: skip


def _code(name: str, value: str, kinds: Any) -> int:
    """The operator's number of a named choice."""
    if value not in get_args(kinds):
        raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, not {value!r}")
    return get_args(kinds).index(value)


def _rate_table(rates: dict[str, Tensor], theta: Tensor) -> Tensor:
    """Rates (names, R) in the operator's order; missing ones are 0."""
    unknown = set(rates) - set(reference.RATES)
    if unknown:
        raise ValueError(
            f"rates are {', '.join(reference.RATES)}, not {', '.join(sorted(unknown))}"
        )
    zero = theta.new_zeros(len(theta))
    return torch.stack([rates.get(name, zero).to(theta) for name in reference.RATES])
