# SPDX-License-Identifier: Apache-2.0
"""Take artificial symmetries off: the plain module with plain names and exact zeros."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from symfast.artificial import Attached, attached
from symfast.errors import ArtificialError


def fold(module: nn.Module, tol: float = 1e-6) -> nn.Module:
    """Replace the factors of every weight of a module by the weight itself.

    Elements (`factorize`), group norms (gates), coefficients ``O^T theta`` (`dcs`) and singular
    values (`low_rank`) below tol become exactly zero; sign flips, swaps and clusters of `dcs` then
    hold bit for bit. Nothing else changes: class, names, order and dtype are those of the plain
    module. The weights are new parameters, so make a new optimizer. 1e-6 is the threshold of spred
    (Ziyin & Wang, ICML 2023): converged factors are far below it, unconverged ones
    are decided by it.

    Args:
        module: any module; those without factors are left alone.
        tol: threshold >= 0; 0 keeps every number.

    Returns:
        the module itself.

    Raises:
        ArtificialError: (a ValueError) if tol is negative, a weight is not finite or another
            parametrization sits on top of the factors; nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[1e-9, 2.0]]))
        >>> sf.fold(sf.factorize(layer, "weight")).weight.tolist()
        [[0.0, 2.0]]
    """
    if not tol >= 0:
        raise ArtificialError(f"tol is {tol}; it must not be negative")
    folded: list[tuple[Attached, torch.Tensor]] = []
    with torch.no_grad():
        for found in attached(module):
            weight = found.artificial.fold([x.detach() for x in found.tensors], tol)
            if not bool(weight.isfinite().all()):
                raise ArtificialError(
                    f"{found.path}.{found.name} is not finite; nothing was folded"
                )
            folded.append((found, weight))
    for found, weight in folded:
        _plain(found, weight)
    return module


def _plain(found: Attached, weight: torch.Tensor) -> None:
    """Put the weight where it was among the parameters."""
    needs_grad = found.tensors[0].requires_grad
    parametrize.remove_parametrizations(found.module, found.name, leave_parametrized=True)
    found.module._buffers.pop(found.name, None)  # what torch makes of a weight without gradient
    parameters = dict(found.module._parameters)
    parameters[found.name] = nn.Parameter(weight.clone(), requires_grad=needs_grad)
    found.module._parameters.clear()
    known = [name for name in found.artificial.order if name in parameters]
    for name in [*known, *(name for name in parameters if name not in known)]:
        found.module.register_parameter(name, parameters[name])
