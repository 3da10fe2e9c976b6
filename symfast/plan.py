# SPDX-License-Identifier: Apache-2.0
"""Plan: many symmetries on many parameters, compiled once, applied in place many times."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch

from symfast.codes import PER_GROUP, PER_MIRROR, PROJECT, PROX, REFLECT, SHRINK, UNIFORM
from symfast.compiled import compile_entries
from symfast.errors import PlanError
from symfast.plan_state import Target, describe, move, summary
from symfast.symmetry import Symmetry, symmetry_from_dict

Amount: TypeAlias = float | torch.Tensor


class Plan:
    """Reflections, projections and shrinkage of many ragged parameter groups, in place.

    Every entry is a group: a unit matrix U (m, n) under a frame A (m, k) with ``C = A^T U``, and
    every verb is ``U <- U + A (f(C) - C)``. ``Mirror`` with O (G, d, k) counts as G groups. All
    groups of one device and dtype are one kernel launch. Float64, float32, bfloat16 and float16
    parameters may be mixed; half types accumulate in float32. Index symmetries (SignFlip, Swap,
    Cluster) project bitwise exactly. NaN in a parameter propagates to what it touches.

    The plan holds the parameters themselves: ``load_state_dict``, ``param.data = ...`` and
    ``.to()`` stay visible (call ``plan.to(device)`` after a move). A call that raises has changed
    nothing. Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024.

    Args:
        entries: pairs (Units or tensor, symmetry). A bare tensor with Mirror(O) is reflected along
            its last dim, or as a whole when O has as many rows as it has elements; with any other
            symmetry its units are dim 0.
        overlap: "refuse" entries that touch the same elements, or "order" them: applied one after
            the other, in the order given.
        replicas: number R of stacked replicas; every tensor then has a leading dim R.

    Raises:
        PlanError, UnitsError, SymmetryError: (ValueErrors) in words, before anything is changed.

    Example:
        >>> import symfast as sf, torch
        >>> w = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> plan = sf.Plan([(w, sf.Swap([0], [1]))])
        >>> plan.project_()
        >>> w.tolist()
        [[2.0, 3.0], [2.0, 3.0], [5.0, 6.0]]
    """

    def __init__(
        self,
        entries: Iterable[tuple[Target, Symmetry]],
        *,
        overlap: Literal["refuse", "order"] = "refuse",
        replicas: int | None = None,
    ) -> None:
        if overlap not in ("refuse", "order"):
            raise PlanError(f'overlap must be "refuse" or "order", got {overlap!r}')
        self._given = list(entries)
        self._overlap: Literal["refuse", "order"] = overlap
        self.replicas = replicas
        self._compiled = compile_entries(self._given, overlap == "order", replicas)
        self.groups = self._compiled.groups
        self.mirrors = self._compiled.mirrors

    # ---- verbs ---------------------------------------------------------------------------------

    def reflect_(self) -> None:
        """Reflect every group: ``U <- U - 2 A A^T U`` in place; swaps exchange bits exactly.

        Raises:
            RuntimeError: if a parameter's shape, strides, dtype or device changed.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.tensor([1.0, 2.0])
            >>> sf.Plan([(w, sf.SignFlip([1]))]).reflect_()
            >>> w.tolist()
            [1.0, -2.0]
        """
        self._compiled.apply(REFLECT)

    def project_(self) -> None:
        """Project every group onto its constraint: ``U <- U - A A^T U`` in place.

        Bitwise exact and idempotent for index symmetries; to rounding for dense frames.

        Raises:
            RuntimeError: if a parameter's shape, strides, dtype or device changed.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.tensor([1.0, 2.0])
            >>> sf.Plan([(w, sf.SignFlip([1]))]).project_()
            >>> w.tolist()
            [1.0, 0.0]
        """
        self._compiled.apply(PROJECT)

    def shrink_(self, amount: Amount) -> None:
        """Shrink the coefficients of every group: ``C <- (1 - amount) C`` in place.

        Args:
            amount: a number for all groups, or a tensor (groups,), or (R, groups) with replicas.

        Raises:
            ValueError: if the amount's shape is not one of those.
            RuntimeError: if a parameter's shape, strides, dtype or device changed.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.tensor([1.0, 2.0])
            >>> sf.Plan([(w, sf.SignFlip([1]))]).shrink_(0.25)
            >>> w.tolist()
            [1.0, 1.5]
        """
        self._compiled.apply(SHRINK, *self._amount(amount, "amount"))

    def prox_(self, threshold: Amount, mode: Literal["l1", "group"] = "l1") -> None:
        """Soft-threshold the coefficients of every group in place.

        ``l1``: ``C <- sign(C) max(|C| - t, 0)``, the proximal map of ``t ||A^T U||_1`` (inside a
        cluster the Helmert basis decides). ``group``: every mirror's coefficients times
        ``max(0, 1 - t / ||C_mirror||_2)``, over all its tensors (theory of group lasso).

        Args:
            threshold: t >= 0, a number or a tensor (groups,), or (R, groups) with replicas.
            mode: "l1" elementwise, "group" per mirror.

        Raises:
            ValueError: if t is negative, its shape is wrong or the mode unknown.
            RuntimeError: if a parameter's shape, strides, dtype or device changed.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.tensor([[3.0, 4.0]])
            >>> sf.Plan([(w, sf.SignFlip())]).prox_(1.0, mode="group")
            >>> [round(x, 4) for x in w.flatten().tolist()]
            [2.4, 3.2]
        """
        if mode not in ("l1", "group"):
            raise PlanError(f'mode must be "l1" or "group", got {mode!r}')
        number, tensor, per = self._amount(threshold, "threshold")
        if number < 0 or (
            tensor is not None and tensor.device.type == "cpu" and bool((tensor < 0).any())
        ):
            raise PlanError("threshold must not be negative")
        if mode == "l1":
            self._compiled.apply(PROX, number, tensor, per)
        else:
            self._compiled.prox_group(number, tensor)

    def norms(self, per: Literal["group", "mirror"] = "group") -> torch.Tensor:
        """Distance of every group from its constraint: ``||A^T U||_F``.

        Returns:
            float64, (groups,), or (R, groups) with replicas; with ``per="mirror"`` one number per
            mirror (every unit, pair, cluster, direction, O) in the order of the entries.

        Raises:
            RuntimeError: if a parameter's shape, strides, dtype or device changed.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
            >>> sf.Plan([(w, sf.SignFlip())]).norms().tolist()
            [5.0]
        """
        if per not in ("group", "mirror"):
            raise PlanError(f'per must be "group" or "mirror", got {per!r}')
        norms = self._compiled.norms(PER_GROUP if per == "group" else PER_MIRROR)
        return norms if self.replicas is not None else norms.squeeze(0)

    def coefficients(self) -> list[torch.Tensor]:
        """The coefficients ``C = A^T U`` of every group.

        Returns:
            one tensor (k, n) per group, (R, k, n) with replicas; columns follow the members in
            order and their other dims row-major. Float64 for float64 members, else float32.

        Raises:
            RuntimeError: if a parameter's shape, strides, dtype or device changed.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
            >>> sf.Plan([(w, sf.SignFlip([1]))]).coefficients()[0].tolist()
            [[3.0, 4.0]]
        """
        return self._compiled.coefficients()

    def _amount(self, amount: Amount, what: str) -> tuple[float, torch.Tensor | None, int]:
        """One number for all, or the amounts as a flat tensor by group."""
        if isinstance(amount, int | float):
            return float(amount), None, UNIFORM
        if not isinstance(amount, torch.Tensor) or amount.is_complex():
            raise PlanError(f"{what} must be a real number or tensor, got {amount!r:.80}")
        shapes: list[tuple[int, ...]] = [(), (self.groups,)]
        if self.replicas is not None:
            shapes.append((self.replicas, self.groups))
        if tuple(amount.shape) not in shapes:
            raise PlanError(
                f"{what} must be a number or have shape {' or '.join(map(str, shapes[1:]))}, "
                f"got {tuple(amount.shape)}"
            )
        copies = self._compiled.copies
        return 0.0, amount.detach().expand(copies, self.groups).reshape(-1), PER_GROUP

    # ---- the plan as a value ----------------------------------------------------------------

    def to(self, device: torch.device | str) -> "Plan":
        """A plan whose parameters and tables are on ``device``.

        Parameters that are there already (``model.to`` keeps them the same objects) are kept;
        the others are copied, and the new plan works on the copies.

        Example:
            >>> import symfast as sf, torch
            >>> w = torch.ones(2)
            >>> sf.Plan([(w, sf.SignFlip())]).to("cpu").groups
            1
        """
        moved = move(self._given, torch.device(device))
        return Plan(moved, overlap=self._overlap, replicas=self.replicas)

    def state_dict(self) -> dict[str, Any]:
        """The structure as plain data that survives JSON; parameters are not part of it.

        Example:
            >>> import symfast as sf, torch
            >>> sf.Plan([(torch.ones(2), sf.SignFlip())]).state_dict()["symmetries"][0]["kind"]
            'sign_flip'
        """
        return {
            "symmetries": [symmetry.to_dict() for _, symmetry in self._given],
            "members": [describe(target) for target, _ in self._given],
            "overlap": self._overlap,
            "replicas": self.replicas,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the symmetries of ``state`` for the same parameters and rebuild the tables.

        Raises:
            PlanError: (a ValueError) if the parameters' shapes differ; the plan is then unchanged.

        Example:
            >>> import symfast as sf, torch
            >>> plan = sf.Plan([(torch.ones(2), sf.SignFlip())])
            >>> plan.load_state_dict(plan.state_dict())
        """
        members = [describe(target) for target, _ in self._given]
        if state["members"] != members:
            raise PlanError(
                f"the saved plan is for parameters {state['members']}, this one for {members}"
            )
        symmetries = [symmetry_from_dict(description) for description in state["symmetries"]]
        targets = [target for target, _ in self._given]
        fresh = Plan(
            list(zip(targets, symmetries, strict=True)),
            overlap=state["overlap"],
            replicas=state["replicas"],
        )
        self.__dict__.update(fresh.__dict__)

    @property
    def entries(self) -> list[tuple[Target, Symmetry]]:
        """The (parameters, symmetry) pairs the plan was made of."""
        return list(self._given)

    def __len__(self) -> int:
        return self.groups

    def __repr__(self) -> str:
        return summary(self._compiled)
