# SPDX-License-Identifier: Apache-2.0
"""The ``symfast`` command. Heavy packages are imported inside the command that needs them."""

import json
from typing import Annotated

import typer

from symfast import cli_compress, cli_inspect, cli_sweep, cli_verify

app = typer.Typer(
    help="Symmetries of neural networks as fast torch operators.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main() -> None:
    """Symmetries of neural networks as fast torch operators."""


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how this installation was built and what it runs on.

    Example: [bold]symfast info --json | jq .kernels[/bold]
    """
    from symfast.build import build_info

    facts = build_info()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_table(facts)
    if not facts["kernels"]:
        _print_warning(str(facts["kernel_error"]))


def _print_table(facts: dict[str, object]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="symfast", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        text = ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)
        table.add_row(name, escape(text))
    Console().print(table)


def _print_warning(reason: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel

    sentence = (
        "Every operator runs its slow pure-Python reference.\n"
        f"Reason: {escape(reason)}\n"
        "Cure: have a C++ compiler and torch>=2.13 in place, then reinstall with SYMFAST_STRICT=1, "
        "which shows why a build fails."
    )
    Console(stderr=True).print(Panel(sentence, title="NO COMPILED KERNELS", style="bold red"))


cli_sweep.register(app)
cli_inspect.register(app)
cli_compress.register(app)
cli_verify.register(app)
