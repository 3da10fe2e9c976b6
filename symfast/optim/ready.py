# SPDX-License-Identifier: Apache-2.0
"""What a step finds out before its first kernel call: one that raises has changed nothing."""

from typing import NamedTuple

import torch
from torch import Tensor

from symfast.optim.check import check_grad
from symfast.optim.constraint import local
from symfast.optim.roster import Bundle


class Call(NamedTuple):
    """A kernel call to come, on what this process holds; ``fits``: no gradient need be copied."""

    bundle: Bundle
    params: list[Tensor]
    grads: list[Tensor]
    fits: bool


def prepare(bundle: Bundle, name: str, alone: bool) -> Call | None:
    """The call for those of a bundle that have a gradient; None if none has.

    Args:
        bundle: who steps together.
        name: the optimizer's, for errors.
        alone: no other call is to come and states exist: the kernel itself, which looks at all of
            its tensors before it writes, may refuse sizes.

    Raises:
        RuntimeError: in words, if a gradient is sparse, or unlike its parameter.

    Example:
        >>> import torch
        >>> from symfast.optim.ready import prepare
        >>> from symfast.optim.roster import Bundle
        >>> prepare(Bundle([torch.zeros(2)], [0], [0], [{}]), "SGD", True) is None
        True
    """
    params, found = bundle.params, bundle.grads()
    grads = [g for g in found if g is not None]
    if len(grads) < len(params):
        kept = [i for i, g in enumerate(found) if g is not None]
        return prepare(bundle.select(kept), name, alone) if kept else None
    if hasattr(params[0], "to_local"):
        params, grads = [local(p) for p in params], [local(g) for g in grads]
    return Call(bundle, params, grads, _fit(grads, params, name, alone))


def _fit(grads: list[Tensor], params: list[Tensor], name: str, alone: bool) -> bool:
    """Whether all gradients lie like their parameters; those that cannot be made to are refused."""
    strided, dtype = torch.strided, params[0].dtype
    # hundreds of them, in every step: every word here is a percent of it
    odd = [
        (g, p)
        for g, p in zip(grads, params, strict=True)
        if g.layout is not strided or g.dtype is not dtype or g.stride() != p.stride()
    ]
    if not alone:
        on_cpu = params[0].is_cpu
        odd += [
            (g, p)
            for g, p in zip(grads, params, strict=True)
            if g.shape != p.shape or g.is_cpu is not on_cpu
        ]
    for grad, param in odd:
        check_grad(grad, name)
        if grad.shape != param.shape or grad.device != param.device:
            raise RuntimeError(
                f"a gradient of shape {tuple(grad.shape)} on {grad.device} belongs to a parameter "
                f"of shape {tuple(param.shape)} on {param.device}; after replacing a parameter's "
                "data, call zero_grad() and backward() again"
            )
    return not odd
