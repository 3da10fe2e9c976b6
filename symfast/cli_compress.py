# SPDX-License-Identifier: Apache-2.0
"""The commands ``symfast compress`` and ``symfast align``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from symfast.cli_failures import failures

if TYPE_CHECKING:
    from symfast.align import Alignment

_MODEL = typer.Argument(help="MODULE:FACTORY, your Python code that makes the torch module.")
_WEIGHTS = typer.Option(help="Its state_dict: a .safetensors file, or a torch.save file.")
_INPUT = typer.Option(
    "--input",
    "-i",
    help="[NAME=]SHAPE[:DTYPE][<HIGH], repeatable: 8,3 or ids=2,12:int64<30522; or one file.",
)
_OUT = typer.Option(help="New directory: model.safetensors, model.pt2, proof.json.")
_TOL = typer.Option(min=0.0, help="Also merge and truncate up to this output change.")
_NORMS = typer.Option("--keep-norms", help="Do not fold batch norms.")
_ATTENTION = typer.Option("--keep-attention", help="No smaller class for nn.MultiheadAttention.")
_JSON = typer.Option("--json", help="Print one JSON object.")
_QUIET = typer.Option("--quiet", "-q", help="Print one sentence.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application.

    Example:
        >>> import typer
        >>> from symfast.cli_compress import register
        >>> app = typer.Typer()
        >>> register(app)
        >>> len(app.registered_commands)
        2
    """
    app.command("compress")(compress_command)
    app.command("align")(align_command)


def compress_command(
    model: Annotated[str, _MODEL],
    inputs: Annotated[list[str], _INPUT],
    weights: Annotated[Path | None, _WEIGHTS] = None,
    out: Annotated[Path | None, _OUT] = None,
    tol: Annotated[float, _TOL] = 0.0,
    keep_norms: Annotated[bool, _NORMS] = False,
    keep_attention: Annotated[bool, _ATTENTION] = False,
    seed: Annotated[int, typer.Option(help="Of inputs and proofs.")] = 0,
    as_json: Annotated[bool, _JSON] = False,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Cut out of a model what does nothing, and prove that the function is the same.

    The smaller model goes to --out as weights and as an exported program, with the proof; the
    directory appears whole or not at all. Without --out only the proof is shown.

    Exit codes: 0 done (also if there was nothing to cut), 1 the model cannot be traced or a file
    cannot be read or written, 2 wrong arguments.

    Example: [bold]symfast compress nets:Net --weights net.safetensors -i 8,3 --out small[/bold]
    """
    from symfast.compress import compress
    from symfast.compress.store import write_compressed
    from symfast.extras import need

    if out is not None and out.exists():
        raise typer.BadParameter(f"{out} exists; give a directory that does not")
    with failures("compress"):
        if out is not None:
            need("--out", "models", "safetensors")
        made, example, notes = _load(model, weights, inputs, seed)
        with _waiting(f"compressing {model}", not (quiet or as_json)):
            options = {"norms": not keep_norms, "slim_attention": not keep_attention}
            small, proof = compress(made, example, tol, seed, **options)
        proof.notes = [*notes, *proof.notes]
        if out is not None:
            proof.notes += write_compressed(out, small, example, proof)
    if as_json:
        typer.echo(json.dumps(proof.facts(), allow_nan=False))
    else:
        typer.echo(proof.summary() if quiet else str(proof))
        for note in [] if quiet else proof.notes:
            typer.echo(f"note: {note}")
        if out is not None:
            typer.echo(f"written: {out}")


def align_command(
    model: Annotated[str, _MODEL],
    weights: Annotated[Path, _WEIGHTS],
    anchor: Annotated[Path, typer.Option(help="Weights to come near to; same names and shapes.")],
    inputs: Annotated[list[str], _INPUT],
    out: Annotated[
        Path | None, typer.Option(help="File for the aligned weights (.safetensors).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Largest number of rounds.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    as_json: Annotated[bool, _JSON] = False,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Move a model along its symmetries as near to an anchor as they go; same function.

    Exit codes: 0 aligned, 1 the model cannot be traced or a file cannot be read or written, 2
    wrong arguments.

    Example: [bold]symfast align nets:Net --weights b.pt --anchor a.pt -i 8,3[/bold]
    """
    from symfast.align import match_models
    from symfast.compress.store import write_weights
    from symfast.extras import need

    with failures("align"):
        need("align", "models", "scipy", *(["safetensors"] if out is not None else []))
        made, example, notes = _load(model, weights, inputs, seed)
        target, _, more = _load(model, anchor, inputs, seed)
        with _waiting(f"aligning {weights} with {anchor}", not (quiet or as_json)):
            found = match_models(made, target, example, rounds=rounds)
        if out is not None:
            write_weights(out, found.model)
    if as_json:
        typer.echo(json.dumps(_facts(found) | {"notes": [*notes, *more]}))
        return
    typer.echo(
        f"distance {found.before:.4g} -> {found.after:.4g} in {len(found.moves)} moves, outputs "
        f"change by {found.error:.1e}"
    )
    for where, kind in [] if quiet else found.rejected:
        typer.echo(f"rolled back: {kind} of {where}")
    for note in [] if quiet else [*notes, *more]:
        typer.echo(f"note: {note}")
    if out is not None:
        typer.echo(f"written: {out}")


def _facts(found: "Alignment") -> dict[str, Any]:
    """What ``symfast align --json`` says."""
    columns = ("round", "group", "kind", "distance")
    return {
        "before": found.before,
        "after": found.after,
        "error": found.error,
        "moves": [dict(zip(columns, move, strict=True)) for move in found.moves],
        "rejected": [dict(zip(("group", "kind"), pair, strict=True)) for pair in found.rejected],
    }


def _load(
    model: str, weights: Path | None, inputs: list[str], seed: int
) -> tuple[Any, Any, list[str]]:
    """The model, its example inputs, and notes on the file."""
    from symfast.model_source import make_inputs, make_model

    if weights is not None and not weights.is_file():
        raise typer.BadParameter(f"{weights} is no file")
    made, notes = make_model(model, weights)
    return made, make_inputs(inputs, seed), notes


@contextmanager
def _waiting(words: str, shown: bool) -> "Iterator[None]":
    """A line that moves on stderr, on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield
        return
    with console.status(words):
        yield
