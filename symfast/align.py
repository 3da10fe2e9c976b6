# SPDX-License-Identifier: Apache-2.0
"""Align a model with an anchor along its symmetries, and measure the barrier between them.

Sources: Ainsworth et al., "Git Re-Basin", ICLR 2023 (permutations); Zhang et al., "Beyond the
Permutation Symmetry of Transformers", ICML 2025 (rotations and scales of attention heads).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from symfast.extras import need
from symfast.find import find_symmetries
from symfast.find.graph import Exact, make_exact
from symfast.find.proof import relative_change
from symfast.symmetry_group import SymmetryGroup, SymmetryGroupError
from symfast.unit_match import distance, match_, rotations

#: A group of the model, and the same one of the anchor.
Pair: TypeAlias = tuple[SymmetryGroup, SymmetryGroup]
#: Order of the moves on a group.
ORDER = ("permutation", "rotation", "sign_flip", "rescale", "scale")
#: A move may change outputs by this much of the largest output, in float64.
EXACT = 1e-9
#: The aligned weights, rounded to the model's dtype, may change outputs by this much.
ROUNDED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Alignment:
    """An aligned copy of a model, with the proof that it computes the same.

    Attributes:
        model: the aligned copy.
        before: Euclidean distance of all parameters to the anchor's, before.
        after: the same, after.
        error: largest change of an output on the example input, relative to the largest output.
        moves: (round, group, kind, group's distance after) of every move that was kept; round -1
            is the pass from the input on.
        rejected: (group with its first member, kind) of moves rolled back because outputs changed
            beyond rounding.
    """

    model: nn.Module
    before: float
    after: float
    error: float
    moves: tuple[tuple[int, str, str, float], ...]
    rejected: tuple[tuple[str, str], ...]


def align(model: nn.Module, anchor: nn.Module, example_input: Any, **options: Any) -> nn.Module:
    """Return a copy of the model, moved along its symmetries as near to the anchor as they go.

    The copy computes the same function. See `match_models`, which also returns the proof.

    Args:
        model: the model to be moved; it is not changed.
        anchor: a model with the same parameter names and shapes; it is not changed.
        example_input: a tensor, a tuple of arguments or a mapping of keywords.
        options: ``kinds`` and ``rounds`` of `match_models`.

    Raises:
        ValueError, RuntimeError: as `match_models`.

    Example:
        >>> import copy, symfast as sf, torch
        >>> anchor = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> x, model = torch.randn(5, 3), copy.deepcopy(anchor)
        >>> sf.find_symmetries(model, x)[0].apply_("permutation")
        >>> aligned = sf.align(model, anchor, x)
        >>> torch.allclose(aligned[0].weight, anchor[0].weight, atol=1e-6)
        True
    """
    return match_models(model, anchor, example_input, **options).model


def match_models(
    model: nn.Module,
    anchor: nn.Module,
    example_input: Any,
    *,
    kinds: tuple[str, ...] = ORDER,
    rounds: int = 20,
) -> Alignment:
    """Align and return the aligned copy with distances, moves and proof.

    Every symmetry group found (and proved) on the model is moved in turn, in float64, to the
    element nearest to the anchor, until a round brings the groups less than 1e-9 nearer. A move
    that does not bring its group nearer, or that changes an output by more than rounding, is
    rolled back. The search runs twice, from the weights as they are and after a pass from the
    input on that compares only what writes the units; the nearer end counts. Heads are permuted by
    their raw weights: a permutation hidden under rotations of each head may be missed, and of the
    general linear freedom between two linear layers only rotation and scales are searched.

    Args:
        model: the model to be moved; it is not changed.
        anchor: a model with the same parameter names and shapes; it is not changed.
        example_input: a tensor, a tuple of arguments or a mapping of keywords.
        kinds: which symmetries to use, of permutation, rotation, sign_flip, rescale, scale.
        rounds: largest number of rounds over the groups.

    Raises:
        ValueError: if the anchor's parameters differ in name or shape, or a kind is unknown.
        RuntimeError: if the model cannot be traced, or the aligned copy, rounded to the model's
            dtype, changes outputs by more than that rounding explains.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.align import match_models
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(3, 9), torch.nn.Tanh(),
        ...                             torch.nn.Linear(9, 2)) for _ in range(2))
        >>> found = match_models(a, b, torch.randn(5, 3))
        >>> found.after < found.before, found.error < 1e-5
        (True, True)
    """
    unknown = [kind for kind in kinds if kind not in ORDER]
    if unknown:
        raise ValueError(f"unknown kinds {unknown}; choose from {', '.join(ORDER)}")
    if "permutation" in kinds:
        need("an alignment by permutation", "models", "scipy")
    _check_pair(model, anchor)
    exact = make_exact(model, example_input)
    target = copy.deepcopy(anchor).double().eval().requires_grad_(False)
    groups = [group.of(exact.model) for group in find_symmetries(model, example_input)]
    try:
        pairs = [(group, group.of(target)) for group in groups]
    except SymmetryGroupError as error:
        raise ValueError(f"the anchor does not have the model's parameters: {error}") from error
    before, wanted = _distance(exact.model, target), exact.outputs()
    search = _Search(exact, wanted, pairs, [kind for kind in ORDER if kind in kinds])
    search.run_both(target, rounds)
    aligned = copy.deepcopy(model)
    aligned.load_state_dict(exact.model.state_dict())
    change = relative_change(wanted, make_exact(aligned, example_input).outputs())
    limit = max((ROUNDED[p.dtype] for p in model.parameters() if p.dtype in ROUNDED), default=EXACT)
    if not change <= limit:
        raise RuntimeError(
            f"the aligned model's outputs differ by {change:.1e} of their size, more than rounding "
            f"to its dtype explains ({limit:.0e}); the model is unchanged"
        )
    after = _distance(aligned, target)
    return Alignment(aligned, before, after, change, tuple(search.moves), tuple(search.rejected))


class _Search:
    """Alternating moves over groups; what does not help or does not hold is rolled back."""

    def __init__(
        self,
        exact: Exact,
        wanted: list[Tensor],
        pairs: list[Pair],
        kinds: list[str],
    ) -> None:
        self.exact, self.wanted, self.kinds = exact, wanted, kinds
        # heads of a layer share no number, so that their rotations are found in one call
        self.alike: dict[tuple[str, int, tuple[str, ...]], list[Pair]] = {}
        for group, anchor in pairs:
            key = (group.where, group.m, tuple(self._kinds_of(group)))
            self.alike.setdefault(key, []).append((group, anchor))
        self.moves: list[tuple[int, str, str, float]] = []
        self.rejected: list[tuple[str, str]] = []
        self._refused: set[tuple[int, str]] = set()

    def run_both(self, target: nn.Module, rounds: int) -> None:
        """Search from the weights as they are and from a pass over what writes the units."""
        start = copy.deepcopy(self.exact.model.state_dict())
        self.run(rounds)
        plain, moves = copy.deepcopy(self.exact.model.state_dict()), self.moves
        near = _distance(self.exact.model, target)
        self.exact.model.load_state_dict(start)
        self.moves = []
        self._go_over(-1)
        self.run(rounds)
        if near <= _distance(self.exact.model, target):
            self.exact.model.load_state_dict(plain)
            self.moves = moves

    def run(self, rounds: int) -> None:
        """Go over all groups until nothing moves."""
        for number in range(rounds):
            if self._go_over(number) <= 1e-9:
                return

    def _go_over(self, number: int) -> float:
        """Try every move once; return how much nearer the groups came."""
        gained = 0.0
        for (_, _, kinds), pairs in self.alike.items():
            for kind in kinds:
                found = rotations(pairs, number < 0) if kind == "rotation" else [None] * len(pairs)
                for (group, anchor), rotation in zip(pairs, found, strict=True):
                    gained += self._try(number, group, anchor, kind, rotation)
        return gained

    def _kinds_of(self, group: SymmetryGroup) -> list[str]:
        kinds = [kind for kind in self.kinds if kind in group.kinds]
        if "rotation" in kinds:  # O(m) contains permutations and signs
            kinds = [kind for kind in kinds if kind not in ("permutation", "sign_flip")]
        return kinds

    def _try(
        self,
        number: int,
        group: SymmetryGroup,
        anchor: SymmetryGroup,
        kind: str,
        rotation: Tensor | None,
    ) -> float:
        """Make one move; return how much nearer it brought the group, 0 if rolled back."""
        if (id(group), kind) in self._refused:  # heads share their place: it is no name
            return 0.0
        saved = [member.tensor.clone() for member in group.members]
        before = distance(group, anchor)
        match_(group, anchor, kind, number < 0, rotation)
        after = distance(group, anchor)
        if number < 0 or after < before * (1 - 1e-12):
            if relative_change(self.wanted, self.exact.outputs()) <= EXACT:
                self.moves.append((number, group.where, kind, after))
                return before - after
            self._refused.add((id(group), kind))
            self.rejected.append((f"{group.where} [{group.members[0].name}]", kind))
        with torch.no_grad():
            for member, tensor in zip(group.members, saved, strict=True):
                member.tensor.copy_(tensor)
        return 0.0


def _check_pair(model: nn.Module, anchor: nn.Module) -> None:
    if not isinstance(anchor, nn.Module):
        raise TypeError(f"anchor is a {type(anchor).__name__}; give a torch.nn.Module")
    ours = {name: tuple(p.shape) for name, p in model.named_parameters()}
    theirs = {name: tuple(p.shape) for name, p in anchor.named_parameters()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"model and anchor must have the same parameters; {name} is "
                f"{ours.get(name, 'absent')} in the model, {theirs.get(name, 'absent')} in the "
                "anchor"
            )
    if not all(bool(p.isfinite().all()) for x in (model, anchor) for p in x.parameters()):
        raise ValueError("model and anchor must have finite parameters; some are NaN or infinite")


def _distance(a: nn.Module, b: nn.Module) -> float:
    theirs = dict(b.named_parameters())
    squares = [(p - theirs[name]).double().square().sum() for name, p in a.named_parameters()]
    return float(torch.stack(squares).sum().sqrt().detach()) if squares else 0.0


def loss_barrier(
    model: nn.Module, anchor: nn.Module, loss: Callable[[nn.Module], Tensor], points: int = 11
) -> tuple[float, list[float]]:
    """Height of the loss on the straight line between two models over the chord.

    ``max_t L((1-t) a + t b) - (1-t) L(a) - t L(b)`` over ``points`` equal steps of t; buffers are
    interpolated too. Both models are left as they are.

    Args:
        model: a, at t = 0.
        anchor: b, at t = 1; same parameter names and shapes.
        loss: maps a module to its loss, a scalar tensor; called without gradients, in eval mode.
        points: number of t, ends included.

    Returns:
        The barrier (>= 0 up to rounding) and the losses at all points.

    Raises:
        ValueError: if parameters differ in name or shape, or points < 2.

    Example:
        >>> import symfast as sf, torch
        >>> a, b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> height, losses = sf.loss_barrier(a, b, lambda net: net.weight.square().sum())
        >>> height <= 1e-6, len(losses)  # a convex loss has no barrier
        (True, 11)
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    _check_pair(model, anchor)
    first, last = model.state_dict(), anchor.state_dict()
    between = copy.deepcopy(model).eval()
    losses: list[float] = []
    with torch.no_grad():
        for i in range(points):
            t = i / (points - 1)
            between.load_state_dict({
                name: torch.lerp(value, last[name].to(value), t)
                if value.is_floating_point()
                else value
                for name, value in first.items()
            })  # fmt: skip
            losses.append(float(loss(between)))
    ends = [losses[0] + (losses[-1] - losses[0]) * i / (points - 1) for i in range(points)]
    return max(a - b for a, b in zip(losses, ends, strict=True)), losses
