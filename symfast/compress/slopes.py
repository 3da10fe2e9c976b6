# SPDX-License-Identifier: Apache-2.0
"""Slopes of operators: how much each can enlarge a change, and what it adds to nothing."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from symfast.find.tracer import operator_name

#: Spectral norms of the parameters as they were, by address, version and shape.
Norms: TypeAlias = dict[tuple[Any, ...], float]
#: Largest slope of an activation, and its value at 0.
ACTIVATIONS = {
    **{name: (1.0, 0.0) for name in ("relu", "relu6", "tanh", "abs", "neg", "sin", "celu")},
    **{name: (1.0, 0.0) for name in ("atan", "asinh")},
    "sigmoid": (0.25, 0.5),
    "hardsigmoid": (1 / 6, 0.5),
    "cos": (1.0, 1.0),
    "gelu": (1.13, 0.0),
    "silu": (1.1, 0.0),
    "mish": (1.09, 0.0),
    "hardswish": (1.5, 0.0),
    "selu": (1.7581, 0.0),
    "erf": (2 / math.sqrt(math.pi), 0.0),
}
#: Every entry goes to one place, or nowhere.
MOVES = frozenset(
    ("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "flatten", "unflatten")
    + ("squeeze", "unsqueeze", "contiguous", "clone", "alias", "detach", "slice", "select")
    + ("narrow", "to", "_to_copy", "movedim", "split", "split_with_sizes", "chunk", "unbind")
    + ("numpy_T", "mT", "lift_fresh_copy", "getitem")
)
#: Operators whose rules take in the parameters among their arguments.
PARAMETRIC = frozenset(
    ("linear", "conv1d", "conv2d", "conv3d", "batch_norm", "embedding", "prelu", "add", "sub")
    + ("mul",)
)


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an operator by the names of its schema."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    schema = node.target._schema.arguments
    given = {argument.name: argument.default_value for argument in schema}
    given |= dict(zip(given, node.args, strict=False))
    return given | dict(node.kwargs)


def norm(value: Tensor | None) -> float:
    """Return the norm of a value that is known, 0 without one."""
    return float(value.double().norm()) if value is not None else 0.0


@dataclass
class Step:
    """One operator: its arguments, the values that are known, and the nodes that move."""

    node: fx.Node
    arguments: dict[str, Any]
    known: Mapping[fx.Node, Tensor]
    moving: list[fx.Node]
    norms: Norms

    def spectral(self, weight: Tensor, group: int = 0) -> float:
        """The spectral norm, measured once for a parameter as it is."""
        key = (weight.data_ptr(), weight._version, tuple(weight.shape), group)
        if key not in self.norms:
            self.norms[key] = spectral_norm(weight)
        return self.norms[key]

    def numel(self) -> int:
        """Return how many numbers the operator makes."""
        return int(self.node.meta["val"].numel())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an argument."""
        return tuple(int(size) for size in self.arguments[name].meta["val"].shape)

    def fixed(self, name: str) -> Tensor | None:
        """The value of an argument that is a parameter or buffer."""
        given = self.arguments.get(name)
        return self.known.get(given) if isinstance(given, fx.Node) else None

    def only(self, name: str) -> bool:
        """Whether this argument is all that moves."""
        return self.moving in ([], [self.arguments[name]])


Rule: TypeAlias = Callable[[Step], tuple[float, float] | None]


def _linear(step: Step) -> tuple[float, float] | None:
    weight = step.fixed("weight")
    if weight is None or not step.only("input"):
        return None
    return step.spectral(weight), _bias(step, len(weight))


def _bias(step: Step, channels: int) -> float:
    bias = step.fixed("bias")
    return norm(bias) * math.sqrt(step.numel() / max(channels, 1))


def spectral_norm(weight: Tensor) -> float:
    """Largest singular value of (out, in).

    Example:
        >>> import torch
        >>> from symfast.compress.slopes import spectral_norm
        >>> round(spectral_norm(torch.diag(torch.tensor([2.0, 3.0]))), 9)
        3.0
    """
    return float(torch.linalg.matrix_norm(weight.double(), 2)) if weight.numel() else 0.0


def _convolution(step: Step) -> tuple[float, float] | None:
    weight = step.fixed("weight")
    if weight is None or not step.only("input"):
        return None
    groups = weight.reshape(step.arguments["groups"], -1, math.prod(weight.shape[1:]))
    top = max(step.spectral(group, number) for number, group in enumerate(groups))
    return top * overlap(step.node), _bias(step, len(weight))


def overlap(node: fx.Node) -> float:
    """Root of how many windows of a convolution (1 for a linear layer) an entry can be in.

    Example:
        >>> import torch
        >>> from symfast.compress.lipschitz import analyse
        >>> from symfast.compress.slopes import overlap
        >>> from symfast.find.graph import make_exact
        >>> layer = torch.nn.Conv1d(1, 1, 8, stride=2)
        >>> overlap(analyse(make_exact(layer, torch.ones(1, 1, 8))).uses["weight"][0])
        2.0
    """
    if not operator_name(node).startswith("conv"):
        return 1.0
    given = arguments(node)
    kernel = tuple(given["weight"].meta["val"].shape[2:])
    return _windows(kernel, given["stride"], given["dilation"])


