# SPDX-License-Identifier: Apache-2.0
"""Cut units out of a model: smaller parameters, and module attributes that say so."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from symfast.compress.attention import SlimAttention
from symfast.compress.units import HiddenUnits
from symfast.symmetry_group import named_tensors

Axis = tuple[str, int]  # (parameter, dim)


@dataclass
class Cut:
    """Units that leave together: one group, or the same number from each head of a layer.

    Attributes:
        hidden: the groups.
        units: per group, which units go.
    """

    hidden: list[HiddenUnits]
    units: list[Tensor] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of units that go."""
        return sum(int(units.sum()) for units in self.units)

    def parameters(self) -> set[str]:
        """Return the names of the parameters that become smaller."""
        members = [member for hidden in self.hidden for member in hidden.group.members]
        return {member.source.parameter for member in members if member.source is not None}

    def at_most(self, count: int) -> "Cut":
        """Return a cut that takes only ``count`` units of each group, the last ones."""
        fewer = []
        for units in self.units:
            chosen = torch.zeros_like(units)
            chosen[units.nonzero().flatten()[-count:]] = True
            fewer.append(chosen)
        return Cut(self.hidden, fewer)

    def removals(self) -> dict[Axis, set[int]]:
        """Return which indices of which parameter dims go."""
        gone: dict[Axis, set[int]] = defaultdict(set)
        for hidden, units in zip(self.hidden, self.units, strict=True):
            for member in hidden.group.members:
                source = member.source
                assert source is not None
                indices = source.indices()[units].flatten().tolist()
                gone[source.parameter, source.dim] |= set(indices)
        return gone

    def sizes(self) -> dict[int, int]:
        """Return how sizes change: old -> new, of axes and of the units of one group."""
        hidden, units = self.hidden[0], self.units[0]
        return {hidden.m: hidden.m - int(units.sum())}


def plan_cuts(spaces: Sequence[HiddenUnits]) -> list[Cut]:
    """Choose what can leave: heads of one layer lose equally many units; one unit stays."""
    together: dict[frozenset[Axis], list[HiddenUnits]] = defaultdict(list)
    for hidden in spaces:
        sources = [member.source for member in hidden.group.members]
        if any(source is None or source.within is not None for source in sources):
            continue  # a part of a grouped convolution cannot be cut alone
        axes = frozenset((s.parameter, s.dim) for s in sources if s is not None)
        together[axes].append(hidden)
    cuts = []
    for group in together.values():
        count = min(min(int(h.gone.sum()), h.m - 1) for h in group)
        if count:
            chosen = []
            for hidden in group:
                units = torch.zeros(hidden.m, dtype=torch.bool)
                units[hidden.gone.nonzero().flatten()[-count:]] = True
                chosen.append(units)
            cuts.append(Cut(group, chosen))
    return cuts


def equal_cuts(cuts: Sequence[Cut]) -> list[list[Cut]]:
    """Pairs of cuts in one module, made equally deep.

    Attention with a single head size can lose dims of queries and keys only with as many of its
    values, whatever more either could lose.
    """
    found = []
    for number, first in enumerate(cuts):
        for second in cuts[number + 1 :]:
            near = [
                {place for name in cut.parameters() for place in _around(name)[-2:]}
                for cut in (first, second)
            ]
            alike = first.hidden[0].m == second.hidden[0].m and near[0] & near[1]
            if alike and len(first.hidden) == len(second.hidden):
                count = min(int(units.sum()) for units in (*first.units, *second.units))
                found.append([first.at_most(count), second.at_most(count)])
    return found


def _around(name: str) -> list[str]:
    """Names of the modules that a parameter is in, from the model to the layer that owns it."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


#: How sizes changed, old to new, per module that has a smaller parameter in it.
Sizes = dict[str, dict[int, set[int]]]


def shrink_(model: nn.Module, cuts: Sequence[Cut]) -> Sizes:
    """Cut in place; return how sizes changed."""
    gone: dict[Axis, set[int]] = defaultdict(set)
    changes: Sizes = defaultdict(lambda: defaultdict(set))
    for cut in cuts:
        for axis, indices in cut.removals().items():
            gone[axis] |= indices
        for size, rest in cut.sizes().items():
            for place in {place for name in cut.parameters() for place in _around(name)}:
                changes[place][size].add(rest)
        for hidden, units in zip(cut.hidden, cut.units, strict=True):
            if "heads" in hidden.group.activation:
                _count_heads_(model, hidden, int(units.sum()))
    tensors = named_tensors(model)
    smaller: dict[int, Tensor] = {}
    for name in dict.fromkeys(name for name, _ in gone):
        tensor = old = tensors[name]
        for (parameter, dim), indices in gone.items():
            if parameter == name:
                keep = [i for i in range(old.shape[dim]) if i not in indices]
                tensor = tensor.index_select(dim, torch.tensor(keep, device=tensor.device))
                for place in _around(name):
                    changes[place][old.shape[dim]].add(len(keep))
        smaller[id(old)] = tensor.detach().clone()
    _replace_(model, smaller)
    return changes


def _count_heads_(model: nn.Module, hidden: HiddenUnits, count: int) -> None:
    """Tell the attention of ``hidden`` that it has fewer heads."""
    names = {m.source.parameter for m in hidden.group.members if m.source is not None}
    for owner in {name.rpartition(".")[0].rpartition(".")[0] for name in names}:
        attention = model.get_submodule(owner)
        if isinstance(attention, SlimAttention):
            attention.num_heads -= count


def _replace_(model: nn.Module, smaller: dict[int, Tensor]) -> None:
    """Put the smaller tensors in the places of the old ones, tied ones by one parameter."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        touched = False
        for name, old in list(module._parameters.items()):
            if old is not None and id(old) in smaller:
                fresh = made.setdefault(
                    id(old), nn.Parameter(smaller[id(old)], requires_grad=old.requires_grad)
                )
                setattr(module, name, fresh)
                touched = True
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and id(buffer) in smaller:
                module._buffers[name] = smaller[id(buffer)]
                touched = True
        if touched:
            _describe_(module)


def _describe_(module: nn.Module) -> None:
    """Let the attributes of a torch layer say the sizes that its parameters have."""
    shape = tuple(getattr(module, "weight", torch.empty(0)).shape)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        far, near = (1, 0) if module.transposed else (0, 1)
        if module.groups > 1 and shape[1] == 1 and not module.transposed:
            module.groups = shape[0]
        module.in_channels = shape[near] * (1 if module.transposed else module.groups)
        module.out_channels = shape[far] * (module.groups if module.transposed else 1)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        stored = module.running_mean if module.running_mean is not None else module.weight
        module.num_features = len(stored)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]
    elif isinstance(module, nn.RNNBase):
        module.hidden_size = int(module.get_parameter("weight_hh_l0").shape[1])
        module.input_size = int(module.get_parameter("weight_ih_l0").shape[1])


def patch_sizes_(model: nn.Module, sizes: Sizes, everywhere: bool = False) -> list[str]:
    """Replace old sizes in whole-number attributes of the user's own modules.

    In the modules that have a smaller parameter in them, or in all modules; sizes that changed in
    two ways stay.
    """
    patched = []
    for name, module in model.named_modules():
        if type(module).__module__.startswith(("torch.nn", "symfast.")):
            continue
        changes = sizes.get("" if everywhere else name, {})
        for attribute, value in list(vars(module).items()):
            if _is_size(value) and len(changes.get(value, ())) == 1:
                setattr(module, attribute, min(changes[value]))
                patched.append(f"{name}.{attribute}".lstrip("."))
    return patched


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
