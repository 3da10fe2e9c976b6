# SPDX-License-Identifier: Apache-2.0
"""How large the values of a traced model can be, and how far a change at one place can carry.

Norms are Euclidean over all entries of a tensor. For every input x of the example's shape, a value
has a norm of at most ``a |x| + c``, and an operator passes a change of its input on by at most its
slope (Lipschitz constant): the spectral norm of a linear layer, 1 for ReLU. Where no slope is
known (attention, gates, norms that depend on the data) the bound is infinite, and says why.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from symfast.compress.slopes import PARAMETRIC, Norms, Step, arguments, norm, slope_of
from symfast.find.graph import Exact, canonical_names, export
from symfast.find.tracer import operator_name
from symfast.symmetry_group import named_tensors

#: Norm of a value, at most ``a |x| + c``.
Size: TypeAlias = tuple[float, float]


@dataclass
class Model:
    """Sizes and slopes of the nodes of a traced model.

    Attributes:
        size: of every node.
        slopes: of every node, per node that it reads.
        uses: nodes that read a parameter, by its name.
        outputs: what the model returns, floating.
        reasons: nodes without a slope, in words.
    """

    size: dict[fx.Node, Size] = field(default_factory=dict)
    slopes: dict[fx.Node, dict[fx.Node, float]] = field(default_factory=dict)
    uses: dict[str, list[fx.Node]] = field(default_factory=dict)
    outputs: list[fx.Node] = field(default_factory=list)
    reasons: dict[fx.Node, str] = field(default_factory=dict)

    def carry(self, changes: Mapping[fx.Node, Size]) -> dict[fx.Node, Size]:
        """How far changes at some nodes move every node after them.

        Nodes in ``changes`` are moved by what is given, and by what reaches them.
        """
        moved: dict[fx.Node, Size] = {}
        for node, slopes in self.slopes.items():
            total = changes.get(node, (0.0, 0.0))
            for source, slope in slopes.items():
                if source in moved:
                    total = _plus(total, scaled(moved[source], slope))
            if any(total):
                moved[node] = total
        return moved


def analyse(
    exact: Exact,
    program: torch.export.ExportedProgram | None = None,
    norms: Norms | None = None,
) -> Model:
    """Trace a float64 model and bound its values.

    Args:
        exact: the model and an example input.
        program: the trace, if it is known; parameters are read as they are now.
        norms: spectral norms known from before.

    Raises:
        TraceError: (a RuntimeError) if it cannot be traced.

    Example:
        >>> import torch
        >>> from symfast.compress.lipschitz import analyse
        >>> from symfast.find.graph import make_exact
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> found = analyse(make_exact(layer, torch.ones(1, 2)))
        >>> [round(x, 9) for x in found.size[found.outputs[0]]]
        [3.0, 0.0]
    """
    program = export(exact) if program is None else program
    stored = named_tensors(exact.model)
    names = canonical_names(exact.model)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    model, known = Model(), {}
    norms = {} if norms is None else norms
    for node in program.graph.nodes:
        model.slopes[node] = {}
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                # whole numbers choose rows; what else is made of them has no bound
                model.size[node] = (1.0, 0.0) if _floating(node) else (0.0, math.inf)
                continue
            target = str(spec.target)
            known[node] = _constant(program, stored, target)
            model.uses[names.get(target, target)] = list(node.users)
            model.size[node] = (0.0, norm(known[node]))
        elif node.op == "call_function":
            _visit(model, node, known, norms)
        elif node.op == "output":
            model.outputs = [x for x in node.all_input_nodes if _floating(x)]
        else:
            model.size[node] = (0.0, math.inf)
    return model


def _constant(
    program: torch.export.ExportedProgram, stored: Mapping[str, Tensor], target: str
) -> Tensor:
    found = stored[target] if target in stored else program.constants.get(target)
    return found if isinstance(found, Tensor) else torch.full((), math.inf)


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _visit(model: Model, node: fx.Node, known: Mapping[fx.Node, Tensor], norms: Norms) -> None:
    """Size and slopes of one operator."""
    name = operator_name(node)
    name = "getitem" if "getitem" in str(node.target) else name.removesuffix("_")
    moving = list(node.all_input_nodes)
    if name in PARAMETRIC:
        moving = [source for source in moving if source not in known]
    found = slope_of(Step(node, arguments(node), known, moving, norms), name)
    if found is None:
        found = math.inf, math.inf
        model.reasons[node] = name
    slope, offset = found
    size = (0.0, offset)
    for source in moving:
        size = _plus(size, scaled(model.size[source], slope))
    model.size[node] = size
    model.slopes[node] = dict.fromkeys(moving, slope)


def _plus(left: Size, right: Size) -> Size:
    return left[0] + right[0], left[1] + right[1]


def scaled(size: Size, factor: float) -> Size:
    """Return a size times a slope; nothing stays nothing, however steep."""
    first, second = (part * factor if part and factor else 0.0 for part in size)
    return first, second