def _windows(kernel: Any, stride: Any, dilation: Any) -> float:
    count = 1
    for number, size in enumerate(kernel):
        step = stride[number % len(stride)] if len(stride) else size
        spread = dilation[number % len(dilation)]
        count *= -(-size // step) if spread == 1 else size
    return math.sqrt(count)


def _max_pool(step: Step) -> tuple[float, float] | None:
    given = step.arguments
    kernel = given["kernel_size"]
    kernel = kernel * (step.node.meta["val"].ndim - 2) if len(kernel) == 1 else kernel
    return _windows(kernel, given["stride"], given["dilation"]), 0.0


def _batch_norm(step: Step) -> tuple[float, float] | None:
    mean, variance = step.fixed("running_mean"), step.fixed("running_var")
    if step.arguments["training"] or mean is None or variance is None or not step.only("input"):
        return None
    gain, shift = step.fixed("weight"), step.fixed("bias")
    factor = (variance.double() + step.arguments["eps"]).rsqrt()
    factor = factor if gain is None else factor * gain.double()
    offset = -mean.double() * factor + (0 if shift is None else shift.double())
    return float(factor.abs().max()), norm(offset) * math.sqrt(step.numel() / len(mean))


def _add(step: Step) -> tuple[float, float] | None:
    """Sum of two values, one of which may be known, or spread over the other."""
    alpha = abs(float(step.arguments.get("alpha", 1)))
    if step.arguments["self"] is step.arguments["other"]:
        return 1 + alpha, 0.0
    slope, offset = max(1.0, alpha), 0.0
    for name in ("self", "other"):
        given = step.arguments[name]
        weight = alpha if name == "other" else 1.0
        if isinstance(given, fx.Node):
            copies = step.numel() / max(math.prod(step.shape(name)), 1)
            if given in step.known:
                offset += weight * norm(step.known[given]) * math.sqrt(copies)
            else:
                slope = max(slope, weight * math.sqrt(copies))
        else:
            offset += weight * abs(float(given)) * math.sqrt(step.numel())
    return slope, offset


def _multiply(step: Step) -> tuple[float, float] | None:
    """Product with what is known."""
    names = ("self", "other")
    if len(step.moving) != 1 or step.arguments["self"] is step.arguments["other"]:
        return None
    moving, name = names if step.arguments["self"] is step.moving[0] else names[::-1]
    fixed, factor = step.fixed(name), step.arguments[name]
    if isinstance(factor, fx.Node) and (fixed is None or not fixed.numel()):
        return None
    top = abs(float(factor)) if fixed is None else float(fixed.double().abs().max())
    return top * math.sqrt(step.numel() / max(math.prod(step.shape(moving)), 1)), 0.0


def _divide(step: Step) -> tuple[float, float] | None:
    divisor = step.arguments["other"]
    return None if isinstance(divisor, fx.Node) or not divisor else (1 / abs(divisor), 0.0)


def _cat(step: Step) -> tuple[float, float] | None:
    return math.sqrt(max(Counter(step.arguments["tensors"]).values())), 0.0


def _softmax(step: Step) -> tuple[float, float] | None:
    size = step.shape("self")
    width = size[step.arguments["dim"]] if size else 1
    return 0.5, math.sqrt(step.numel()) / max(width, 1)


def _softplus(step: Step) -> tuple[float, float] | None:
    return 1.0, math.log(2) / step.arguments["beta"] * math.sqrt(step.numel())


def _dropout(step: Step) -> tuple[float, float] | None:
    return None if step.arguments.get("train") else (1.0, 0.0)


def _pad(step: Step) -> tuple[float, float] | None:
    zeros = step.arguments.get("mode", "constant") == "constant" and not step.arguments["value"]
    return (1.0, 0.0) if zeros else None


def _share(step: Step) -> tuple[float, float] | None:
    """Means, and copies."""
    return math.sqrt(step.numel() / max(math.prod(step.shape("self")), 1)), 0.0


def _sum(step: Step) -> tuple[float, float] | None:
    return math.sqrt(math.prod(step.shape("self")) / max(step.numel(), 1)), 0.0


def _embedding(step: Step) -> tuple[float, float] | None:
    weight = step.fixed("weight")
    if weight is None:
        return None
    count = math.prod(step.shape("indices"))
    return 0.0, math.sqrt(count) * float(weight.double().norm(dim=1).max())


def _leaky(step: Step) -> tuple[float, float] | None:
    return max(1.0, abs(float(step.arguments["negative_slope"]))), 0.0


def _elu(step: Step) -> tuple[float, float] | None:
    given = step.arguments
    plain = given["scale"] == 1 and given["input_scale"] == 1
    return (max(1.0, abs(float(given["alpha"]))), 0.0) if plain else None


def _prelu(step: Step) -> tuple[float, float] | None:
    weight = step.fixed("weight")
    return None if weight is None else (max(1.0, float(weight.abs().max())), 0.0)


RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("add", "sub"), _add),
    "mul": _multiply,
    "div": _divide,
    "cat": _cat,
    "softmax": _softmax,
    "softplus": _softplus,
    "dropout": _dropout,
    "pad": _pad,
    "sum": _sum,
    **dict.fromkeys(("mean", "expand"), _share),
    "embedding": _embedding,
    "leaky_relu": _leaky,
    "elu": _elu,
    "prelu": _prelu,
}


def slope_of(step: Step, name: str) -> tuple[float, float] | None:
    """Slope of an operator and the norm of its value where all that moves is 0, if known."""
    if name in ACTIVATIONS:
        slope, zero = ACTIVATIONS[name]
        return slope, zero * math.sqrt(step.numel())
    if name in MOVES:
        return 1.0, 0.0
    rule = RULES.get(name)
    return None if rule is None else rule(step)
