# SPDX-License-Identifier: Apache-2.0
"""Every symmetry by one name: small frozen descriptions of a frame A (m, k)."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from symfast.dense_symmetry import Direction as Direction
from symfast.dense_symmetry import Mirror as Mirror
from symfast.errors import SymmetryError
from symfast.index_symmetry import Cluster as Cluster
from symfast.index_symmetry import Indices as Indices
from symfast.index_symmetry import SignFlip as SignFlip
from symfast.index_symmetry import Swap as Swap

Symmetry: TypeAlias = SignFlip | Swap | Cluster | Direction | Mirror


def symmetry_from_dict(description: Mapping[str, Any]) -> Symmetry:
    """Rebuild a symmetry from its plain description, the inverse of ``to_dict``.

    Raises:
        SymmetryError: (a ValueError) if the kind is unknown or a field is missing.

    Example:
        >>> import symfast as sf
        >>> sf.symmetry_from_dict(sf.Swap([0], [1]).to_dict())
        Swap(a=(0,), b=(1,))
    """
    kind = description.get("kind")
    try:
        if kind == "sign_flip":
            return SignFlip(description["units"])
        if kind == "swap":
            return Swap(description["a"], description["b"])
        if kind == "cluster":
            return Cluster(description["labels"])
        dense: dict[Any, type[Direction] | type[Mirror]]
        dense = {"direction": Direction, "mirror": Mirror}
        if kind in dense:
            values = torch.tensor(description[dense[kind].letter], dtype=torch.float64)
            matrix = values.to(getattr(torch, description["dtype"])).reshape(description["shape"])
            return dense[kind](matrix)
    except KeyError as error:
        raise SymmetryError(f"the description of a {kind} lacks the field {error}") from None
    raise SymmetryError(f"unknown kind of symmetry {kind!r}")
