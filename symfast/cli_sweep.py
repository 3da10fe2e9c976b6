# SPDX-License-Identifier: Apache-2.0
"""The commands ``symfast sweep`` and ``symfast demo``."""

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from symfast.cli_failures import failures
from symfast.progress import progress_bar, with_speed

if TYPE_CHECKING:
    from symfast.problems import Problem
    from symfast.sweep.result import SweepResult


_FILE = typer.Argument(help="A sweep as TOML; see symfast.sweep.config_file.")
_DATA = typer.Option(help="diabetes, wine, breast_cancer, a .csv (target last) or a .npz (X, y).")
_PENALTIES = typer.Option(min=1, help="Number of penalty weights below the largest useful one.")
_DEPTH = typer.Option(help="Factors per weight, 1 to 6; repeatable; 2 if not given.")
_LR = typer.Option(min=0.0, help="Step size; 0.1 if not given, for adam and adamw 0.001.")
_MOMENTUM = typer.Option(min=0.0, help="Momentum, or adam's first beta; 0.9, but 0 for sgd.")
_BETA2 = typer.Option(min=0.0, help="Second beta of adam and adamw; 0.999 if not given.")
_EPS = typer.Option(min=0.0, help="Least denominator of adam and adamw; 1e-8 if not given.")
_OPTIMIZER = typer.Option(help="Its numbers are the next four flags; adamw's decay is decoupled.")
_RAY = typer.Option("--ray", help="Compute on a Ray cluster, into --out.")
#: Longer tables of cells are cut on the terminal.
MOST_LINES = 64


class Precision(str, Enum):
    """What the kernel calculates in."""

    float64 = "float64"
    float32 = "float32"


class Optimizer(str, Enum):
    """The names of `symfast.sweep.optimizers`."""

    sgd = "sgd"
    momentum = "momentum"
    adam = "adam"
    adamw = "adamw"


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
    context: typer.Context,
    file: Annotated[Path | None, _FILE] = None,
    data: Annotated[str, _DATA] = "diabetes",
    penalties: Annotated[int, _PENALTIES] = 24,
    decades: Annotated[float, typer.Option(min=0.0, help="Range of the penalty weights.")] = 2.5,
    depth: Annotated[list[int] | None, _DEPTH] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Random starts of every cell.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every run.")] = 20_000,
    optimizer: Annotated[Optimizer, _OPTIMIZER] = Optimizer.momentum,
    lr: Annotated[float | None, _LR] = None,
    momentum: Annotated[float | None, _MOMENTUM] = None,
    beta2: Annotated[float | None, _BETA2] = None,
    eps: Annotated[float | None, _EPS] = None,
    tol: Annotated[float, typer.Option(min=0.0, help="Stop a run when it moves less.")] = 0.0,
    dtype: Annotated[Precision, typer.Option(help="Arithmetic.")] = Precision.float64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Directory for table, figure and page.")] = None,
    ray: Annotated[bool, _RAY] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Sweep a training job over its hyperparameters, many runs in one kernel call.

    What to sweep stands in FILE, or the flags describe the weight decay of a regression through
    product factors. Under torchrun every process computes its share of the chunks into --out.
    Ctrl-C leaves a directory that the same command completes.

    Exit codes: 0 all runs ended well, 1 some diverged or the sweep failed, 2 wrong arguments.

    Example: [bold]symfast sweep --data wine --depth 2 --depth 3 --out runs/wine[/bold]
    """
    kept = out
    with failures("sweep", lambda: f"; run it again to complete {kept}" if kept else ""):
        flags = context.params
        problem, arguments = _from_file(context, file) if file else _from_flags(flags)
        if out is not None:
            arguments["out"] = out
        kept = None if arguments.get("out") is None else Path(arguments["out"])
        result = _run(problem, arguments, ray=ray, shown=not (quiet or as_json))
        if kept is not None and not result.missing:
            write_outputs(result, kept)
    if as_json:
        typer.echo(json.dumps(summary(result), indent=2))
    elif not quiet:
        _print(result)
    if (result.table.status == "diverged").any():
        typer.echo("Some runs diverged; a smaller --lr helps.", err=True)
        raise typer.Exit(1)


def _run(problem: "Problem", arguments: dict[str, Any], *, ray: bool, shown: bool) -> "SweepResult":
    """This process's share of the sweep."""
    import torch

    from symfast.sweep import sweep
    from symfast.sweep.cluster import shard_of_environment

    name = arguments.get("dtype", "float64")
    given = arguments | {"dtype": getattr(torch, name) if isinstance(name, str) else name}
    with progress_bar(shown, "sweep") as move:
        progress = with_speed(move, arguments.get("steps"))
        return sweep(problem, progress=progress, ray=ray, shard=shard_of_environment(), **given)


