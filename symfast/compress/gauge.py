# SPDX-License-Identifier: Apache-2.0
"""Biases that no output depends on: key biases, and biases before a batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from symfast.compress.workbench import Workbench
from symfast.symmetry_group import Member, SymmetryGroup


@dataclass(frozen=True)
class Gauge:
    """A bias that can go, and the stored mean that takes it over, if there is one."""

    group: SymmetryGroup
    bias: Member
    mean: Member | None

    def drop_(self) -> None:
        """Zero the bias."""
        with torch.no_grad():
            if self.mean is not None:
                self.mean.tensor.sub_(self.bias.tensor)
            self.bias.tensor.zero_()


def drop_gauge_biases(bench: Workbench) -> set[str]:
    """Zero gauge biases; return the parameters to drop, those that are now zero all over.

    softmax(q (k + b)^T) = softmax(q k^T): a key bias shifts all scores of a query alike.
    A batch norm subtracts its stored mean: ``mean - b`` without bias is the same.
    """
    found = [gauge for group in bench.groups for gauge in _gauges(group)]
    done = found if _drop(bench, found) else [gauge for gauge in found if _drop(bench, [gauge])]
    names = {gauge.bias.source.parameter for gauge in done if gauge.bias.source is not None}
    parameters = dict(bench.model.named_parameters())
    return {name for name in names if name in parameters and not bool(parameters[name].any())}


def _gauges(group: SymmetryGroup) -> list[Gauge]:
    """List the biases of a group that may be gauge; whether they are, the outputs tell."""
    flat = [m for m in group.members if m.tensor.ndim == 1 and bool(m.tensor.any())]
    means = [m for m in group.members if m.name.endswith("running_mean")]
    if means:
        movable = group.activation == "identity" and "rescale" in group.kinds and len(means) == 1
        shifts = [m for m in flat if m.role == "bias" and m is not means[0]]
        return [Gauge(group, shift, means[0]) for shift in shifts] if movable else []
    keys = [m for m in flat if m.role == "out" and "bias" in m.name.rpartition(".")[2]]
    return [Gauge(group, key, None) for key in keys]


def _drop(bench: Workbench, gauges: Sequence[Gauge]) -> bool:
    if not gauges:
        return False

    def rewrite() -> float:
        for gauge in gauges:
            gauge.drop_()
        return 0.0

    groups = list({id(gauge.group): gauge.group for gauge in gauges}.values())
    return bench.attempt("gauge bias", groups, len(gauges), rewrite)
