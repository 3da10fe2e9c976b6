# SPDX-License-Identifier: Apache-2.0
"""Hyperparameters of minibatch training that `Module` and `TwoLayer` sweep over."""

from symfast.problems.problem import Axis
from symfast.problems.schedule import SCHEDULES
from symfast.reference.unit_mirrors import CONSTRAINTS


def training_axes(
    optimizer: str, *, label_noise: bool, constraint: bool = False
) -> dict[str, Axis]:
    """Return the axes of one optimizer, slowest in a grid first.

    Args:
        optimizer: "sgd", "adam" or "adamw".
        label_noise: whether targets are numbers that noise can be added to.
        constraint: whether there are mirrors; each replica then has its own constraint, and
            ``strength``, which lr_t multiplies: the amount of a shrink, the threshold of a prox.

    Example:
        >>> from symfast.problems.training_axes import training_axes
        >>> list(training_axes("sgd", label_noise=False))[2:]
        ['batch_size', 'momentum', 'lr', 'gradient_noise', 'weight_decay']
    """
    moments = optimizer != "sgd"
    axes = {
        "schedule": Axis("constant", choices=SCHEDULES),
        **({"constraint": Axis("project", choices=CONSTRAINTS)} if constraint else {}),
        "scale": Axis(1.0),
        "batch_size": Axis(0, integer=True, high=2**31),
        "momentum": Axis(0.9 if moments else 0.0, high=1 - 1e-9),
        "lr": Axis(0.001 if moments else 0.1),
        "gradient_noise": Axis(0.0),
    }
    if label_noise:
        axes["label_noise"] = Axis(0.0)
    if moments:
        axes |= {"beta2": Axis(0.999, high=1 - 1e-9), "eps": Axis(1e-8, low=1e-30)}
    if constraint:
        axes["strength"] = Axis(0.0)
    return axes | {"weight_decay": Axis(0.0)}
