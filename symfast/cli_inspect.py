# SPDX-License-Identifier: Apache-2.0
"""The command ``symfast inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from symfast.cli_failures import failures
from symfast.progress import progress_bar


def register(app: typer.Typer) -> None:
    """Add the command to the application.

    Example:
        >>> import typer
        >>> from symfast.cli_inspect import register
        >>> app = typer.Typer()
        >>> register(app)
        >>> len(app.registered_commands)
        1
    """
    app.command("inspect")(inspect_command)


def inspect_command(
    file: Annotated[Path, typer.Argument(help="A .safetensors file, or a torch.save file.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    tol: Annotated[
        float | None,
        typer.Option(help="Relative distance of equal units.  [default: 4 eps]"),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads.  [default: config.json beside the file]"),
    ] = None,
    pairs_up_to: Annotated[
        int, typer.Option(min=0, help="Largest layer whose nearest pair is searched.")
    ] = 4096,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print one sentence.")] = False,
) -> None:
    """Say what collapsed in a checkpoint: zero and equal units, ranks, distance to every mirror.

    Exit codes: 0 inspected, 1 the file cannot be read, 2 wrong arguments.

    Example: [bold]symfast inspect model.safetensors --html report.html[/bold]
    """
    from symfast.inspect import inspect

    if not file.is_file():
        raise typer.BadParameter(f"{file} is no file")
    with failures("inspect"):
        with progress_bar(not (quiet or as_json), "inspect") as progress:
            report = inspect(file, tol=tol, heads=heads, pairs_up_to=pairs_up_to, progress=progress)
        if html is not None:
            report.to_html(html)
    if as_json:
        typer.echo(report.to_json())
    else:
        typer.echo(report.summary() if quiet else str(report), nl=quiet)
    if html is not None and not as_json:
        typer.echo(f"written: {html}")
