# SPDX-License-Identifier: Apache-2.0
"""`find_symmetries`: trace, propagate, collect, prove."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from symfast.find.graph import make_exact, propagate
from symfast.find.proof import prove_all
from symfast.find.recipes import build
from symfast.symmetry_group import SymmetryGroup, named_tensors


class SymmetryGroups(list[SymmetryGroup]):
    """The groups of a model: a list, with notes in words on what splits or fixes units.

    Attributes:
        notes: sentences on operators that are not followed, uneven gains, and the like.
        runs: how often the model was run for the proofs.

    Example:
        >>> import symfast as sf, torch
        >>> layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
        >>> groups = sf.find_symmetries(torch.nn.Sequential(*layers), torch.ones(5, 3))
        >>> len(groups), groups[0].m, groups.notes
        (1, 4, [])
    """

    def __init__(self, groups: Iterable[SymmetryGroup], notes: Iterable[str], runs: int) -> None:
        super().__init__(groups)
        self.notes = list(notes)
        self.runs = runs

    def __str__(self) -> str:
        lines = [str(group) for group in self] or ["no symmetry found"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def find_symmetries(model: nn.Module, example_input: Any, seed: int = 0) -> SymmetryGroups:
    r"""Find and prove the symmetries of a model, as it computes in evaluation mode.

    The model is traced by torch.export on a float64 copy. Every index of every parameter dim is
    a unit; units that an operator ties together are united, and each operator decides which of
    permutation, sign flip, rescaling and rotation of its units it commutes with. Each candidate
    is then proved: a random element g is applied to the copy, and
    ``max|f(g theta, x) - f(theta, x)| <= 1e-11 max|f(theta, x)|`` must hold on the example input.
    ``model`` is never changed. Inputs and outputs of the model are never free.

    Meanwhile the default dtype of the whole process is float64: other threads should name the
    dtype of what they create. Analyses of several threads wait for each other.

    Args:
        model: any nn.Module that torch.export can trace.
        example_input: a tensor, a tuple of arguments or a mapping of keywords. The symmetries
            hold for inputs of other sizes only as far as the model computes the same there.
        seed: of the random group elements.

    Returns:
        A list of `SymmetryGroup` with ``notes``. Groups may share tensors: in a gated MLP the
        gate is permuted with the rest, but only the other two factors can be rescaled.

    Raises:
        TypeError: if ``model`` is not an nn.Module.
        TraceError: (a RuntimeError) if torch.export cannot trace it, with torch's reason.

    Example:
        >>> import symfast as sf, torch
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        >>> for group in sf.find_symmetries(model, torch.randn(4, 3)):
        ...     print(group)
        SymmetryGroup(0 -> tanh -> 2: m=5, permutation, sign_flip; 0.weight, 0.bias, 2.weight)
    """
    exact = make_exact(model, example_input)
    tracer = propagate(exact)
    recipes = build(tracer)
    proved, runs, provable = prove_all(recipes, exact, seed)
    notes = list(tracer.notes)
    if recipes and not provable:
        notes.append(
            "the outputs are NaN, or differ when the model runs twice: nothing can be proved"
        )
    tensors = named_tensors(model)
    groups = [recipe.bind(tensors, kinds) for recipe, kinds in zip(recipes, proved, strict=True)]
    return SymmetryGroups(groups, notes, runs)
