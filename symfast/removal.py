# SPDX-License-Identifier: Apache-2.0
"""Symmetry removal for an existing training script: weight decay toward a random anchor (syre)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from symfast.anchor import Anchor

#: Keys this adds to an optimizer's groups, so that checkpoints hold them.
_SIGMA, _SEED, _DECAY = "anchor_sigma", "anchor_seed", "anchor_decay"


def remove_symmetry(
    optimizer: Optimizer, sigma: float = 0.01, *, seed: int = 0, lam: float | None = None
) -> "Removal":
    """Let weight decay pull every parameter to a fixed random anchor instead of to zero.

    Before every step of the optimizer, ``theta <- theta - lr lam (theta - theta0)`` with
    ``theta0 ~ N(0, sigma^2)`` fixed by the seed. Together with plain SGD that is gradient descent
    on ``l(theta) + lam/2 ||theta - theta0||^2``, which has none of the countable mirror symmetries
    of l with probability 1: neurons that are equal separate, dead ones come back. With momentum,
    Adam or AdamW the decay is decoupled, as AdamW's own. Ziyin, Xu, Chuang, "Remove Symmetries to
    Control Model Expressivity and Improve Optimization", ICLR 2025, whose ``theta + theta0`` is our
    theta; isotropic, so continuous symmetries (rotations) are weakened, not removed.

    The module is not touched: the optimizer holds the method. The anchor is the same as that of
    the optimizers of symfast for the same seed (`symfast.Anchor.values`); here it is computed once
    and kept in the parameter's dtype. Parameters count in the optimizer's order. Groups
    remember sigma, seed and decay, so ``state_dict`` does; call this once after making the
    optimizer, before ``load_state_dict``. Groups added later are not decayed.

    Args:
        optimizer: any torch optimizer with "lr" in its groups.
        sigma: standard deviation of the anchor, > 0. The paper's default is 0.01 / sqrt(d); effects
            on plasticity were seen at 0.05.
        seed: 64 bits.
        lam: decay of every group, > 0; the groups must then have no weight decay. Left out, every
            group's own ``weight_decay`` becomes its lam and is set to 0.

    Returns:
        a handle whose ``remove()`` ends it; ``weight_decay`` stays what it became.

    Raises:
        ValueError: if sigma or lam are out of range, there is nothing to decay, the decay would be
            double, or the optimizer has it already; nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.AdamW(layer.parameters(), weight_decay=0.01)
        >>> handle = sf.remove_symmetry(optimizer, sigma=0.05, seed=1)
        >>> optimizer.param_groups[0]["weight_decay"]
        0
    """
    if not (0 < sigma < math.inf) or (lam is not None and not 0 < lam < math.inf):
        raise ValueError(f"sigma {sigma} and lam {lam} must be positive and finite")
    groups = optimizer.param_groups
    if any(_SIGMA in group for group in groups):
        raise ValueError("the optimizer decays toward an anchor already; remove() that first")
    own = [float(group.get("weight_decay", 0)) for group in groups]
    if lam is not None and any(own):
        raise ValueError(
            f"the groups have weight decay {own} toward zero; set it to 0, or leave out lam to "
            "turn it into decay toward the anchor"
        )
    if lam is None and not any(own):
        raise ValueError(
            "no group has weight decay, and translation alone removes nothing: give lam"
        )
    if any("lr" not in group for group in groups):
        raise ValueError(f"{type(optimizer).__name__} has no lr in its groups")
    for group, decay in zip(groups, own, strict=True):
        group[_SIGMA], group[_SEED] = float(sigma), int(seed)
        group[_DECAY] = decay if lam is None else float(lam)
        if "weight_decay" in group:
            group["weight_decay"] = 0
    handle = optimizer.register_step_pre_hook(_Decay())
    return Removal(handle, optimizer)


class _Decay:
    """The hook: anchors are made at the first step and again when seed or sigma are loaded."""

    def __init__(self) -> None:
        self.kept: dict[Tensor, tuple[tuple[float, int], Tensor]] = {}

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        number = 0
        for group in optimizer.param_groups:
            decay = group.get(_DECAY, 0.0)
            for p in group["params"]:
                number += 1
                if decay and p.grad is not None and p.is_floating_point():
                    p.lerp_(self._anchor(p, number - 1, group), float(group["lr"]) * decay)

    def _anchor(self, p: Tensor, number: int, group: dict[str, Any]) -> Tensor:
        key = (group[_SIGMA], group[_SEED])
        found = self.kept.get(p)
        if found is None or found[0] != key or found[1].device != p.device:
            found = (key, Anchor(*key).values(p, number))
            self.kept[p] = found
        return found[1]


class Removal:
    """What `remove_symmetry` returns: ends the decay toward the anchor."""

    def __init__(self, handle: RemovableHandle, optimizer: Optimizer) -> None:
        self.handle, self.optimizer = handle, optimizer

    def remove(self) -> None:
        """End the decay toward the anchor."""
        self.handle.remove()
        for group in self.optimizer.param_groups:
            for name in (_SIGMA, _SEED, _DECAY):
                group.pop(name, None)
