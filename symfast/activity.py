# SPDX-License-Identifier: Apache-2.0
"""What the units of a live model do on example data: dormant units, units that never change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symfast.find.graph import as_arguments
from symfast.symmetry_group import SymmetryGroup

#: A unit is dormant if its mean activity is at most this share of the layer's (Sokar et al. 2023).
DORMANT = 0.025

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": nn.functional.elu,
    "softplus": nn.functional.softplus,
}


@dataclass(eq=False)
class Activity:
    """Running activity of the units of one group over all samples and positions seen."""

    total: Tensor  # (m,) sum of |h|
    low: Tensor  # (m,) smallest h
    high: Tensor  # (m,) largest h
    count: int = 0

    def add(self, h: Tensor) -> None:
        """Take in activations (samples, m)."""
        h = h.detach().to("cpu", torch.float64)
        self.total += h.abs().sum(0)
        if len(h):
            self.low = torch.minimum(self.low, h.min(0).values)
            self.high = torch.maximum(self.high, h.max(0).values)
        self.count += len(h)

    def dormant(self, share: float = DORMANT) -> list[int]:
        """Units with ``E|h_j| <= share * mean_k E|h_k|``."""
        return [int(j) for j in (self.total <= share * self.total.mean()).nonzero()[:, 0]]

    def still(self) -> list[int]:
        """Units that never changed (to 1e-6 of the largest activity seen)."""
        size = torch.maximum(self.low.abs(), self.high.abs()).max()
        return [int(j) for j in (self.high - self.low <= 1e-6 * size).nonzero()[:, 0]]


def measure_activity(
    model: nn.Module, groups: Sequence[SymmetryGroup], example_input: Any
) -> dict[int, Activity]:
    """Run the model once on the example and watch the units that one module writes.

    The activation a group names is applied to the output of the module that writes its units.
    Groups written by several modules, by parts of one, or through an unknown activation are left
    out, as are modules whose output does not have the units where its kind puts them (last dim;
    dim 1 for convolutions and batch norms). Hooks are removed, training mode is put back, and
    nothing is differentiated.

    Returns:
        activity by the group's number.

    Raises:
        whatever the model raises on the example.

    Example:
        >>> import torch
        >>> from symfast.activity import measure_activity
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> fc = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = fc.weight.copy_(torch.eye(2)), fc.bias.copy_(torch.tensor([0.0, -9.0]))
        >>> members = (Member(fc.weight, 0, "weight", "in"), Member(fc.bias, 0, "bias", "bias"))
        >>> group = SymmetryGroup(members, ("permutation",), activation="relu")
        >>> measure_activity(fc, [group], torch.ones(1, 2))[0].dormant()
        [1]
    """
    watched: dict[int, Activity] = {}
    handles = []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for number, group in enumerate(groups):
            module, activation = _writer(model, group), ACTIVATIONS.get(group.activation.lower())
            if module is None or activation is None:
                continue
            infinity = torch.full((group.m,), torch.inf, dtype=torch.float64)
            watched[number] = Activity(torch.zeros_like(infinity), infinity, -infinity)
            handles.append(
                module.register_forward_hook(_watcher(watched[number], activation, group.m))
            )
        with torch.no_grad():
            args, kwargs = as_arguments(example_input)
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return {number: activity for number, activity in watched.items() if activity.count}


def _watcher(activity: Activity, activation: Callable[[Tensor], Tensor], m: int) -> Any:
    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        channels_first = isinstance(
            module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.GroupNorm
        )
        dim = 1 if channels_first and output.ndim > 1 else -1
        if output.shape[dim] == m:
            activity.add(activation(output).movedim(dim, -1).reshape(-1, m))

    return watch


def _writer(model: nn.Module, group: SymmetryGroup) -> nn.Module | None:
    """The one module that owns, whole, every tensor that writes the units; None otherwise."""
    names = [member.name for member in group.members if member.role in ("in", "bias")]
    owners = {name.rpartition(".")[0] for name in names}
    if len(owners) != 1 or any("[" in name for name in names):
        return None
    try:
        return model.get_submodule(owners.pop())
    except AttributeError:
        return None
