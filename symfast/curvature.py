# SPDX-License-Identifier: Apache-2.0
"""Hessian-vector products of a loss over minibatches, at many parameter vectors at once."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

Loss: TypeAlias = Callable[[Callable[..., Any], Any], Tensor]
#: Numbers in minibatches that are differentiated at once.
GROUP = 1 << 15


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    leaves = tree_leaves(batch)
    strange = {type(x).__name__ for x in leaves if not isinstance(x, Tensor)}
    if strange or not leaves:
        raise TypeError(
            "a minibatch must be a tensor, or tuples, lists and dicts of tensors; found "
            f"{', '.join(sorted(strange)) or 'nothing'} in it: convert it first"
        )
    return tuple(tuple(x.shape) for x in leaves)


def stack(batches: Sequence[Any]) -> Any:
    """Minibatches of equal shapes as one, stacked along a new first dim of every tensor.

    Raises:
        TypeError: if one holds anything but tensors.
        ValueError: if their shapes differ.

    Example:
        >>> import torch
        >>> from symfast.curvature import stack
        >>> [x.shape for x in stack([(torch.ones(3), torch.ones(3, 2))] * 5)]
        [torch.Size([5, 3]), torch.Size([5, 3, 2])]
    """
    shapes = {_shapes(batch) for batch in batches}
    if len(shapes) > 1:
        raise ValueError(
            f"to follow SGD all minibatches must have the same shapes, got {sorted(shapes)[:3]}; "
            "leave out the smaller last one"
        )
    return tree_map(lambda *parts: torch.stack(parts), *batches)


def grouped(batches: Sequence[Any]) -> list[Any]:
    """Neighbouring minibatches of equal shapes, stacked up to about `GROUP` numbers at a time.

    Example:
        >>> import torch
        >>> from symfast.curvature import grouped
        >>> [len(group) for group in grouped([torch.ones(2), torch.ones(2), torch.ones(1)])]
        [2, 1]
    """
    parts: list[list[Any]] = []
    for batch in batches:
        shapes, size = _shapes(batch), sum(x.numel() for x in tree_leaves(batch))
        fits = parts and (len(parts[-1]) + 1) * size <= GROUP
        if fits and _shapes(parts[-1][0]) == shapes:
            parts[-1].append(batch)
        else:
            parts.append([batch])
    return [stack(part) for part in parts]


class Curvature:
    """Hessian-vector products at flat parameters (mirrors, d), by two reverse passes."""

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], loss: Loss) -> None:
        self.shapes = {name: p.shape for name, p in parameters.items()}
        self.sizes = [p.numel() for p in parameters.values()]
        self.theta = torch.cat([p.detach().flatten() for p in parameters.values()])
        self.model, self.loss = model, loss

    def _loss(self, theta: Tensor, batch: Any) -> Tensor:
        pieces = theta.split(self.sizes)
        weights = {
            name: piece.view(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

        def net(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.model, weights, args, kwargs)

        return self.loss(net, batch)

    def slope(self, theta: Tensor, batches: Any) -> Tensor:
        """Gradients (rows, d), each row with a minibatch of its own."""
        found: Tensor = vmap(grad(self._loss))(theta, batches)
        return found

    def product(self, theta: Tensor, v: Tensor, group: Any) -> Tensor:
        """``H(theta_i) v_i`` for every mirror i, H the mean over a group of stacked batches."""

        def of(theta: Tensor, v: Tensor) -> Tensor:
            def mean(theta: Tensor) -> Tensor:
                losses: Tensor = vmap(self._loss, (None, 0))(theta, group)
                return losses.mean()

            return _derivatives(mean, theta, v)[1]

        found: Tensor = vmap(of)(theta, v)
        return found

    def along(self, theta: Tensor, v: Tensor, group: Any) -> Tensor:
        """``v_i^T H_b(theta_i) v_i`` (batches of the group, mirrors)."""

        def of(theta: Tensor, v: Tensor, batch: Any) -> Tensor:
            return (v * _derivatives(lambda x: self._loss(x, batch), theta, v)[1]).sum()

        found: Tensor = vmap(vmap(of, (0, 0, None)), (None, None, 0))(theta, v, group)
        return found

    def derivatives(self, theta: Tensor, v: Tensor, batches: Any) -> tuple[Tensor, Tensor]:
        """Gradients and ``H v`` row by row, each row with a minibatch of its own."""

        def of(theta: Tensor, v: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            return _derivatives(lambda x: self._loss(x, batch), theta, v)

        slope, product = vmap(of)(theta, v, batches)
        return slope, product


def _derivatives(
    loss: Callable[[Tensor], Tensor], theta: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient and ``H v`` at theta, by two reverse passes."""

    def slope_along(theta: Tensor) -> tuple[Tensor, Tensor]:
        slope: Tensor = grad(loss)(theta)
        return (slope * v).sum(), slope

    product, slope = grad(slope_along, has_aux=True)(theta)
    return slope, product
