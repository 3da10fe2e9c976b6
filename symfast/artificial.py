# SPDX-License-Identifier: Apache-2.0
"""Artificial symmetries: a weight becomes a function of factors, on torch's parametrizations."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

from torch import Tensor, nn
from torch.nn.utils import parametrize

from symfast.codes import ACCUMULATE
from symfast.errors import ArtificialError

T = TypeVar("T", bound=Tensor)


class Artificial(nn.Module):
    """A weight as a function of tensors of which some are factors under weight decay.

    ``forward(*tensors)`` is the weight, ``right_inverse(weight)`` the tensors that give it, both as
    torch.nn.utils.parametrize wants them. Tensors are float64 for float64 weights, else float32;
    the weight keeps its own dtype.
    """

    depth: int
    #: Positions among the tensors of the factors that weight decay works on; None: all of them.
    penalised: tuple[int, ...] | None = None
    #: Names of the owner's parameters in their order before anything was factored.
    order: tuple[str, ...] = ()
    like: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        # follows .to(dtype) of the module, so that the weight does as well
        self.register_buffer("like", weight.new_empty(0), persistent=False)

    def wide(self, weight: Tensor) -> Tensor:
        """The weight in the dtype of the factors."""
        return weight.detach().to(ACCUMULATE[weight.dtype])

    def among(self, tensors: tuple[T, ...]) -> tuple[T, ...]:
        """The tensors under weight decay."""
        chosen = self.penalised
        return tensors if chosen is None else tuple(tensors[i] for i in chosen)

    def right_inverse(self, weight: Tensor) -> Sequence[Tensor]:
        """The tensors whose function is the weight."""
        raise NotImplementedError

    def fold(self, tensors: Sequence[Tensor], tol: float) -> Tensor:
        """The weight with everything below tol exactly at its constraint."""
        raise NotImplementedError


@dataclass(frozen=True)
class Attached:
    """One artificial symmetry of a model: ``module.name`` is a function of ``tensors``."""

    path: str
    module: nn.Module
    name: str
    artificial: Artificial
    tensors: tuple[nn.Parameter, ...]

    @property
    def factors(self) -> tuple[nn.Parameter, ...]:
        """The tensors under weight decay."""
        return self.artificial.among(self.tensors)


class FactorList(parametrize.ParametrizationList):
    """Torch's list of a weight's tensors, known to `any_factor` as long as it lives, copies too."""

    @property
    def factors(self) -> tuple[nn.Parameter, ...]:
        """The tensors under weight decay, those of now."""
        artificial = self[0]
        assert isinstance(artificial, Artificial)
        return artificial.among(_tensors(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # deepcopy and unpickling end here
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _remember(self)


#: Every list alive. It is asked for its present tensors, because fully_shard, ``.to`` and
#: load_state_dict(assign=True) put new parameters into it, which no mark on a tensor survives.
_lists: WeakSet[FactorList] = WeakSet()
_lock = threading.Lock()


def _remember(chain: FactorList) -> None:
    with _lock:
        _lists.add(chain)


def any_factor(parameters: Iterable[Tensor]) -> bool:
    """Whether one of these parameters is a factor under weight decay of some module alive.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.artificial import any_factor
        >>> layer = sf.factorize(torch.nn.Linear(3, 2), "weight")
        >>> any_factor(layer.parameters()), any_factor([layer.bias])
        (True, False)
    """
    given = {id(p) for p in parameters}
    with _lock:
        chains = list(_lists)
    return any(id(factor) in given for chain in chains for factor in chain.factors)


def find_parameter(module: nn.Module, name: str) -> tuple[nn.Module, str, nn.Parameter]:
    """The owner, last name and parameter behind a dotted name; refuses what cannot be factored.

    Raises:
        ArtificialError: (a ValueError) in words.
    """
    path, _, last = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
        weight = getattr(owner, last)
    except AttributeError as error:
        raise ArtificialError(
            f"{type(module).__name__} has no parameter {name!r}: {error}"
        ) from None
    if parametrize.is_parametrized(owner, last):
        raise ArtificialError(f"{name!r} is parametrized already; fold(module) it first")
    if not isinstance(weight, nn.Parameter) or owner._parameters.get(last) is not weight:
        raise ArtificialError(f"{name!r} is a {type(weight).__name__}, not a parameter")
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ArtificialError(f"{name!r} has no shape yet; run the module once first")
    if type(weight) is not nn.Parameter or weight.dtype not in ACCUMULATE:
        raise ArtificialError(
            f"{name!r} is a {type(weight).__name__} of {weight.dtype}; wanted an ordinary "
            "parameter of float64, float32, bfloat16 or float16"
        )
    if weight.numel() == 0 or not bool(weight.isfinite().all()):
        raise ArtificialError(f"{name!r} is empty, or holds NaN or infinity")
    if isinstance(owner, nn.RNNBase):
        raise ArtificialError(
            f"{name!r} belongs to a {type(owner).__name__}, which reads its weights from a list of "
            "its own and would not see the factors"
        )
    if getattr(owner, "sparse", False):
        raise ArtificialError(f"{name!r} has sparse gradients; make it with sparse=False")
    ties = [n for n, p in module.named_parameters(remove_duplicate=False) if p is weight]
    if len(ties) > 1:
        raise ArtificialError(
            f"{' and '.join(map(repr, ties))} are one tied parameter; factors can only stand for "
            "one of them. FactorSGD factors tied weights, because the module keeps its parameter"
        )
    return owner, last, weight


def attach(owner: nn.Module, name: str, artificial: Artificial) -> None:
    """Replace the parameter by the tensors of its artificial symmetry, changing the module last."""
    before = [found.artificial.order for found in attached(owner) if found.module is owner]
    artificial.order = before[0] if before else tuple(owner._parameters)
    parametrize.register_parametrization(owner, name, artificial)
    lists = owner.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    chain = lists[name]
    chain.__class__ = FactorList  # torch makes a list of its own class
    assert isinstance(chain, FactorList)
    _remember(chain)


def _tensors(chain: parametrize.ParametrizationList) -> tuple[nn.Parameter, ...]:
    return tuple(getattr(chain, f"original{i}") for i in range(chain.ntensors))


def attached(model: nn.Module) -> Iterator[Attached]:
    """Every artificial symmetry of a model, in the order of its modules.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.artificial import attached
        >>> model = sf.factorize(torch.nn.Linear(3, 2), "weight")
        >>> [(found.name, len(found.factors)) for found in attached(model)]
        [('weight', 2)]
    """
    for path, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        lists = module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        for name, chain in lists.items():
            assert isinstance(chain, parametrize.ParametrizationList)
            artificial = chain[0]
            if not isinstance(artificial, Artificial):
                continue
            if len(chain) > 1:
                raise ArtificialError(
                    f"{path}.{name} has another parametrization on top of its factors; remove that"
                )
            yield Attached(path, module, name, artificial, _tensors(chain))
