# SPDX-License-Identifier: Apache-2.0
"""`compress`: rewrite values, cut units, prove."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from symfast.compress.attention import join_attention_, split_attention_
from symfast.compress.constants import drop_unread, drop_zero, fold_constants
from symfast.compress.duplicates import merge_duplicates
from symfast.compress.gauge import drop_gauge_biases
from symfast.compress.norms import fold_norms
from symfast.compress.rank import truncate_rank
from symfast.compress.record import CompressionProof, Step
from symfast.compress.surgery import Cut, equal_cuts, patch_sizes_, plan_cuts, shrink_
from symfast.compress.units import HiddenUnits
from symfast.compress.workbench import Workbench
from symfast.find import find_symmetries
from symfast.find.graph import exact_arithmetic

PASSES = 10


def compress(
    model: nn.Module,
    example_input: Any,
    tol: float | Mapping[str, float] = 0.0,
    seed: int = 0,
    *,
    norms: bool = True,
    slim_attention: bool = True,
) -> tuple[nn.Module, CompressionProof]:
    r"""Return a smaller module that computes the same function, and a proof.

    On the proved symmetry groups of the model, in evaluation mode, until nothing changes:

    - unread units (all reading weights 0) and zero units (all free writing weights 0) go
    - constant units x_j = c go, ``b_next += W_next[:, j] c``
    - duplicates x_j = s x_i (s = 1; s > 0 where rescaling is free, s = -1 where signs are) go,
      ``W_next[:, i] += s W_next[:, j]``
    - linear pairs ``B^T A`` of deficient rank, also query-key and value-output of each head, get
      fewer units between them; heads that nobody reads go
    - batch norms go into the layer before or after them, if no activation or padding stands between
    - key biases, and biases before a batch norm that stays, go

    Each rewrite is checked in float64 on the example and three random inputs of its shape and
    range; a rewrite or cut after which ``max|f' - f| > limit max|f|`` is put back and logged. The
    limit is max(1e-12, 100 eps of the stored weights), or ``tol`` if larger. ``model`` is not
    changed.

    Args:
        model: any nn.Module that torch.export can trace.
        example_input: a tensor, a tuple of arguments or a mapping of keywords.
        tol: also merge rows that differ by less than ``tol`` of their norm and drop singular
            values below ``tol`` of the largest, as long as outputs change by less than ``tol``.
            A mapping gives single groups a tolerance, by their ``where``; others are exact.
        seed: of the random inputs and of the symmetry proofs.
        slim_attention: let a `SlimAttention` take the place of an ``nn.MultiheadAttention`` that
            loses dims or heads, which that class has no words for; False keeps it whole.
        norms: fold batch norms. The model then trains without them; False keeps them all.

    Returns:
        (small, proof): ``small`` has the class, dtypes and mode of ``model``, smaller parameters
        and attributes to match; `CompressionProof` has errors, steps and sizes.

    Raises:
        TypeError: if ``model`` is not an nn.Module.
        ValueError: if ``tol`` is negative, not a number, or names a group that there is not.
        TraceError: (a RuntimeError) if torch.export cannot trace the model.

    Example:
        >>> import symfast as sf, torch
        >>> fc1, fc2 = torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)
        >>> with torch.no_grad():
        ...     fc1.weight[4], fc1.bias[4] = 3 * fc1.weight[0], 3 * fc1.bias[0]
        >>> model = torch.nn.Sequential(fc1, torch.nn.ReLU(), fc2)
        >>> small, proof = sf.compress(model, torch.randn(8, 3))
        >>> small[0].out_features, proof.parameters_before, proof.parameters_after
        (4, 32, 26)
    """
    tols = dict(tol) if isinstance(tol, Mapping) else {}
    for number in tols.values() if isinstance(tol, Mapping) else (tol,):
        if not number >= 0:
            raise ValueError(f"tol is {number}; give a number >= 0")
    bench = Workbench(model, example_input, seed)
    before = bench.copy()
    replaced = _replace_attention(bench) if slim_attention else {}
    if norms:
        fold_norms(bench)
    groups = find_symmetries(bench.model, example_input, seed)
    bench.bind(groups)
    spaces = [HiddenUnits(g, bench.groups) for g in bench.groups if "permutation" in g.kinds]
    _check_names(tols, spaces)
    if not isinstance(tol, Mapping):
        tols = {hidden.group.where: tol for hidden in spaces}
    _rewrite(bench, spaces, tols)
    dropped = drop_gauge_biases(bench)
    small, cuts = _cut(bench, spaces, max(tols.values(), default=0.0))
    for name in dropped:
        owner, _, leaf = name.rpartition(".")
        small.get_submodule(owner).register_parameter(leaf, None)
    proof = CompressionProof(inputs=len(bench.inputs), steps=bench.steps)
    proof.notes = [*groups.notes, *join_attention_(small, replaced)]
    for cut in cuts:
        for hidden, units in zip(cut.hidden, cut.units, strict=True):
            where = hidden.group.where
            proof.removed[where] = proof.removed.get(where, 0) + int(units.sum())
    proof.max_error = bench.change(small)
    _restore_types(small, model)
    _measure(proof, bench, model, before, small)
    return small, proof


def _replace_attention(bench: Workbench) -> dict[str, nn.MultiheadAttention]:
    """Split every nn.MultiheadAttention into linear layers, if the model runs so."""
    model = bench.copy()
    replaced = split_attention_(model)
    if not replaced:
        return {}
    error, reason = bench.try_change(model)
    if error <= bench.limit:
        bench.model = model
        return replaced
    note = f"as linear layers: {reason or 'the outputs changed'}"
    where = ", ".join(replaced)
    bench.steps.append(Step("attention", where, len(replaced), error, 0.0, False, note))
    return {}


def _check_names(tols: Mapping[str, float], spaces: Sequence[HiddenUnits]) -> None:
    places = {hidden.group.where for hidden in spaces}
    for where in tols:
        if where not in places:
            raise ValueError(
                f"tol names the group {where!r}; there are {', '.join(sorted(places))}"
            )


def _rewrite(bench: Workbench, spaces: Sequence[HiddenUnits], tols: Mapping[str, float]) -> None:
    """Apply all value rewrites until nothing more can go."""
    for _ in range(PASSES):
        found = 0
        for hidden in spaces:
            tol = tols.get(hidden.group.where, 0.0)
            found += drop_unread(bench, hidden)
            if "heads" in hidden.group.activation:
                continue  # a unit is a whole head: nobody reads it, or it stays
            found += drop_zero(bench, hidden)
            found += fold_constants(bench, hidden)
            found += merge_duplicates(bench, hidden, tol)
            found += truncate_rank(bench, hidden, tol)
        if not found:
            return


def _cut(
    bench: Workbench, spaces: Sequence[HiddenUnits], tol: float
) -> tuple[nn.Module, list[Cut]]:
    """Cut everything at once, or what can be cut one by one if that fails."""
    cuts = plan_cuts(spaces)
    if not cuts:
        return bench.copy(), []
    small, error, note = _try_cut(bench, cuts, tol)
    if small is not None:
        _log(bench, cuts, error, note)
        return small, cuts
    kept: list[Cut] = []
    best = bench.copy()
    for together in [[cut] for cut in cuts] + equal_cuts(cuts):
        if any(
            set(map(id, cut.hidden)) & {id(h) for c in kept for h in c.hidden} for cut in together
        ):
            continue
        small, error, note = _try_cut(bench, [*kept, *together], tol)
        if small is None:
            for cut in together:
                where = cut.hidden[0].group.where
                bench.steps.append(Step("cut", where, cut.count, error, 0.0, False, note))
            continue
        kept += together
        best = small
        _log(bench, together, error, note)
    return best, kept


def _log(bench: Workbench, cuts: Sequence[Cut], error: float, note: str) -> None:
    for cut in cuts:
        where = cut.hidden[0].group.where
        bench.steps.append(Step("cut", where, cut.count, error, note=note))


def _try_cut(
    bench: Workbench, cuts: Sequence[Cut], tol: float
) -> tuple[nn.Module | None, float, str]:
    """Return the cut model, its error and a note; no model if it does not compute the same."""
    error, note = float("inf"), ""
    for patch in ("", "near", "everywhere"):
        for widen in (False, True):
            small = bench.copy()
            if widen and not _keep_scale_(small, cuts):
                continue
            sizes = shrink_(small, cuts)
            words = patch_sizes_(small, sizes, patch == "everywhere") if patch else []
            error, reason = bench.try_change(small)
            if reason:
                note = f"the model does not run without them: {reason}"
                continue
            if error <= max(bench.limit, tol):
                return small, error, f"adapted {', '.join(words)}" if words else ""
            note = "the outputs changed"
    return None, error, note


def _keep_scale_(model: nn.Module, cuts: Sequence[Cut]) -> bool:
    """Multiply queries by sqrt(new / old head size), where scores are divided by its root."""
    found = False
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for cut in cuts:
        for hidden, units in zip(cut.hidden, cut.units, strict=True):
            keys = [m for m in hidden.readers if m.tensor.ndim == 1]
            same = {m.source.dim for m in hidden.readers if m.source is not None} == {0}
            if not (same or keys) or not hidden.linear:
                continue
            found = True
            factor = ((hidden.m - int(units.sum())) / hidden.m) ** 0.5
            with torch.no_grad():
                for member in hidden.group.members:
                    if member.role in ("in", "bias") and member.source is not None:
                        member.source.of(tensors[member.source.parameter]).mul_(factor)
    return found


def _restore_types(small: nn.Module, model: nn.Module) -> None:
    """Give the parameters, buffers and modules of ``small`` the types and modes of ``model``."""
    old = dict(model.named_parameters(remove_duplicate=False))
    old_buffers = dict(model.named_buffers(remove_duplicate=False))
    default = next((p for p in old.values() if p.is_floating_point()), None)
    modes = {name: module.training for name, module in model.named_modules()}
    made: dict[int, nn.Parameter] = {}
    for name, module in small.named_modules():
        module.training = modes.get(name, model.training)
        for leaf, parameter in list(module._parameters.items()):
            like = _counterpart(old, f"{name}.{leaf}".lstrip("."), default)
            if parameter is not None and like is not None:
                if id(parameter) not in made:
                    value = parameter.detach().to(like.dtype)
                    made[id(parameter)] = nn.Parameter(value, requires_grad=like.requires_grad)
                setattr(module, leaf, made[id(parameter)])
        for leaf, buffer in module._buffers.items():
            same = old_buffers.get(f"{name}.{leaf}".lstrip("."))
            if buffer is not None and same is not None:
                module._buffers[leaf] = buffer.to(same.dtype)


def _counterpart(
    old: dict[str, nn.Parameter], name: str, default: nn.Parameter | None
) -> nn.Parameter | None:
    """The parameter of this name, or else one of the nearest module around it."""
    owner = name
    while name not in old and "." in owner:
        owner = owner.rpartition(".")[0]
        name = next((other for other in old if other.startswith(f"{owner}.")), name)
    return old.get(name, default)


def _measure(
    proof: CompressionProof, bench: Workbench, model: nn.Module, exact: nn.Module, small: nn.Module
) -> None:
    """Fill in errors and sizes; ``exact`` is the float64 copy as it was."""
    stored = copy.deepcopy(small).double().eval()
    proof.stored_error = bench.change(stored)
    proof.parameters_before = sum(p.numel() for p in model.parameters())
    proof.parameters_after = sum(p.numel() for p in small.parameters())
    proof.flops_before = count_flops(exact, bench)
    proof.flops_after = count_flops(stored, bench)


def count_flops(model: nn.Module, bench: Workbench) -> int:
    """Count the floating-point operations of products on the example input."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, where there is one

    with FlopCounterMode(display=False) as counter, exact_arithmetic(), torch.no_grad():
        args, kwargs = bench.inputs[0]
        model(*args, **kwargs)
    return int(counter.get_total_flops())
