# SPDX-License-Identifier: Apache-2.0
"""Symmetry groups of a live model: which slices of which parameters move together, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from symfast.units import Units

Kind = Literal["permutation", "sign_flip", "rescale", "rotation", "scale"]
KINDS: tuple[Kind, ...] = ("permutation", "sign_flip", "rescale", "rotation", "scale")
ROLES = ("in", "bias", "norm", "out")


class SymmetryGroupError(ValueError):
    """A group element does not fit its group, or the model is not the group's model."""


@dataclass(frozen=True)
class AxisSlice:
    """Which indices of a parameter's dim belong to which unit.

    Unit j owns the indices ``start + j * step + t * inner_step`` for t in 0..inner-1, of the dim
    ``dim`` of the parameter or buffer called ``parameter``.
    """

    parameter: str
    dim: int
    start: int
    step: int
    units: int
    inner: int = 1
    inner_step: int = 1
    within: tuple[int, int, int] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` itself if the slice is all of its dim, else a view of the slice."""
        if self.within is not None:
            along, start, stop = self.within
            with torch.no_grad():
                tensor = tensor.narrow(along, start, stop - start)
        size = tensor.shape[self.dim]
        if self.inner == 1 and self.step == 1 and self.units == size:
            return tensor
        last = self.start + (self.units - 1) * self.step + (self.inner - 1) * self.inner_step
        if last >= size or self.start < 0:
            raise SymmetryGroupError(
                f"{self} reaches index {last}, but dim {self.dim} of {self.parameter} has {size}"
            )
        stride = tensor.stride(self.dim)
        shape, strides = list(tensor.shape), list(tensor.stride())
        inner = [self.inner] if self.inner > 1 else []
        shape[self.dim : self.dim + 1] = [self.units, *inner]
        steps = [self.inner_step * stride] if self.inner > 1 else []
        strides[self.dim : self.dim + 1] = [self.step * stride, *steps]
        with torch.no_grad():
            return tensor.as_strided(shape, strides, tensor.storage_offset() + self.start * stride)

    def indices(self) -> Tensor:
        """Return the indices along the parameter's dim, (units, inner)."""
        units = torch.arange(self.units) * self.step
        return self.start + units[:, None] + torch.arange(self.inner) * self.inner_step

    @property
    def label(self) -> str:
        """The name a reader sees: the parameter, and its slice if it is not all of the dim."""
        stop = self.start + (self.units - 1) * self.step + (self.inner - 1) * self.inner_step + 1
        dims = [":"] * self.dim + [f"{self.start}:{stop}"]
        if self.within is not None:
            along, start, end = self.within
            dims += [":"] * (along + 1 - len(dims))
            dims[along] = f"{start}:{end}"
        return f"{self.parameter}[{', '.join(dims)}]"


@dataclass(frozen=True, eq=False)
class Member:
    """One tensor of a group.

    Attributes:
        tensor: a parameter or buffer of the model, or a view of one (rows of one head).
        dim: the dim of ``tensor`` that runs over the units.
        name: ``"fc1.weight"``, or ``"attn.in_proj_weight[0:64]"`` for a part.
        role: ``"in"`` writes the units, ``"bias"`` shifts them, ``"norm"`` holds per-unit
            statistics that only a permutation moves, ``"out"`` reads them. In a QK group Q is
            ``"in"`` and K is ``"out"``.
        source: where ``tensor`` lies in the model.

    Raises:
        SymmetryGroupError: (a ValueError) if the role is none of these.

    Example:
        >>> import symfast as sf, torch
        >>> fc = torch.nn.Linear(3, 4)
        >>> sf.Member(fc.weight, 0, "fc.weight", "in").role
        'in'
    """

    tensor: Tensor
    dim: int
    name: str
    role: str
    source: AxisSlice | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise SymmetryGroupError(f"role is {self.role!r}; choose one of {', '.join(ROLES)}")


@dataclass(frozen=True, eq=False)
class SymmetryGroup:
    """Units of a model that can be relabelled, flipped, rescaled or rotated together.

    The unit matrix ``U`` (m, n) has one row per unit, gathered from the members. With x the
    activations of the units:

    - permutation: every member along its dim, ``U <- P U``
    - rescale (s_j > 0), sign_flip (s_j = +-1), scale (one s > 0 for all): members with role in or
      bias are multiplied by s, those with role out are divided by s
    - rotation: ``U <- R U`` with orthogonal R on in, bias and out

    Attributes:
        members: the tensors of the group.
        kinds: the kinds proved on this model: a random element leaves the outputs unchanged.
        unproved: kinds that the structure suggests but that were not proved. Never used.
        where: where the units live, in words: ``"fc1 -> relu -> fc2"``.
        activation: what the units pass through: ``"relu"``, ``"tanh"``, ``"identity"``, ...
        errors: per kind tried, the largest change of an output relative to the largest output.

    Example:
        >>> import symfast as sf, torch
        >>> fc1, fc2 = torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)
        >>> model = torch.nn.Sequential(fc1, torch.nn.ReLU(), fc2)
        >>> group = sf.find_symmetries(model, torch.randn(4, 3))[0]
        >>> group.kinds, group.m, group.n
        (('permutation', 'rescale'), 5, 6)
    """

    members: tuple[Member, ...]
    kinds: tuple[str, ...]
    unproved: tuple[str, ...] = ()
    where: str = ""
    activation: str = "identity"
    errors: tuple[tuple[str, float], ...] = ()

    @property
    def units(self) -> Units:
        """The members as `symfast.Units`, ready for a `symfast.Plan`."""
        return Units([(member.tensor, member.dim) for member in self.members])

    @property
    def m(self) -> int:
        """Number of units."""
        first = self.members[0]
        return first.tensor.shape[first.dim]

    @property
    def n(self) -> int:
        """Numbers that belong to one unit."""
        return sum(member.tensor.numel() for member in self.members) // self.m

    def of(self, model: nn.Module | Mapping[str, Tensor]) -> "SymmetryGroup":
        """Return the same group on another model with the same parameter names and shapes.

        For many groups give the model's `named_tensors`, which are then listed once.

        Raises:
            SymmetryGroupError: (a ValueError) if ``model`` lacks a parameter, or its shape differs.
        """
        tensors = named_tensors(model) if isinstance(model, nn.Module) else model
        members = tuple(_rebind(member, tensors) for member in self.members)
        return SymmetryGroup(
            members, self.kinds, self.unproved, self.where, self.activation, self.errors
        )

    def apply_(self, kind: str, generator: torch.Generator | None = None) -> None:
        """Apply a random element of ``kind`` in place.

        Permutations and signs are uniform, factors log-uniform in [1/2, 2], rotations Haar.

        Raises:
            SymmetryGroupError: (a ValueError) if ``kind`` is unknown.
        """
        if kind == "permutation":
            self.apply_permutation_(torch.randperm(self.m, generator=generator))
        elif kind == "sign_flip":
            signs = torch.randint(2, (self.m,), generator=generator, dtype=torch.float64)
            self.apply_scaling_(2 * signs - 1)
        elif kind in ("rescale", "scale"):
            count = self.m if kind == "rescale" else 1
            powers = torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1
            self.apply_scaling_(torch.exp2(powers).expand(self.m))
        elif kind == "rotation":
            self.apply_rotation_(_random_rotation(self.m, generator))
        else:
            raise SymmetryGroupError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")

    def apply_permutation_(self, permutation: Tensor) -> None:
        """Put unit ``permutation[j]`` in the place of unit j, in every member."""
        if sorted(permutation.tolist()) != list(range(self.m)):
            raise SymmetryGroupError(f"wanted a permutation of {self.m} units, got {permutation}")
        with torch.no_grad():
            for member in self.members:
                order = permutation.to(member.tensor.device)
                member.tensor.copy_(member.tensor.index_select(member.dim, order))

    def apply_scaling_(self, factors: Tensor) -> None:
        """Multiply unit j by ``factors[j]`` where it is written, divide where it is read."""
        if factors.shape != (self.m,) or bool((factors == 0).any()):
            raise SymmetryGroupError(
                f"wanted {self.m} factors other than 0, got {tuple(factors.shape)}: {factors}"
            )
        with torch.no_grad():
            for member in self._movable():
                shape = [1] * member.tensor.ndim
                shape[member.dim] = self.m
                scale = factors if member.role != "out" else 1 / factors
                scale = scale.to(member.tensor.device).reshape(shape)
                member.tensor.copy_(member.tensor * scale)

    def apply_rotation_(self, R: Tensor) -> None:
        """Mix the units by the orthogonal matrix ``R`` (m, m)."""
        identity = torch.eye(self.m, dtype=R.dtype, device=R.device)
        if R.shape != (self.m, self.m) or not torch.allclose(R @ R.mT, identity, atol=1e-5):
            raise SymmetryGroupError(
                f"wanted an orthogonal matrix ({self.m}, {self.m}), got {tuple(R.shape)} with "
                "R R^T != I; torch.linalg.qr(R).Q is orthogonal"
            )
        with torch.no_grad():
            for member in self._movable():
                moved = member.tensor.movedim(member.dim, 0)
                wide = R.to(moved.device, torch.promote_types(R.dtype, moved.dtype))
                mixed = torch.tensordot(wide, moved.to(wide.dtype), dims=1)
                member.tensor.copy_(mixed.movedim(0, member.dim))

    def _movable(self) -> Sequence[Member]:
        return [member for member in self.members if member.role != "norm"]

    def __repr__(self) -> str:
        kinds = ", ".join(self.kinds) or "nothing proved"
        unproved = f"; unproved: {', '.join(self.unproved)}" if self.unproved else ""
        names = ", ".join(member.name for member in self.members)
        return f"SymmetryGroup({self.where}: m={self.m}, {kinds}{unproved}; {names})"


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by all their names, tied ones under each.

    Example:
        >>> import torch
        >>> from symfast.symmetry_group import named_tensors
        >>> list(named_tensors(torch.nn.Linear(3, 2)))
        ['weight', 'bias']
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    return tensors


def _rebind(member: Member, tensors: Mapping[str, Tensor]) -> Member:
    source = member.source
    if source is None:
        raise SymmetryGroupError(f"{member.name} does not say where it lies in the model")
    tensor = tensors.get(source.parameter)
    if tensor is None:
        raise SymmetryGroupError(f"the model has no parameter or buffer {source.parameter}")
    view = source.of(tensor)
    if view.shape != member.tensor.shape:
        raise SymmetryGroupError(
            f"{member.name} has shape {tuple(view.shape)} in this model, "
            f"{tuple(member.tensor.shape)} in the group's"
        )
    return Member(view, member.dim, member.name, member.role, source)


def _random_rotation(m: int, generator: torch.Generator | None) -> Tensor:
    gaussian = torch.randn(m, m, generator=generator, dtype=torch.float64)
    Q, upper = torch.linalg.qr(gaussian)
    # the signs of the diagonal make the distribution Haar (Mezzadri, 2007)
    rotation: Tensor = Q * upper.diagonal().sign()
    return rotation
