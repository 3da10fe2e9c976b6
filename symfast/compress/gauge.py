# SPDX-License-Identifier: Apache-2.0
"""Biases that no output depends on: key biases, and biases before a batch norm."""

import torch

from symfast.compress.workbench import Workbench
from symfast.symmetry_group import Member, SymmetryGroup


def drop_gauge_biases(bench: Workbench) -> set[str]:
    """Zero gauge biases; return the parameters to drop, those that are now zero all over.

    softmax(q (k + b)^T) = softmax(q k^T): a key bias shifts all scores of a query alike.
    A batch norm subtracts its stored mean: ``mean - b`` without bias is the same.
    """
    zeroed: set[str] = set()
    for group in bench.groups:
        keys = [m for m in group.members if m.role == "out" and m.name.split("[")[0][-4:] == "bias"]
        means = [m for m in group.members if m.name.endswith("running_mean")]
        shifts = [m for m in group.members if m.role == "bias" and m not in means]
        keys = [m for m in keys if m.tensor.ndim == 1 and bool(m.tensor.any())]
        if keys and _zero(bench, group, keys, None):
            zeroed |= _names(keys)
        elif len(means) == 1 and len(shifts) == 1 and bool(shifts[0].tensor.any()):
            if _zero(bench, group, shifts, means[0]):
                zeroed |= _names(shifts)
    parameters = dict(bench.model.named_parameters())
    return {name for name in zeroed if name in parameters and not bool(parameters[name].any())}


def _names(members: list[Member]) -> set[str]:
    return {m.source.parameter for m in members if m.source is not None}


def _zero(
    bench: Workbench, group: SymmetryGroup, biases: list[Member], mean: Member | None
) -> bool:
    def rewrite() -> float:
        with torch.no_grad():
            for bias in biases:
                if mean is not None:
                    mean.tensor.sub_(bias.tensor)
                bias.tensor.zero_()
        return 0.0

    return bench.attempt("gauge bias", group, group.m, rewrite, 0.0)
