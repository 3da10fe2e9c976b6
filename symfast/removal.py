# SPDX-License-Identifier: Apache-2.0
"""Symmetry removal for an existing training script: weight decay toward a random anchor (syre)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from symfast.anchor import Anchor
from symfast.optim.constraint import local

#: Keys this adds to an optimizer's groups, so that checkpoints hold them.
_SIGMA, _SEED, _DECAY = "anchor_sigma", "anchor_seed", "anchor_decay"


def remove_symmetry(
    optimizer: Optimizer, sigma: float = 0.01, *, seed: int = 0, lam: float | None = None
) -> "Removal":
    """Let weight decay pull every parameter to a fixed random anchor instead of to zero.

    In every step of the optimizer, ``theta <- theta - lr lam (theta - theta0)`` with
    ``theta0 ~ N(0, sigma^2)`` fixed by the seed, between the gradients and the optimizer's own
    update (after that for LBFGS, which searches along a line). A step that GradScaler skips does
    not decay. Together with plain SGD that is gradient descent
    on ``l(theta) + lam/2 ||theta - theta0||^2``, which has none of the countable mirror symmetries
    of l with probability 1: neurons that are equal separate, dead ones come back. With momentum,
    Adam or AdamW the decay is decoupled, as AdamW's own. Ziyin, Xu, Chuang, "Remove Symmetries to
    Control Model Expressivity and Improve Optimization", ICLR 2025, whose ``theta + theta0`` is our
    theta; isotropic, so continuous symmetries (rotations) are weakened, not removed.

    The module is not touched: the optimizer holds the method. The anchor is the same as that of
    the optimizers of symfast for the same seed (`symfast.Anchor.values`); here it is computed once
    and kept in the parameter's dtype. Parameters count in the optimizer's order, and a DTensor
    (fully_shard) has its part of the anchor of the whole parameter. Groups
    remember sigma, seed and decay, so ``state_dict`` does; call this once after making the
    optimizer, before ``load_state_dict``. Groups added later are not decayed, nor is what a copy or
    a pickle of the optimizer steps on: torch copies no hooks.

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
    hook = _Decay()
    if isinstance(optimizer, torch.optim.LBFGS):
        # its line search compares losses along a line from where it began: nothing moves meanwhile
        return Removal(optimizer.register_step_post_hook(hook.after), optimizer)
    return Removal(optimizer.register_step_pre_hook(hook), optimizer)


class _Decay:
    """The hook: anchors are made at the first step and again when seed or sigma are loaded."""

    def __init__(self) -> None:
        self.kept: dict[Tensor, tuple[tuple[float, int], Tensor]] = {}

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Before a step: decay now, or once the step's closure has made the gradients."""
        closure = kwargs["closure"] if "closure" in kwargs else (*args, None, None)[1]
        if not callable(closure):
            return self._decay(optimizer)
        pending = [True]

        def evaluate() -> Any:
            loss = closure()
            if pending:  # a step may evaluate more than once, and decays once
                pending.clear()
                self._decay(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": evaluate}
        return (args[0], evaluate, *args[2:]), kwargs

    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """After a step."""
        self._decay(optimizer)

    @torch.no_grad()
    def _decay(self, optimizer: Optimizer) -> None:
        inf = getattr(optimizer, "found_inf", None)  # what GradScaler leaves to fused steps
        if inf is not None and inf.device.type == "cpu":
            if bool(inf):
                return
            inf = None
        number = 0
        for group in optimizer.param_groups:
            decay = group.get(_DECAY, 0.0)
            for p in group["params"]:
                number += 1
                if not decay or p.grad is None or not p.is_floating_point():
                    continue
                held, rate = local(p), float(group["lr"]) * decay
                anchor = self._anchor(p, number - 1, group)
                if inf is None:
                    held.lerp_(anchor, rate)
                else:  # decided on the device, which the host need not wait for
                    skip = inf.to(held.device) > 0
                    held.copy_(torch.where(skip, held, held.lerp(anchor, rate)))

    def _anchor(self, p: Tensor, number: int, group: dict[str, Any]) -> Tensor:
        key = (group[_SIGMA], group[_SEED])
        found = self.kept.get(p)
        if found is None or found[0] != key or found[1].device != local(p).device:
            found = (key, _values(Anchor(*key), p, number))
            self.kept[p] = found
        return found[1]


def _values(anchor: Anchor, p: Any, number: int) -> Tensor:
    """The anchor for what this process holds of a parameter."""
    held = local(p)
    if held is p:
        return anchor.values(p, number)
    from torch.distributed.tensor import distribute_tensor

    like = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=held.device)
    # every process draws the whole and keeps its part, so nothing is sent
    whole = anchor.values(like, number)
    part = distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)
    # a copy, or the part would keep the whole alive
    return part.to_local().to(held.device, copy=True)


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
