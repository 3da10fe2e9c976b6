# SPDX-License-Identifier: Apache-2.0
"""Prove symmetries: apply random elements to a float64 copy and compare its outputs."""

import torch
from torch import Tensor

from symfast.find.graph import Exact
from symfast.find.recipes import Recipe
from symfast.symmetry_group import KINDS, SymmetryGroup, named_tensors

# largest change of an output, relative to the largest output, that counts as rounding
TOLERANCE = 1e-11


class Proof:
    """Tries candidate symmetries on one float64 copy, many at once, and restores it."""

    def __init__(self, exact: Exact, seed: int) -> None:
        self.exact = exact
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors = [*exact.model.parameters(), *exact.model.buffers()]
        self.saved = [tensor.detach().clone() for tensor in self.tensors]
        self.reference = exact.outputs()
        self.runs = 1

    @property
    def repeatable(self) -> bool:
        """Whether the model gives the same outputs twice; otherwise nothing can be proved."""
        self.restore()
        return relative_change(self.reference, self.exact.outputs()) == 0.0

    def restore(self) -> None:
        """Put back all parameters and buffers."""
        with torch.no_grad():
            for tensor, saved in zip(self.tensors, self.saved, strict=True):
                tensor.copy_(saved)

    def change(self, batch: list[tuple[SymmetryGroup, str]]) -> float:
        """Return the relative change of the outputs under a random element of each."""
        for group, kind in batch:
            group.apply_(kind, self.generator)
        try:
            return relative_change(self.reference, self.exact.outputs())
        finally:
            self.runs += 1
            self.restore()

    def prove(self, batch: list[tuple[int, SymmetryGroup]], kind: str) -> dict[int, float]:
        """Return the change per candidate; a failing batch is halved until single ones fail."""
        if not batch:
            return {}
        change = self.change([(group, kind) for _, group in batch])
        if change <= TOLERANCE or len(batch) == 1:
            return {number: change for number, _ in batch}
        half = len(batch) // 2
        return self.prove(batch[:half], kind) | self.prove(batch[half:], kind)


def relative_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return max |after - before| / max |before| over all outputs; inf if any is NaN.

    An output that is zero all over has no size: its change counts as it is.
    """
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape:
            return float("inf")
        difference = torch.where(a == b, 0, (b - a).abs())  # infinities of a mask may be equal
        finite = a[a.isfinite()]
        size = float(finite.abs().max()) if finite.numel() else 1.0
        error = float(difference.max()) if difference.numel() else 0.0
        worst = max(worst, float("inf") if error != error else error / (size or 1.0))
    return worst


def prove_all(recipes: list[Recipe], exact: Exact, seed: int) -> tuple[list[set[str]], int, bool]:
    """Try every kind of every candidate.

    Returns:
        what was proved per candidate; how often the model ran; whether anything can be proved.
    """
    proof = Proof(exact, seed)
    proved: list[set[str]] = [set() for _ in recipes]
    if not proof.repeatable:
        return proved, proof.runs, False
    tensors = named_tensors(exact.model)
    groups = [recipe.bind(tensors, set()) for recipe in recipes]
    for kind in KINDS:
        batch = [(i, groups[i]) for i, recipe in enumerate(recipes) if kind in recipe.kinds]
        for number, change in proof.prove(batch, kind).items():
            recipes[number].errors[kind] = change
            if change <= TOLERANCE:
                proved[number].add(kind)
    return proved, proof.runs, True
