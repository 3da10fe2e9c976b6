# SPDX-License-Identifier: Apache-2.0
"""How the commands fail: one sentence on stderr and an exit code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def failures(
    command: str, interrupted: Callable[[], str] = lambda: "; nothing was written"
) -> Iterator[None]:
    """Turn what can go wrong into one sentence on stderr and an exit code.

    Wrong values and types are exit code 2, what the machine or a file refuses is 1, Ctrl-C is 130.

    Args:
        command: its name.
        interrupted: says what a Ctrl-C left, behind the word "interrupted".

    Raises:
        typer.BadParameter: for ValueError and TypeError.
        typer.Exit: for everything else that a user can meet.

    Example:
        >>> import typer
        >>> from symfast.cli_failures import failures
        >>> try:
        ...     with failures("sweep"):
        ...         raise OSError("the disk is full")
        ... except typer.Exit as ended:
        ...     print(ended.exit_code)
        1
    """
    from symfast.checkpoint import CheckpointError

    try:
        yield
    except CheckpointError as error:
        raise _failed(command, error) from error
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error)) from error
    except (RuntimeError, OSError, ImportError) as error:
        raise _failed(command, error) from error
    except KeyboardInterrupt:
        typer.echo(f"interrupted{interrupted()}", err=True)
        raise typer.Exit(130) from None


def _failed(command: str, error: Exception) -> typer.Exit:
    typer.echo(f"symfast {command} failed: {error}", err=True)
    return typer.Exit(1)
