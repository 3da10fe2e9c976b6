# SPDX-License-Identifier: Apache-2.0
"""SGD on factors of ordinary parameters: the module stays plain, the optimizer has them."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from symfast import update as _declared  # noqa: F401  (declares the operator)
from symfast.codes import ACCUMULATE
from symfast.factor_init import keep_factors
from symfast.factor_op import factor_step_, multiply
from symfast.factor_settings import FactorSettings, check_group
from symfast.optim.roster import is_flat, matching
from symfast.reference.update import SGD

_update = torch.ops.symfast.update_.default
#: Device, dtype, whether plain, and of plain ones whether with momentum.
_Kind: TypeAlias = tuple[torch.device, torch.dtype, bool, bool]
_DEFAULTS = {"lam": 0.0, "depth": 2, "momentum": 0.0, "beta": 1.0, "plain_decay": 0.0}


class FactorSGD(Optimizer):
    """SGD on the D factors of every weight, with the sparse penalty lam ||w||_{2/D}^{2/D}.

    The parameter of the module is the product ``w = f_1 ... f_D``; the optimizer holds the factors
    and after autograd has given ``g = dl/dw`` does everything in one pass over memory,
    ``v_j <- momentum v_j + g prod_{e != j} f_e + (2 lam / D) f_j``, ``f_j <- f_j - lr v_j``,
    ``w <- prod f``: 8 D + 8 bytes a float32 weight without momentum. It is what torch's SGD does on
    `symfast.factorize`, without a parametrization: names, compile, DDP and tied weights are those
    of the plain module. spred for D = 2 (Ziyin & Wang, ICML 2023), DWF for D > 2 (Kolb et al.,
    ICLR 2025); `symfast.PenaltySchedule` on top is PILoT.

    Factors start from the weights (see `symfast.factorize`, beta > 0) and again whenever somebody
    else has written a parameter. They are float64 for float64 parameters, else float32; subnormal
    numbers count as zero on the CPU, so penalised weights reach zero exactly. ``depth=1`` in a
    group is plain SGD with ``plain_decay``, for biases and norm gains: parameters of one dim are
    refused as factors unless their own group says ``depth``.

    Args:
        params: parameters or groups; `symfast.plain_groups` sorts a model's.
        lr: step size >= 0; the parameter of any learning-rate scheduler. A one-element tensor
            where the parameters are stays there: a captured CUDA graph follows it.
        lam: penalty >= 0, torch's convention: decay 2 lam / D on every factor; may be a tensor too.
        depth: D, 2 to 6, or 1 for plain weights.
        momentum: >= 0, without dampening.
        beta: imbalance of the first factors >= 0.
        plain_decay: coupled weight decay of groups with depth 1; may be a tensor too.

    Raises:
        ValueError: if an option is out of range or a parameter is no dense floating one.
        RuntimeError: in ``step``, for sparse gradients; nothing has been changed then.

    Example:
        >>> import symfast as sf, torch
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = sf.FactorSGD(sf.plain_groups(layer), lr=0.1, lam=0.01)
        >>> layer(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
        >>> sorted(layer.state_dict())
        ['bias', 'weight']
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        lam: float | Tensor = 0.0,
        depth: int = 2,
        momentum: float = 0.0,
        beta: float = 1.0,
        plain_decay: float | Tensor = 0.0,
    ) -> None:
        self._seen: dict[Tensor, tuple[int, int] | None] = {}
        self._settings: dict[tuple[torch.device, bool], FactorSettings] = {}
        defaults = {"lr": lr, "lam": lam, "depth": depth, "momentum": momentum, "beta": beta}
        super().__init__(params, {**defaults, "plain_decay": plain_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own."""
        explicit = "depth" in param_group
        before = len(self.param_groups)
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1], explicit)
        except ValueError:
            del self.param_groups[before:]
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every parameter that has a gradient; a closure is run first, its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for (device, _, plain, _), members in self._by_kind().items():
            if (device, plain) not in self._settings:
                self._settings[device, plain] = FactorSettings(device, plain)
            settings = self._settings[device, plain]
            if plain:
                self._plain_step(members, settings)
            else:
                self._factor_step(members, settings)
        return loss

    def _by_kind(self) -> dict[_Kind, list[tuple[Tensor, int]]]:
        """Parameters with a gradient and their groups, by what one kernel call may hold."""
        found: dict[_Kind, list[tuple[Tensor, int]]] = {}
        for number, group in enumerate(self.param_groups):
            plain = group["depth"] == 1
            form = plain and bool(group["momentum"])
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("FactorSGD takes dense gradients; use sparse=False")
                found.setdefault((p.device, p.dtype, plain, form), []).append((p, number))
        return found

    def _plain_step(self, members: list[tuple[Tensor, int]], settings: FactorSettings) -> None:
        """SGD on the parameters themselves, which lie densely in whatever order of dims."""
        params, numbers = [p for p, _ in members], [n for _, n in members]
        packed = [p if is_flat(p) else p.contiguous() for p in params]
        velocities = []
        if self.param_groups[numbers[0]]["momentum"]:
            for p, like in zip(params, packed, strict=True):
                state = self.state[p]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(like)
                state["velocity"] = matching(state["velocity"], like, "FactorSGD")
                velocities.append(state["velocity"])
        grads = [matching(p.grad, like, "FactorSGD")
                 for p, like in zip(params, packed, strict=True) if p.grad is not None]  # fmt: skip
        table, keys = settings.write(self.param_groups), settings.keys(numbers)
        _update(SGD, packed, grads, velocities, [], [], table, keys)
        self._written(params, packed)

    def _factor_step(self, members: list[tuple[Tensor, int]], settings: FactorSettings) -> None:
        for p, number in members:
            self._refresh(p, self.param_groups[number])
        params, numbers = [p for p, _ in members], [n for _, n in members]
        packed = [p if p.is_contiguous() else p.contiguous() for p in params]
        states = [self.state[p] for p in params]
        velocities = []
        if any(group["momentum"] for group in self.param_groups):  # one of no elements: without
            velocities = [
                state["velocity"] if self.param_groups[n]["momentum"]
                else state["factors"].new_empty(0)
                for n, state in zip(numbers, states, strict=True)
            ]  # fmt: skip
        factor_step_(
            packed,
            [p.grad.contiguous() for p in params if p.grad is not None],
            [state["factors"] for state in states],
            velocities,
            settings.write(self.param_groups),
            numbers,
        )
        self._written(params, packed)
        for p in params:
            self._seen[p] = (p._version, p.data_ptr())

    def _written(self, params: list[Tensor], packed: list[Tensor]) -> None:
        """Copy back what stepped as a copy; graphs that saved a parameter must not be used."""
        torch.autograd.graph.increment_version(params)
        for p, copy in zip(params, packed, strict=True):
            if copy is not p:
                p.copy_(copy)

    def _refresh(self, p: Tensor, group: dict[str, Any]) -> None:
        """Factors of p: new at first, and when somebody else has written p since the last step."""
        state = self.state[p]
        if "factors" not in state:
            self._split(p, group)
        elif p not in self._seen:  # loaded: they hold if they still give the parameter
            if not _gives(state["factors"], p):
                self._split(p, group)
        elif self._seen[p] != (p._version, p.data_ptr()):
            self._split(p, group)
        if group["momentum"] and "velocity" not in state:
            state["velocity"] = torch.zeros_like(state["factors"])

    def _split(self, p: Tensor, group: dict[str, Any]) -> None:
        wide = p.detach().to(ACCUMULATE[p.dtype])
        factors = torch.stack(keep_factors(wide, group["depth"], group["beta"]))
        self.state[p]["factors"] = factors.contiguous()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load factors and velocities in their own dtype, whatever that of the parameters."""
        super().load_state_dict(state_dict)
        numbers = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):  # torch has cast it to the parameter's dtype
                    self.state[p][name] = value.to(p.device, copy=True).contiguous()
        self._seen = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in what older or copied optimizers lack."""
        super().__setstate__(state)
        self._seen, self._settings = {}, {}
        for group in self.param_groups:
            for name, value in _DEFAULTS.items():
                group.setdefault(name, value)


def _gives(factors: Tensor, p: Tensor) -> bool:
    """Whether p is the product of the factors, bit for bit.

    The CPU's kernel takes subnormal numbers for zero; the reference and CUDA do not.
    """
    plain = multiply(list(factors)).to(p.dtype)
    return torch.equal(plain, p) or torch.equal(_flushed_product(factors).to(p.dtype), p)


def _flushed_product(factors: Tensor) -> Tensor:
    """The product in the order of the kernels, last to first, without subnormal numbers."""

    def flush(x: Tensor) -> Tensor:
        return torch.where(x.abs() < torch.finfo(x.dtype).tiny, 0, x)

    last, *rest = flush(factors).flip(0)
    out: Tensor = last
    for factor in rest:
        out = flush(out * factor)
    return out


def plain_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Groups for `FactorSGD`: weights of two or more dims are factored, all others are plain.

    Norm layers' parameters are plain whatever their shape.

    Args:
        model: whose parameters are to be grouped; each is in one group, once.

    Example:
        >>> import symfast as sf, torch
        >>> [len(group["params"]) for group in sf.plain_groups(torch.nn.Linear(3, 2))]
        [1, 1]
    """
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    gains = {id(p) for m in norms for p in m.parameters(recurse=False)}
    factored: list[Tensor] = []
    plain: list[Tensor] = []
    for p in model.parameters():
        (plain if p.ndim < 2 or id(p) in gains else factored).append(p)
    groups: list[dict[str, Any]] = [{"params": factored}] if factored else []
    return [*groups, {"params": plain, "depth": 1}] if plain else groups
