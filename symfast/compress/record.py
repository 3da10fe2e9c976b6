# SPDX-License-Identifier: Apache-2.0
"""What a compression did, step by step, and how far the outputs moved."""

from dataclasses import asdict, dataclass, field
from typing import Any

from symfast.files import json_value


@dataclass(frozen=True)
class Step:
    """One rewrite of one group.

    Attributes:
        action: ``"constant"``, ``"zero"``, ``"unread"``, ``"duplicate"``, ``"rank"``,
            ``"gauge bias"``, ``"batch norm"``, ``"attention"`` or ``"cut"``.
        where: the group, in words.
        units: units it made removable (parameters for a bias).
        error: change of the outputs after it, relative to the largest output, in float64.
        bound: for approximate merges, a bound on the change of the outputs, for every input of the
            example's shape: ``|f'(x) - f(x)| <= bound sqrt(|x|^2 + 1)``, norms over all numbers of
            inputs and outputs. Infinite where no slope is known (``note`` says of what); 0 for
            exact steps.
        kept: whether the change was kept; otherwise everything was put back.
        note: why it was put back, or what is special.
        local: the same for what reads the units, per norm of what writes them with a 1 appended.
    """

    action: str
    where: str
    units: int
    error: float
    bound: float = 0.0
    kept: bool = True
    note: str = ""
    local: float = 0.0

    def __str__(self) -> str:
        state = "" if self.kept else " PUT BACK"
        bound = f", bound {self.bound:.1e}" if self.bound else ""
        note = f" ({self.note})" if self.note else ""
        head = f"{self.action}: {self.units} in {self.where}, error {self.error:.1e}"
        return f"{head}{bound}{state}{note}"


@dataclass
class CompressionProof:
    """Evidence that the small model computes the same function.

    Attributes:
        max_error: largest change of an output relative to the largest output, in float64
            arithmetic, over all inputs tried, the small model's weights in float64.
        stored_error: the same with the weights as stored in the small model's dtypes.
        inputs: how many inputs were tried: the example and random ones of its shape.
        removed: per group, the number of units cut out.
        steps: all rewrites, with those that were put back.
        parameters_before, parameters_after: numbers of parameters.
        flops_before, flops_after: floating-point operations on the example input, as counted by
            ``torch.utils.flop_counter`` (products only).
        notes: what could not be followed, in words.

    Example:
        >>> import symfast as sf, torch
        >>> layers = torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
        >>> with torch.no_grad():
        ...     _ = layers[0].weight[1].zero_(), layers[0].bias[1].zero_()
        >>> small, proof = sf.compress(torch.nn.Sequential(*layers), torch.ones(5, 3))
        >>> proof.parameters_before, proof.parameters_after, proof.max_error < 1e-12
        (26, 20, True)
    """

    max_error: float = 0.0
    stored_error: float = 0.0
    inputs: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    parameters_before: int = 0
    parameters_after: int = 0
    flops_before: int = 0
    flops_after: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bound(self) -> float:
        """Bound on the change of the outputs by all approximate merges, for every input.

        ``|f'(x) - f(x)| <= bound sqrt(|x|^2 + 1)`` for inputs of the example's shape, in exact
        arithmetic, norms over all numbers of inputs and outputs; 0 if every step was exact.
        """
        return sum(step.bound for step in self.steps if step.kept)

    def summary(self) -> str:
        """Return the outcome in one sentence."""
        return (
            f"parameters {self.parameters_before} -> {self.parameters_after}, "
            f"flops {self.flops_before} -> {self.flops_after}, "
            f"max error {self.max_error:.1e} (stored {self.stored_error:.1e}) "
            f"on {self.inputs} inputs"
        )

    def facts(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; an unknown bound is None."""
        facts = {name: json_value(value) for name, value in asdict(self).items()}
        facts["steps"] = [
            {name: json_value(value) for name, value in asdict(step).items()} for step in self.steps
        ]
        return facts | {"bound": json_value(self.bound)}

    def __str__(self) -> str:
        head = self.summary()
        cut = [f"  {count} units of {where}" for where, count in self.removed.items()]
        return "\n".join([head, *cut, *(f"  {step}" for step in self.steps)])
