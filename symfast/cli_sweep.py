# SPDX-License-Identifier: Apache-2.0
"""The commands ``symfast sweep`` and ``symfast demo``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from symfast.sweep.result import SweepResult
    from symfast.sweep.train import Progress


class Precision(str, Enum):
    """What the kernel calculates in."""

    float64 = "float64"
    float32 = "float32"


def register(app: typer.Typer) -> None:
    """Add the commands to the application.

    Example:
        >>> import typer
        >>> from symfast.cli_sweep import register
        >>> app = typer.Typer()
        >>> register(app)
        >>> len(app.registered_commands)
        2
    """
    app.command("sweep")(sweep_command)
    app.command("demo")(demo_command)


def sweep_command(
    data: Annotated[
        str,
        typer.Option(help="diabetes, wine, breast_cancer, a .csv (target last) or a .npz (X, y)."),
    ] = "diabetes",
    penalties: Annotated[
        int, typer.Option(min=1, help="Number of penalty weights below the largest useful one.")
    ] = 24,
    decades: Annotated[float, typer.Option(min=0.0, help="Range of the penalty weights.")] = 2.5,
    depth: Annotated[
        list[int] | None, typer.Option(help="Factors per weight, 1 to 6; repeatable.  [default: 2]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Random starts of every cell.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every run.")] = 20_000,
    lr: Annotated[float, typer.Option(min=0.0, help="Step size.")] = 0.1,
    momentum: Annotated[float, typer.Option(min=0.0, help="Momentum.")] = 0.9,
    tol: Annotated[float, typer.Option(min=0.0, help="Stop a run when it moves less.")] = 0.0,
    dtype: Annotated[Precision, typer.Option(help="Arithmetic.")] = Precision.float64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Directory for table, figure and page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Sweep the weight decay of a regression through product factors, in one kernel call.

    Exit codes: 0 all runs ended well, 1 some diverged or the sweep failed, 2 wrong arguments.

    Example: [bold]symfast sweep --data wine --depth 2 --depth 3 --out runs/wine[/bold]
    """
    import torch

    from symfast.problems import Factorized
    from symfast.sweep import sweep
    from symfast.sweep.data import load

    try:
        X, y, _ = load(data)
        problem = Factorized(X, y, depth=tuple(depth or [2]))
        top = 1.12 * problem.threshold()  # a little above the penalty that empties the Lasso
        grid = torch.logspace(0, -decades, penalties, dtype=torch.float64) * top
        with progress_bar(shown=not (quiet or as_json)) as progress:
            result = sweep(
                problem,
                lr=lr,
                momentum=momentum,
                weight_decay=grid,
                seeds=seeds,
                steps=steps,
                tol=tol,
                dtype=getattr(torch, dtype.value),
                device=device,
                out=out,
                progress=progress,
            )
        if out is not None:
            write_outputs(result, out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except (RuntimeError, OSError) as error:
        typer.echo(f"symfast sweep failed: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(summary(result), indent=2))
    elif not quiet:
        _print(result)
    if (result.table.status == "diverged").any():
        typer.echo("Some runs diverged; a smaller --lr helps.", err=True)
        raise typer.Exit(1)


def demo_command(
    out: Annotated[Path, typer.Option(help="Directory for table, figures and page.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Run the main job on real data and check it against scikit-learn, torch and theory.

    Example: [bold]symfast demo --out runs/demo[/bold]
    """
    from symfast.demo import run

    if not run(out):
        raise typer.Exit(1)


@contextmanager
def progress_bar(shown: bool, label: str = "sweep") -> "Iterator[Progress | None]":
    """Yield a callback that moves a bar on stderr, or None where nobody would see it.

    Example:
        >>> from symfast.cli_sweep import progress_bar
        >>> with progress_bar(shown=False) as progress:
        ...     progress is None
        True
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(*columns, rate, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(label, total=None, rate="")

        def move(done: int, total: int) -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = f"{done / seconds / 1e6:,.0f}M steps/s" if seconds > 0.2 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield move


def summary(result: "SweepResult") -> dict[str, Any]:
    """Return the configuration, the cells averaged over seeds, and how the runs ended.

    Example:
        >>> import torch
        >>> from symfast.cli_sweep import summary
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep import sweep
        >>> problem = Factorized(torch.eye(2), torch.ones(2))
        >>> summary(sweep(problem, steps=10))["status"]
        {'finished': 1}
    """
    from symfast.sweep.result import cell_table

    cells = cell_table(result.table, result.axes)
    return {
        "config": result.config,
        "rows": len(result.table),
        "status": {str(k): int(v) for k, v in result.table.status.value_counts().items()},
        "kernel_seconds": result.seconds,
        "out": None if result.directory is None else str(result.directory),
        # NaN is not JSON: diverged cells have null.
        "cells": json.loads(cells.to_json(orient="records", double_precision=15)),
    }


def write_outputs(result: "SweepResult", out: Path) -> None:
    """Write the figure and the page beside the stored table.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from symfast.cli_sweep import write_outputs
        >>> from symfast.problems import Factorized
        >>> from symfast.sweep import sweep
        >>> problem = Factorized(torch.eye(2), torch.ones(2))
        >>> out = pathlib.Path(tempfile.mkdtemp())
        >>> write_outputs(sweep(problem, steps=10), out)
        >>> sorted(path.name for path in out.iterdir())
        ['report.html', 'sparsity.png']
    """
    from symfast.report.page import png_bytes

    out.mkdir(parents=True, exist_ok=True)
    (out / "sparsity.png").write_bytes(png_bytes(result.plot("sparsity")))
    result.to_html(out / "report.html")


def _print(result: "SweepResult") -> None:
    """The cells as a table, and where the numbers come from."""
    from rich.console import Console
    from rich.table import Table

    from symfast.build import build_info
    from symfast.sweep.result import cell_table

    table = Table(title=repr(result))
    names = ["depth", "weight_decay", "loss", "objective", "sparsity", "zeros", "diverged"]
    for name in names:
        table.add_column(name, justify="right")
    for row in cell_table(result.table, result.axes)[names].itertuples(index=False):
        table.add_row(*(f"{x:.4g}" for x in row))
    console = Console()
    console.print(table)
    kernels = "compiled kernels" if build_info()["kernels"] else "PURE PYTHON, no compiled kernels"
    origin = f"{result.seconds:.2f} s in the kernel" if result.seconds else "read from disk"
    console.print(f"{origin}; {result.config['dtype']} on {result.config['device']}, {kernels}")
    if result.directory is not None:
        console.print(f"written: {result.directory}")
