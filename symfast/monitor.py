# SPDX-License-Identifier: Apache-2.0
"""Order parameters of symmetries while a model trains: what collapses, and when."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from symfast.charges import present_groups
from symfast.extras import need
from symfast.monitor_store import MonitorStore
from symfast.order_parameters import order_parameters
from symfast.plan import Plan
from symfast.symmetry_group import SymmetryGroup

if TYPE_CHECKING:
    import pandas as pd

#: Measurements kept in memory before a part is written, and seconds after which one is anyway.
PART, SECONDS = 50, 30.0


class ScalarWriter(Protocol):
    """What a monitor needs of ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Log one number."""


class Monitor:
    """Rows of order parameters; made by `monitor`.

    Attributes:
        rows: one dict per measurement and group, in order.
        steps: steps counted so far.
        seconds: time spent measuring and writing: the whole overhead.
    """

    def __init__(
        self,
        model: nn.Module | None,
        groups: Sequence[SymmetryGroup],
        plan: Plan | None,
        every: int,
        sinks: tuple[MonitorStore | None, list[ScalarWriter]],
        options: tuple[float, int, int],
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._model, self._groups, self._plan, self._every = model, groups, plan, every
        self._store, self._writers = sinks
        self._tol, self._pairs_up_to, self.steps = options
        self._handle: Any = None
        self._own_writer: Any = None
        self._written, self._last_part, self._waiting = 0, time.monotonic(), 0

    def step(self) -> None:
        """Count a step, and measure if its turn has come; the optimizer's hook calls this."""
        self.steps += 1
        if self.steps % self._every == 0:
            self.measure()

    def measure(self) -> list[dict[str, Any]]:
        """Measure now, whatever the step, and return the new rows."""
        start = time.perf_counter()
        groups = present_groups(self._groups, self._model)
        with torch.no_grad():
            fresh = [
                {"step": self.steps, "group": name}
                | order_parameters(group, self._tol, self._pairs_up_to)
                for name, group in zip(self._names(), groups, strict=True)
            ]
            if self._plan is not None:
                norms = self._plan.norms().tolist()
                fresh += [
                    {"step": self.steps, "group": f"mirror {i}", "mirror_norm": norm}
                    for i, norm in enumerate(norms)
                ]
        self.rows += fresh
        self._log(fresh)
        self._waiting += 1
        if self._waiting >= PART or time.monotonic() - self._last_part > SECONDS:
            self.flush()
        self.seconds += time.perf_counter() - start
        return fresh

    def flush(self) -> None:
        """Write the rows that are not on disk yet."""
        if self._store is not None:
            self._store.write(self.rows[self._written :])
        self._written, self._waiting, self._last_part = len(self.rows), 0, time.monotonic()

    def close(self) -> None:
        """Take the hook off the optimizer, write what is left and join the parts."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.flush()
        if self._store is not None:
            self._store.finish()
        if self._own_writer is not None:
            self._own_writer.close()
            self._own_writer = None

    @property
    def table(self) -> "pd.DataFrame":
        """The rows as a table; NaN where a quantity does not apply."""
        need("the table of a monitor", "models", "pandas")
        import pandas as pd

        return pd.DataFrame(self.rows)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _names(self) -> list[str]:
        """Places of the groups; numbers keep equal ones apart."""
        names = [group.where or "group" for group in self._groups]
        return [f"{x} #{i}" if names.count(x) > 1 else x for i, x in enumerate(names)]

    def _log(self, rows: Sequence[dict[str, Any]]) -> None:
        for writer in self._writers:
            for row in rows:
                for name, value in row.items():
                    if name not in ("step", "group") and isinstance(value, int | float):
                        writer.add_scalar(f"{row['group']}/{name}", value, self.steps)


def monitor(
    optimizer_or_model: Optimizer | nn.Module,
    groups: Iterable[SymmetryGroup] = (),
    *,
    plan: Plan | None = None,
    every: int = 100,
    out: "str | Path | ScalarWriter | None" = None,
    tol: float = 1e-3,
    pairs_up_to: int = 2048,
    start: int = 0,
) -> Monitor:
    """Log order parameters of every group while a model trains; training itself is not touched.

    Given an optimizer, it measures after every ``every``-th step by itself; given a model, when
    ``step()`` is called. The first measurement is made at once. `order_parameters` names the
    columns; a ``plan`` adds the exact norm of each of its mirrors. Nothing random is drawn and
    nothing written to a parameter, so weights are bitwise those of a run without it.

    Args:
        optimizer_or_model: whose steps are counted.
        groups: what to measure.
        plan: mirrors whose norms are logged too.
        every: steps between measurements.
        out: a ``SummaryWriter`` (anything with ``add_scalar``), or a directory: parquet in parts
            that survive ``kill -9``, joined to ``monitor.parquet`` by ``close()``, and TensorBoard
            events beside it if the package is installed. None keeps rows in memory only.
        tol: relative distance below which units do not count as distinct.
        pairs_up_to: largest m whose nearest pair is measured.
        start: number of the first step, for a run that goes on.

    Returns:
        a `Monitor`: ``rows``, ``table``, ``measure()``, ``close()``; a context manager.

    Raises:
        TypeError: if the first argument or ``out`` is of another kind.
        ValueError: if every < 1, there is nothing to measure, or groups are of another model.

    Example:
        >>> import symfast as sf, torch
        >>> from symfast.symmetry_group import Member, SymmetryGroup
        >>> layer = torch.nn.Linear(3, 2)
        >>> group = SymmetryGroup((Member(layer.weight, 0, "weight", "in"),), (), where="layer")
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> with sf.monitor(optimizer, [group], every=2) as log:
        ...     for _ in range(4):
        ...         layer(torch.ones(1, 3)).sum().backward()
        ...         optimizer.step()
        >>> log.table.step.tolist()
        [0, 2, 4]
    """
    chosen = list(groups)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every is {every!r}; wanted a whole number of steps, at least 1")
    if not chosen and plan is None:
        raise ValueError("there is nothing to measure: give groups, a plan, or both")
    if not isinstance(optimizer_or_model, Optimizer | nn.Module):
        raise TypeError(
            f"wanted a torch optimizer or a module, got {type(optimizer_or_model).__name__}"
        )
    model = optimizer_or_model if isinstance(optimizer_or_model, nn.Module) else None
    store, writers, own = _sinks(out)
    log = Monitor(model, chosen, plan, every, (store, writers), (tol, pairs_up_to, start))
    log._own_writer = own
    log.measure()
    if isinstance(optimizer_or_model, Optimizer):
        log._handle = optimizer_or_model.register_step_post_hook(lambda *_: log.step())
    return log


def _sinks(out: Any) -> tuple[MonitorStore | None, list[ScalarWriter], Any]:
    """Where rows go: a store, writers, and the writer that is ours to close."""
    if out is None:
        return None, [], None
    if hasattr(out, "add_scalar"):
        return None, [out], None
    if not isinstance(out, str | Path):
        raise TypeError(
            f"out is a {type(out).__name__}; give a directory or a SummaryWriter (add_scalar)"
        )
    store = MonitorStore(out)
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        return store, [], None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out))
    return store, [writer], writer
