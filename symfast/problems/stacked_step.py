# SPDX-License-Identifier: Apache-2.0
"""One training step of R stacked replicas: gradient, noise and update as one function of tensors.

All parameters of a replica lie in one row of theta (R, P), so that the update is a few operations
on matrices, with rates as columns; torch.compile fuses noise and update into one pass.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from symfast.problems.draws import GRADIENT_NOISE, LABEL_NOISE, normals
from symfast.problems.problem import DIVERGED, FINISHED, State

Rule: TypeAlias = Literal["sgd", "adam", "adamw"]


@dataclass(frozen=True, eq=False)
class StackedModel:
    """A model without its parameters, which lie flat in a row each."""

    skeleton: torch.nn.Module
    shapes: Mapping[str, torch.Size]
    buffers: Mapping[str, Tensor]

    @property
    def sizes(self) -> list[int]:
        """Numbers of each parameter."""
        return [shape.numel() for shape in self.shapes.values()]

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of flat parameters (..., P) by name."""
        pieces = theta.split(self.sizes, -1)
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: x.unflatten(-1, shape) if shape else x[..., 0] for (name, shape), x in named}

    def __call__(self, theta: Tensor, x: Tensor) -> Any:
        """Output of one replica theta (P,) on a batch."""
        buffers = {
            name: x.to(theta.device, theta.dtype if x.is_floating_point() else x.dtype)
            for name, x in self.buffers.items()
        }
        state = self.parameters(theta) | buffers
        return functional_call(self.skeleton, state, (x,))


@dataclass(frozen=True)
class StepKind:
    """What a step consists of; each combination is one compiled program."""

    rule: Rule
    momentum: bool  # whether any replica has some (sgd)
    label_noise: bool
    gradient_noise: bool


def make_step(
    model: StackedModel, loss: Callable[[Any, Tensor], Tensor], kind: StepKind
) -> Callable[..., Tensor]:
    """Return ``step(theta, first, second, x, y, rates, seeds, keys, number) -> losses (R,)``.

    theta, first and second (R, P) are changed in place: first is the velocity or first moment,
    second the second moment (any shape for sgd). x (R, B, ...) and y are the minibatches, rates the
    columns (R, 1) of every hyperparameter, number the 0-d step number, from 0.

    Args:
        model: the network.
        loss: (output, target) -> mean loss of a minibatch.
        kind: which parts the step has.
    """

    def one(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return loss(model(theta, x), y)

    gradient = vmap(grad_and_value(one))

    def step(
        theta: Tensor,
        first: Tensor,
        second: Tensor,
        x: Tensor,
        y: Tensor,
        rates: dict[str, Tensor],
        seeds: Tensor,
        keys: Tensor,
        number: Tensor,
    ) -> Tensor:
        if kind.label_noise:
            count = y[0].numel()
            z = normals(seeds, keys, number, count, LABEL_NOISE, theta.dtype)
            y = y + (rates["label_noise"] * z).view_as(y)
        g, losses = gradient(theta, x, y)
        if kind.gradient_noise:
            z = normals(seeds, keys, number, theta.shape[1], GRADIENT_NOISE, theta.dtype)
            g = g + rates["gradient_noise"] * z
        if kind.rule == "sgd":
            _step_sgd(theta, first, g, rates, kind.momentum)
        else:
            _step_adam(theta, first, second, g, rates, number, kind.rule == "adamw")
        return torch.as_tensor(losses)

    return step


def compiled_step(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the compiled step, which gives way to the plain one where torch.compile cannot help.

    Example:
        >>> from symfast.problems.stacked_step import compiled_step
        >>> callable(compiled_step(lambda theta: theta))  # doctest: +SKIP
        True
    """
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


def _step_sgd(
    theta: Tensor, velocity: Tensor, g: Tensor, rates: dict[str, Tensor], momentum: bool
) -> None:
    """``v = m v + g + lam theta``, ``theta = theta - lr v``: torch.optim.SGD."""
    push = g + rates["weight_decay"] * theta
    if momentum:
        push = rates["momentum"] * velocity + push
        velocity.copy_(push)
    theta.sub_(rates["lr"] * push)


def _step_adam(
    theta: Tensor,
    first: Tensor,
    second: Tensor,
    g: Tensor,
    rates: dict[str, Tensor],
    number: Tensor,
    decoupled: bool,
) -> None:
    """torch.optim.Adam, whose decay goes through the moments, or AdamW, whose decay does not."""
    lr, beta1, beta2 = rates["lr"], rates["momentum"], rates["beta2"]
    if decoupled:
        theta.mul_(1 - lr * rates["weight_decay"])
    else:
        g = g + rates["weight_decay"] * theta
    first.copy_(beta1 * first + (1 - beta1) * g)
    second.copy_(beta2 * second + (1 - beta2) * g * g)
    taken = (number + 1).to(theta.dtype)
    scale = (second / (1 - beta2**taken)).sqrt() + rates["eps"]
    theta.sub_(lr / (1 - beta1**taken) * first / scale)


def judge(state: State, steps: int) -> None:
    """Count steps of the replicas that are alive, and mark those whose weights are not finite.

    Example:
        >>> import torch
        >>> from symfast.problems.stacked_step import judge
        >>> state = {"theta": torch.tensor([[1.0], [torch.nan]]), "steps": torch.zeros(2)}
        >>> judge(state | {"status": (status := torch.zeros(2, dtype=torch.int64))}, 100)
        >>> status.tolist()
        [0, 2]
    """
    alive = state["status"] == FINISHED
    state["steps"][alive] = steps
    lost = ~state["theta"].isfinite().all(1)
    state["status"][alive & lost] = DIVERGED
