# SPDX-License-Identifier: Apache-2.0
"""Losses and errors of stacked two-layer networks on all samples, a part of them at a time."""

from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from symfast.problems.problem import MEASURE_NUMBERS
from symfast.reference.replica import predict, split
from symfast.replica import Activation

if TYPE_CHECKING:
    from symfast.problems.two_layer import TwoLayer


def losses(
    problem: "TwoLayer", theta: Tensor, X: Tensor, Y: Tensor, prefix: str
) -> dict[str, Tensor]:
    """Loss, and the share of wrong classes, (R,) of theta (R, P), names with a prefix.

    Example:
        >>> import torch
        >>> from symfast.problems.two_layer import TwoLayer
        >>> from symfast.problems.two_layer_loss import losses
        >>> problem = TwoLayer(torch.ones(4, 2), torch.ones(4), hidden=3)
        >>> theta = torch.zeros(1, problem.parameters)
        >>> losses(problem, theta, problem.X, torch.ones(4, 1), "test_")
        {'test_loss': tensor([1.])}
    """
    rows = max(1, MEASURE_NUMBERS // (len(X) * problem.hidden))
    values, errors = [], []
    for part in theta.split(rows):
        weights = split(part, problem.inputs, problem.hidden, problem.outputs, problem.bias)
        f = predict(X, weights, get_args(Activation).index(problem.activation))[1]
        if problem.loss == "mse":
            values.append((f - Y).square().mean((1, 2)))
        else:
            values.append(-(f.log_softmax(-1) * Y).sum(-1).mean(-1))
            wrong = (f.argmax(-1) != Y.argmax(-1)).double().mean(-1)
            errors.append(torch.where(part.isfinite().all(1), wrong, torch.nan))
    found = {f"{prefix}loss": torch.cat(values)}
    return found | ({f"{prefix}error": torch.cat(errors)} if errors else {})