def _from_flags(flags: dict[str, Any]) -> "tuple[Problem, dict[str, Any]]":
    """A regression through product factors, its penalties below the largest useful one."""
    import torch

    from symfast.problems import Factorized
    from symfast.sweep.data import load
    from symfast.sweep.optimizers import by_name

    name = flags["optimizer"].value
    rule, axes = by_name(name)
    rates = ("lr", "momentum", "beta2", "eps")
    given: dict[str, Any] = {rate: flags[rate] for rate in rates if flags[rate] is not None}
    foreign = sorted({"beta2", "eps"} & set(given))
    if rule == "sgd" and foreign:
        raise ValueError(f"--{foreign[0]} goes with --optimizer adam or adamw, not {name}")
    X, y, _ = load(flags["data"])
    problem = Factorized(X, y, depth=tuple(flags["depth"] or [2]), optimizer=rule)
    top = 1.12 * problem.threshold()  # a little above the penalty that empties the Lasso
    grid = torch.logspace(0, -flags["decades"], flags["penalties"], dtype=torch.float64) * top
    settings = {name: flags[name] for name in ("seeds", "steps", "tol", "device")}
    settings["dtype"] = flags["dtype"].value
    return problem, axes | given | settings | {"weight_decay": grid}


def _from_file(context: typer.Context, file: Path) -> "tuple[Problem, dict[str, Any]]":
    """What the file says; flags that it would contradict are refused."""
    from symfast.sweep.config_file import read_sweep_file

    beside = {"file", "out", "device", "ray", "as_json", "quiet"}
    given = [
        name
        for name in context.params
        if name not in beside
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise ValueError(f"--{given[0]} and a file exclude each other: write it into {file}")
    found = read_sweep_file(file)
    source = context.get_parameter_source("device")
    chosen = source is not None and source.name == "COMMANDLINE"
    device = {"device": context.params["device"]} if chosen else {}
    return found.problem, found.arguments | device


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
    from symfast.files import write_whole
    from symfast.report.page import png_bytes
    from symfast.sweep.result import metrics

    out.mkdir(parents=True, exist_ok=True)
    there = metrics(result.table, result.axes)
    metric = "sparsity" if "sparsity" in there else there[0]
    write_whole(out / f"{metric}.png", png_bytes(result.plot(metric)))
    result.to_html(out / "report.html")


def _print(result: "SweepResult") -> None:
    """The cells as a table, and where the numbers come from."""
    from rich.console import Console
    from rich.table import Table

    from symfast.build import build_info
    from symfast.sweep.result import cell_table

    table = Table(title=repr(result))
    shown = set(result.varied) | {"depth", "weight_decay", "loss", "objective", "sparsity"}
    shown |= {"zeros", "test_loss", "error", "rank", "distinct", "diverged"}
    cells = cell_table(result.table, result.axes)
    names = [name for name in cells.columns if name in shown]
    for name in names:
        table.add_column(name, justify="right")
    for row in cells[names].head(MOST_LINES).itertuples(index=False):
        table.add_row(*(x if isinstance(x, str) else f"{x:.4g}" for x in row))
    console = Console()
    console.print(table)
    if len(cells) > MOST_LINES:
        console.print(f"and {len(cells) - MOST_LINES} more cells")
    kernels = "compiled kernels" if build_info()["kernels"] else "PURE PYTHON, no compiled kernels"
    origin = f"{result.seconds:.2f} s in the kernel" if result.seconds else "read from disk"
    console.print(f"{origin}; {result.config['dtype']} on {result.config['device']}, {kernels}")
    if result.directory is not None:
        console.print(f"written: {result.directory}")
