# SPDX-License-Identifier: Apache-2.0
"""A float64 copy of the model on which rewrites are tried, checked and put back."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symfast.compress.bound import Bound, Bounds
from symfast.compress.record import Step
from symfast.find.graph import Exact, exact_arithmetic, floating_outputs, make_exact
from symfast.find.proof import relative_change
from symfast.symmetry_group import SymmetryGroup, named_tensors

RANDOM_INPUTS = 3
#: What a model may raise that was built for other sizes or modules than it got.
RUN_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def rounding_limit(model: nn.Module) -> float:
    """Return the relative change of outputs that counts as rounding of the stored weights."""
    eps = weight_eps(model)
    return max(1e-12, 100 * eps) if eps < 1e-4 else 8 * eps


def weight_eps(model: nn.Module) -> float:
    """Return the rounding of the coarsest floating parameter."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((torch.finfo(dtype).eps for dtype in types), default=2.0**-52)


class Workbench:
    """The copy, its groups, the inputs and the outputs that must not change."""

    def __init__(self, model: nn.Module, example_input: Any, seed: int) -> None:
        self.exact: Exact = make_exact(model, example_input)
        self.model = self.exact.model
        self.groups: list[SymmetryGroup] = []
        self.limit, self.eps = rounding_limit(model), weight_eps(model)
        self.steps: list[Step] = []
        self._known: Bounds | None = None
        generator = torch.Generator().manual_seed(seed)
        self.inputs = [(self.exact.args, self.exact.kwargs)]
        for _ in range(RANDOM_INPUTS):
            self.inputs.append(random_like(self.inputs[0], generator))
        self.reference = self.outputs(self.model)
        # random inputs may lie where the model is not defined; the example counts as it is
        good = [i for i, out in enumerate(self.reference) if not i or not any_nan(out)]
        self.inputs = [self.inputs[i] for i in good]
        self.reference = [self.reference[i] for i in good]

    def bind(self, groups: Sequence[SymmetryGroup]) -> None:
        """Take in the groups found, on the copy's own tensors."""
        tensors = named_tensors(self.model)
        self.groups = [group.of(tensors) for group in groups]

    def outputs(self, model: nn.Module) -> list[list[Tensor]]:
        """Run ``model`` on all inputs in float64."""
        with exact_arithmetic(), torch.no_grad():
            return [floating_outputs(model(*args, **kwargs)) for args, kwargs in self.inputs]

    def change(self, model: nn.Module) -> float:
        """Return the largest relative change of an output over all inputs."""
        pairs = zip(self.reference, self.outputs(model), strict=True)
        return max(relative_change(before, after) for before, after in pairs)

    def try_change(self, model: nn.Module) -> tuple[float, str]:
        """Return the change, or infinity and a reason in words if the model does not run."""
        try:
            return self.change(model), ""
        except RUN_ERRORS as failure:
            return float("inf"), first_line(failure)

    def attempt(
        self,
        action: str,
        groups: Sequence[SymmetryGroup],
        units: int,
        rewrite: Callable[[], float],
        tol: float = 0.0,
    ) -> bool:
        """Rewrite values in place; put all back unless the outputs stay within the limit.

        ``rewrite`` returns how far it moves the product of readers and writers, 0 if exact.
        """
        saved = self._save(groups)
        before = self._bounds().sizes() if tol else {}
        gap = rewrite()
        error = self.change(self.model)
        kept = error <= max(self.limit, tol)
        if not kept:
            self._put_back(saved)
        where = groups[0].where if len(groups) == 1 else f"{len(groups)} groups"
        note = "" if kept else "the outputs changed"
        bound = Bound(0.0, 0.0)
        if kept and gap:
            bound = self._bounds().of(groups[0], gap, before)
            note = f"no bound on the outputs: {bound.reason}" if bound.reason else ""
        self.steps.append(Step(action, where, units, error, bound.output, kept, note, bound.local))
        return kept

    def _bounds(self) -> Bounds:
        if self._known is None or self._known.model is not self.model:
            self._known = Bounds(self.model, self.exact)
        return self._known

    def _save(self, groups: Sequence[SymmetryGroup]) -> dict[str, Tensor | None]:
        """Copy what a rewrite of the groups may touch: members, and biases of their readers."""
        names: set[str] = set()
        for group in groups:
            for member in group.members:
                assert member.source is not None
                owner = member.source.parameter.rpartition(".")[0]
                names |= {member.source.parameter, f"{owner}.bias".lstrip(".")}
        tensors = named_tensors(self.model)
        return {name: tensors[name].clone() if name in tensors else None for name in names}

    def _put_back(self, saved: dict[str, Tensor | None]) -> None:
        """Restore saved values; drop biases made since."""
        tensors = named_tensors(self.model)
        with torch.no_grad():
            for name, value in saved.items():
                if value is not None:
                    tensors[name].copy_(value)
                elif name in tensors:
                    owner, _, leaf = name.rpartition(".")
                    self.model.get_submodule(owner).register_parameter(leaf, None)

    def copy(self) -> nn.Module:
        """Return a deep copy of the model as it stands."""
        return copy.deepcopy(self.model)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def any_nan(outputs: Sequence[Tensor]) -> bool:
    """Say whether any output holds a NaN."""
    return any(bool(out.isnan().any()) for out in outputs)


def random_like(example: Any, generator: torch.Generator) -> Any:
    """Return inputs of the same shapes, of the example's mean and spread, or integer range."""

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.numel() or leaf.dtype == torch.bool:
            return leaf
        if leaf.is_floating_point():
            if not bool(leaf.isfinite().all()):
                return leaf  # a mask
            noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            spread = float(leaf.std(correction=0)) or 1.0
            return noise.to(leaf.device) * spread + leaf.mean()
        if leaf.is_complex():
            return leaf
        low, high = int(leaf.min()), int(leaf.max())
        drawn = torch.randint(low, high + 1, leaf.shape, generator=generator)
        return drawn.to(leaf.device, leaf.dtype)

    return torch.utils._pytree.tree_map(draw, example)
