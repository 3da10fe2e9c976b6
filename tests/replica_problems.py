# SPDX-License-Identifier: Apache-2.0
"""Calls of the replica sweep that its tests share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from symfast.reference import replica as reference
from symfast.replica import UnitMirrors, parameter_count, replica_sweep_
from symfast.symmetry import Symmetry

#: Tensor arguments of the operator, in order.
ORDER = (
    "x", "y", "theta", "first", "second", "rates", "schedule", "kind", "seed", "cell", "batch",
    "constraint", "mirrors", "status", "taken",
)  # fmt: skip
ACTIVATIONS = ("identity", "relu", "tanh")
RULES = ("sgd", "adam", "adamw")
#: Arguments with a row for each replica; rates have one each, too.
PER_REPLICA = (
    "theta", "first", "second", "kind", "seed", "cell", "batch", "constraint", "status", "taken",
)  # fmt: skip
WRITTEN = ("theta", "first", "second", "status", "taken")
Call = dict[str, Any]


def problem(
    replicas: int, sizes: tuple[int, int, int], dtype: torch.dtype, steps: int = 100,
    rule: str = "sgd", loss: str = "mse", activation: str = "relu", bias: bool = True,
    noise: bool = True, symmetries: Sequence[Symmetry] = (),
) -> Call:  # fmt: skip
    """A random, stable call with mixed seeds, batch sizes, schedules, noise and constraints."""
    inputs, hidden, outputs = sizes
    x, y = (torch.randn(40, k, dtype=torch.float64) for k in (inputs, outputs))
    p = parameter_count(inputs, hidden, outputs, bias)
    theta = torch.randn(replicas, p, dtype=torch.float64) / max(inputs, hidden) ** 0.5
    number = torch.arange(replicas)
    share = torch.rand(8, replicas, dtype=torch.float64)
    rates = {
        "lr": share[0] * (0.05 if rule == "sgd" else 0.002),
        "weight_decay": 0.05 * share[1],
        "momentum": torch.where(number % 3 == 0, 0.0, 0.9 * share[2]),
        "beta2": 0.9 + 0.09 * share[3],
        "eps": 1e-3 + share[4] * 1e-3,  # not smaller: Adam would blow up rounding where g = 0
        "label_noise": share[5] * (noise and loss == "mse"),
        "gradient_noise": 0.1 * share[6] * noise,
        "strength": share[7],
    }
    schedule = torch.stack([torch.ones(steps), torch.linspace(1, 0, steps)])
    second = torch.zeros(replicas, 0 if rule == "sgd" else p)
    tensors = {
        "x": x,
        "y": y.softmax(1) if loss == "cross_entropy" else y,
        "theta": theta,
        "first": torch.zeros(replicas, p),
        "second": second,
        "schedule": schedule,
    }
    call: Call = {name: t.to(dtype).contiguous() for name, t in tensors.items()}
    call["rates"] = {name: r.to(dtype) for name, r in rates.items()}
    call |= {"kind": number % 2, "seed": number // 4 - 1, "cell": 7 * number}
    call |= {"batch": torch.tensor([8, 5, 0])[number // 2 % 3], "status": 0 * number}
    call |= {"constraint": number % 4 if symmetries else 0 * number}
    call |= {"mirrors": UnitMirrors.of(symmetries, hidden)}
    call |= {"taken": 0 * number, "hidden": hidden, "bias": bias}
    return call | {"activation": activation, "loss": loss, "rule": rule}


def run(call: Call, **change: Any) -> dict[str, Tensor]:
    """What the operator writes, from copies of its inputs; a counter of progress is no copy."""
    fresh = {
        name: x.clone() if isinstance(x, Tensor) and name != "progress" else x
        for name, x in (call | change).items()
    }
    replica_sweep_(**fresh)
    return {name: fresh[name] for name in WRITTEN}


def operands(call: Call) -> list[Tensor]:
    """The operator's tensors in order, the counter of progress last."""
    found: list[Tensor] = []
    for name in ORDER:
        if name == "rates":
            found.append(torch.stack([call["rates"][rate] for rate in reference.RATES]))
        elif name == "mirrors":
            found += call["mirrors"].to(call["theta"])
        else:
            found.append(call[name])
    return [*found, torch.zeros(2, dtype=torch.int64)]


def run_reference(call: Call) -> dict[str, Tensor]:
    fresh = {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.items()}
    codes = ACTIVATIONS.index(call["activation"]), ("mse", "cross_entropy").index(call["loss"])
    reference.replica_sweep_(
        *operands(fresh), call["hidden"], call["bias"], *codes,
        RULES.index(call["rule"]), call.get("first_step", 0),
    )  # fmt: skip
    return {name: fresh[name] for name in WRITTEN}


def select(call: Call, rows: Tensor) -> Call:
    """The same call for some of its replicas."""
    rates = {name: r[rows] for name, r in call["rates"].items()}
    return call | {name: call[name][rows] for name in PER_REPLICA} | {"rates": rates}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in WRITTEN:
        torch.testing.assert_close(
            ours[name], theirs[name], atol=0, rtol=0, equal_nan=True, msg=f"{name} differs"
        )
