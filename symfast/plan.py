# SPDX-License-Identifier: Apache-2.0
"""Plan: many symmetries on many parameters, compiled once, applied in place many times."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import torch

from symfast import plan_ops as _registered  # noqa: F401  (declares the operators)
from symfast.entries import build_entries
from symfast.errors import PlanError
from symfast.overlap import stages
from symfast.symmetry import Symmetry, symmetry_from_dict
from symfast.tables import Entry, Part, PartBuilder, Piece
from symfast.units import Units

Target: TypeAlias = Units | torch.Tensor
Amount: TypeAlias = float | torch.Tensor

_REFLECT, _PROJECT, _SHRINK, _PROX = range(4)
_UNIFORM, _PER_GROUP, _PER_MIRROR = range(3)


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
        self._compile()

    def _compile(self) -> None:
        """Build all tables from the entries and the parameters as they are now."""
        entries = build_entries(self._given, self.replicas)
        order = stages(entries, self._overlap == "order")
        last = entries[-1] if entries else None
        self.groups: int = last.group + last.batch if last else 0
        self.mirrors: int = last.mirror + last.batch * last.mirrors if last else 0
        builders: dict[tuple[int, torch.device, torch.dtype], PartBuilder] = {}
        copies = 1 if self.replicas is None else self.replicas
        pieces: list[list[Piece]] = []
        for entry, stage in zip(entries, order, strict=True):
            found = []
            for member in entry.members:
                key = (stage, member.tensor.device, member.tensor.dtype)
                if key not in builders:
                    part = Part(key[1], key[2], stage)
                    builders[key] = PartBuilder(
                        part, len(builders), copies, self.mirrors, self.groups
                    )
                found.append(builders[key].add(entry, member))
            pieces.append(found)
        self._entries, self._pieces = entries, pieces
        parts = [builder.finish() for builder in builders.values()]
        self._parts: list[Part] = parts
        self._run_order = sorted(parts, key=lambda part: part.stage)
        self._owners = self._mirror_groups(entries)

    def _mirror_groups(self, entries: list[Entry]) -> torch.Tensor:
        """The group of every mirror; (mirrors,) int64."""
        counts = [entry.mirrors for entry in entries for _ in range(entry.batch)]
        return torch.repeat_interleave(
            torch.arange(self.groups), torch.tensor(counts, dtype=torch.int64)
        )

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
        self._apply(_REFLECT, None, 0.0, _UNIFORM)

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
        self._apply(_PROJECT, None, 0.0, _UNIFORM)

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
        self._apply(_SHRINK, *self._amount(amount, "amount"))

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
        tensor, number, per = self._amount(threshold, "threshold")
        if number < 0 or (tensor is not None and tensor.device.type == "cpu"
                          and bool((tensor < 0).any())):
            raise PlanError("threshold must not be negative")
        if mode == "l1":
            self._apply(_PROX, tensor, number, per)
        else:
            self._apply(_SHRINK, self._group_shrinkage(tensor, number), 0.0, _PER_MIRROR)

    @torch.no_grad()
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
        squares = self._squares()
        if per == "group":
            owners = self._owners.to(squares.device)
            sums = squares.new_zeros(*squares.shape[:-1], self.groups)
            squares = sums.index_add(-1, owners, squares)
        elif per != "mirror":
            raise PlanError(f'per must be "group" or "mirror", got {per!r}')
        return squares.sqrt_() if self.replicas is not None else squares.sqrt_()[0]

    @torch.no_grad()
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
        flats = [
            torch.ops.symfast.plan_coefficients.default(
                p.tensors, p.layout, p.tasks, p.chunks, p.index, p.frames, p.out_size
            )
            for p in self._parts
        ]
        result: list[torch.Tensor] = []
        for entry, pieces in zip(self._entries, self._pieces, strict=True):
            result += self._collect(entry, pieces, flats)
        return result

    # ---- plumbing of the verbs -------------------------------------------------------------------

    def _apply(self, verb: int, amounts: torch.Tensor | None, amount: float, per: int) -> None:
        self._check_all()
        with torch.no_grad():
            for part in self._run_order:
                local = amounts
                if amounts is not None:
                    local = amounts.to(part.device, part.accumulate)
                torch.ops.symfast.plan_apply_.default(
                    part.tensors, part.layout, part.tasks, part.chunks, part.index, part.frames,
                    local, amount, per, verb,
                )  # fmt: skip
                torch.autograd.graph.increment_version(part.tensors)

    def _check_all(self) -> None:
        """With several launches, find a changed parameter before the first one writes."""
        if len(self._run_order) > 1:
            for part in self._run_order:
                torch.ops.symfast.plan_check.default(part.tensors, part.layout, part.frames)

    def _squares(self) -> torch.Tensor:
        """Sums of squares of C per mirror; (R or 1, mirrors) float64 on the first part's device."""
        copies = 1 if self.replicas is None else self.replicas
        total = torch.zeros(copies * self.mirrors, dtype=torch.float64)
        for number, p in enumerate(self._parts):
            found = torch.ops.symfast.plan_norms.default(
                p.tensors, p.layout, p.tasks, p.chunks, p.index, p.frames, copies * self.mirrors
            )
            total = found if number == 0 else total + found.to(total.device)
        return total.reshape(copies, self.mirrors)

    @torch.no_grad()
    def _group_shrinkage(self, threshold: torch.Tensor | None, number: float) -> torch.Tensor:
        """1 - max(0, 1 - t / ||C||) per mirror; NaN norms stay NaN."""
        norms = self._squares().sqrt_()
        if threshold is None:
            t = torch.full((), number, dtype=torch.float64, device=norms.device)
        else:
            flat = threshold.to(norms.device, torch.float64).reshape(-1, self.groups)
            t = flat.index_select(1, self._owners.to(norms.device))
        return torch.where(norms <= t, 1.0, t / norms).reshape(-1)

    def _amount(self, amount: Amount, what: str) -> tuple[torch.Tensor | None, float, int]:
        if isinstance(amount, int | float):
            return None, float(amount), _UNIFORM
        if not isinstance(amount, torch.Tensor) or amount.is_complex():
            raise PlanError(f"{what} must be a real number or tensor, got {amount!r:.80}")
        shapes = [(self.groups,)] if self.replicas is None else [
            (self.groups,), (self.replicas, self.groups)]
        if amount.ndim == 0:
            return amount.detach().expand(self._amount_count()), 0.0, _PER_GROUP
        if tuple(amount.shape) not in shapes:
            raise PlanError(
                f"{what} must be a number or have shape {' or '.join(map(str, shapes))}, "
                f"got {tuple(amount.shape)}"
            )
        copies = 1 if self.replicas is None else self.replicas
        return amount.detach().expand(copies, self.groups).reshape(-1), 0.0, _PER_GROUP

    def _amount_count(self) -> int:
        return self.groups * (1 if self.replicas is None else self.replicas)

    def _collect(
        self, entry: Entry, pieces: list[Piece], flats: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Cut one entry's (k, n) tensors out of the flat outputs of its parts."""
        copies = 1 if self.replicas is None else self.replicas
        k = entry.columns
        blocks = []
        for piece in pieces:
            size = copies * k * piece.width
            blocks.append(flats[piece.part][piece.start : piece.start + size])
        if entry.members[0].batch:
            stacked = blocks[0].reshape(copies, entry.batch, k, 1).transpose(0, 1)
            return list((stacked if self.replicas is not None else stacked[:, 0]).unbind(0))
        shaped = [b.reshape(copies, k, -1) if b.numel() else b.new_zeros(copies, k, p.width)
                  for b, p in zip(blocks, pieces, strict=True)]
        dtype = max((b.dtype for b in shaped), key=lambda d: d.itemsize)
        device = shaped[0].device
        whole = torch.cat([b.to(device, dtype) for b in shaped], dim=2)
        return [whole if self.replicas is not None else whole[0]]

    # ---- the plan as a value -----------------------------------------------------------------------

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
        moved: dict[int, torch.Tensor] = {}

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return moved.setdefault(id(tensor), tensor.detach().to(device)
                                    if tensor.device != torch.device(device) else tensor)

        entries: list[tuple[Target, Symmetry]] = []
        for target, symmetry in self._given:
            if isinstance(target, Units):
                members = [(move(tensor), dim) for tensor, dim in target]
                entries.append((Units(members, target.replicas), symmetry))
            else:
                entries.append((move(target), symmetry))
        return Plan(entries, overlap=self._overlap, replicas=self.replicas)

    def state_dict(self) -> dict[str, Any]:
        """The structure as plain data that survives JSON; parameters are not part of it.

        Example:
            >>> import symfast as sf, torch
            >>> sf.Plan([(torch.ones(2), sf.SignFlip())]).state_dict()["symmetries"][0]["kind"]
            'sign_flip'
        """
        return {
            "symmetries": [symmetry.to_dict() for _, symmetry in self._given],
            "members": [_describe(target) for target, _ in self._given],
            "overlap": self._overlap,
            "replicas": self.replicas,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the symmetries of ``state`` for the same parameters and rebuild the tables.

        Raises:
            PlanError: (a ValueError) if the parameters' shapes differ; the plan is then unchanged.
        """
        members = [_describe(target) for target, _ in self._given]
        if [list(map(list, m)) for m in state["members"]] != [list(map(list, m)) for m in members]:
            raise PlanError(
                f"the saved plan is for parameters {state['members']}, this one for {members}"
            )
        symmetries = [symmetry_from_dict(description) for description in state["symmetries"]]
        fresh = Plan(
            [(t, s) for (t, _), s in zip(self._given, symmetries, strict=True)],
            overlap=state["overlap"], replicas=state["replicas"],
        )  # fmt: skip
        self.__dict__.update(fresh.__dict__)

    @property
    def entries(self) -> list[tuple[Target, Symmetry]]:
        """The (parameters, symmetry) pairs the plan was made of."""
        return list(self._given)

    def __len__(self) -> int:
        return self.groups

    def __iter__(self) -> Iterator[tuple[Target, Symmetry]]:
        return iter(self._given)

    def __repr__(self) -> str:
        kinds: dict[str, int] = {}
        for entry in self._entries:
            kinds[entry.symmetry.kind] = kinds.get(entry.symmetry.kind, 0) + entry.batch
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "empty"
        lines = [f"Plan({self.groups} groups: {listed}; {self.mirrors} mirrors"
                 + (f"; {self.replicas} replicas)" if self.replicas is not None else ")")]
        lines += [
            f"  stage {p.stage} {p.device} {str(p.dtype).removeprefix('torch.')}: "
            f"{len(p.tensors)} tensors, {len(p.tasks)} tasks, {len(p.chunks)} chunks"
            for p in self._run_order
        ]
        return "\n".join(lines)


def _describe(target: Target) -> list[list[Any]]:
    """Shapes and dims of a target, as plain lists."""
    if isinstance(target, Units):
        return [[list(tensor.shape), dim] for tensor, dim in target]
    return [[list(target.shape), None]]

