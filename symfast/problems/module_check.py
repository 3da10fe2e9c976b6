# SPDX-License-Identifier: Apache-2.0
"""What a user's model and data must be to be trained as stacked replicas."""

import torch
from torch import Tensor, nn

_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def check_data(X: Tensor, Y: Tensor, test: tuple[Tensor, Tensor] | None) -> None:
    """Refuse data without samples, of different lengths, or that are not finite."""
    if test is not None and (not isinstance(test, tuple) or len(test) != 2):
        raise ValueError("test must be a pair (X, Y)")
    for name, x, y in [("", X, Y), *([("test ", *test)] if test else [])]:
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise ValueError(f"{name}X and Y must be tensors")
        if x.ndim < 1 or y.ndim < 1 or len(x) == 0 or len(x) != len(y):
            shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
            raise ValueError(f"{name}X and Y must hold the same number of samples, got {shapes}")
        for part, values in (("X", x), ("Y", y)):
            if values.is_floating_point() and not bool(values.isfinite().all()):
                raise ValueError(f"{name}{part} holds values that are not finite")


def check_model(model: nn.Module, X: Tensor) -> None:
    """Refuse models that are more than a function of float parameters."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"make_model must return a torch.nn.Module, not {type(model).__name__}")
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError("the model has no parameters to train")
    for name, p in parameters.items():
        if not p.is_floating_point() or not p.requires_grad:
            raise ValueError(f"parameter {name} is frozen or no float: make it a buffer")
    for name, module in model.named_modules():
        if isinstance(module, _STATISTICS) and module.track_running_stats:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) keeps running statistics, which "
                "replicas cannot share: use track_running_stats=False, GroupNorm or LayerNorm"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 and module.training:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) draws from torch's global "
                "generator, so that a replica would depend on the others: use p=0 or eval()"
            )


@torch.no_grad()
def activation_numbers(model: nn.Module, X: Tensor) -> int:
    """Return how many numbers one sample puts into memory: the input and each module's output."""
    numbers = X[0].numel()
    dtype = next(model.parameters()).dtype

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal numbers
        if isinstance(output, Tensor):
            numbers += output.numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    try:
        model(X[:1].to("cpu", dtype if X.is_floating_point() else X.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return numbers
