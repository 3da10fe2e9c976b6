# SPDX-License-Identifier: Apache-2.0
"""Steps on ragged lists of parameters, as arguments of symfast::update_."""

import copy
from typing import Any

import torch

from symfast.reference import update as formula

#: name -> rule, row of settings (lr, decay, decoupled, first, second, eps, nesterov, sign, noise,
#: sigma, spread).
STEPS: dict[str, tuple[int, tuple[float, ...]]] = {
    "sgd": (0, (0.1, 0, 0, 0, 1, 0, 0, 1, 0, -1, 0)),
    "sgd decay": (0, (0.1, 0.3, 0, 0, 1, 0, 0, -1, 0, -1, 0)),
    "sgd momentum": (0, (0.1, 0, 0, 0.9, 0.7, 0, 0, 1, 0, -1, 0)),
    "sgd nesterov decay": (0, (0.1, 0.3, 0, 0.9, 1, 0, 1, 1, 0, -1, 0)),
    "sgd noise": (0, (0.1, 0, 0, 0, 1, 0, 0, 1, 0.5, -1, 0)),
    "sgd anchor": (0, (0.1, 0.3, 0, 0.9, 1, 0, 0, 1, 0, 0.5, 0)),
    "sgd anchor spread noise": (0, (0.1, 0.3, 0, 0, 1, 0, 0, 1, 0.2, 0.5, 0.4)),
    "adam": (1, (0.1, 0, 0, 0.9, 0.99, 1e-8, 0, 1, 0, -1, 0)),
    "adam decay": (1, (0.1, 0.3, 0, 0.9, 0.99, 1e-8, 0, -1, 0, -1, 0)),
    "adamw": (1, (0.1, 0.3, 1, 0.9, 0.99, 1e-8, 0, 1, 0, -1, 0)),
    "adamw anchor noise": (1, (0.1, 0.3, 1, 0.9, 0.99, 1e-8, 0, 1, 0.1, 0.5, 0.4)),
}
SHAPES = [(3, 5), (1,), (40, 30), (0,), (129,), (64, 10)]
SEEDS = (2**63 - 5, -17)


def arguments(name: str, dtype: torch.dtype, shapes: Any = SHAPES) -> list[Any]:
    """A step's arguments, the same at every call; Adam has taken three steps already."""
    rule, row = STEPS[name]
    make = torch.Generator().manual_seed(5)

    def numbers() -> list[torch.Tensor]:
        made = [torch.randn(*s, generator=make, dtype=torch.float64) for s in shapes]
        return [t.to(dtype) for t in made]

    params, grads, first = numbers(), numbers(), numbers()
    second = [t * t for t in numbers()] if rule == formula.ADAM else []
    if rule == formula.SGD and not row[formula.FIRST]:
        first = []
    counted = rule == formula.ADAM or row[formula.NOISE]
    steps = [torch.tensor(3.0) for _ in shapes] if counted else []
    settings = torch.tensor([STEPS["sgd"][1], row], dtype=torch.float64)
    keys = torch.tensor([(1, *SEEDS, n) for n in range(len(shapes))], dtype=torch.int64)
    return [rule, params, grads, first, second, steps, settings, keys]


def expected(given: list[Any], **options: Any) -> list[Any]:
    """The same after the reference's step in float64."""
    wide = copy.deepcopy(given)
    for i in (1, 2, 3, 4):
        wide[i] = [t.double() for t in wide[i]]
    formula.update_(*wide, **options)
    return wide


def changed(arguments: list[Any]) -> list[torch.Tensor]:
    """The tensors that a step writes."""
    return [*arguments[1], *arguments[3], *arguments[4], *arguments[5]]
