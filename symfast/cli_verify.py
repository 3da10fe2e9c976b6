# SPDX-License-Identifier: Apache-2.0
"""The command ``symfast verify``."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from symfast.cli_failures import failures
from symfast.extras import need
from symfast.progress import progress_bar

if TYPE_CHECKING:
    from symfast.verify.run import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the command to the application.

    Example:
        >>> import typer
        >>> from symfast.cli_verify import register
        >>> app = typer.Typer()
        >>> register(app)
        >>> len(app.registered_commands)
        1
    """
    app.command("verify")(verify_command)


def verify_command(
    only: Annotated[
        list[int] | None, typer.Option(help="Number of a case; repeatable.  [default: all]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, about a minute.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one page, a figure per case.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    jobs: Annotated[int, typer.Option(help="Cases at a time, one core each.")] = 2,
) -> None:
    """Run the truth cases: every system of the field against its closed form.

    Exit codes: 0 every check holds, 1 a check failed, a case raised or the page cannot be written,
    2 wrong arguments, 130 interrupted.

    Example: [bold]symfast verify --quick --html runs/verify.html[/bold]
    """
    from symfast.verify.run import verify

    with failures("verify"):
        if html is not None:
            _check_page(html)  # now, not after minutes of work
        with progress_bar(not as_json, "verify") as progress:
            report = verify(only or None, quick, jobs=jobs, progress=progress)
    if as_json:
        typer.echo(report.to_json())
    else:
        print_report(report)
    if html is not None:
        with failures("verify"):
            report.to_html(html)
        typer.echo(f"written: {html}", err=True)
    if not report.passed:
        raise typer.Exit(1)


def _check_page(html: Path) -> None:
    """Raise if a page cannot be drawn, or no file made where it is to be."""
    need("the page of verify", "demo", "matplotlib", "jinja2")
    try:
        html.parent.mkdir(parents=True, exist_ok=True)
        if html.is_dir():
            raise IsADirectoryError(f"{html} is a directory")
        with tempfile.TemporaryFile(dir=html.parent):
            pass
    except OSError as error:
        raise OSError(f"the page cannot be written: {error}") from error


def print_report(report: "VerifyReport") -> None:
    """Print the table claim, source, expected, measured, tolerance, verdict."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="symfast verify")
    names = ("case", "seconds", "claim", "source", "expected", "measured", "tolerance", "verdict")
    for name in names:
        table.add_column(name, overflow="fold")
    seconds = {x.case.number: f"{x.seconds:.1f}" for x in report.outcomes}
    for row in report.rows:
        row["seconds"] = seconds.pop(row["case"], "")  # beside the first check of a case
        measured = row["measured"]
        row["measured"] = f"{measured:.4g}" if isinstance(measured, float) else str(measured)
        style = None if row["verdict"] == "passed" else "bold red"
        table.add_row(*(escape(str(row[name])) for name in names), style=style)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file or pipe has no width of its own
    console.print(table)
    console.print(str(report))
