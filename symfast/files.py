# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

import glob
import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a neighbour file; at the end flush it to disk and rename it over ``path``.

    If the block raises, the neighbour is removed and ``path`` stays as it was.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.files import replacing
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_bytes(), len(list(path.parent.iterdir()))
        (b'whole', 1)
    """
    fresh = _neighbour(path)
    try:
        with fresh.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _sync(path.parent)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file, or replace it: whole or not at all, whenever the process is killed.

    What killed processes of this machine left beside it is removed. What is no file (a device, a
    pipe) is written to as it is.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.files import write_whole
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
        >>> write_whole(path, "one")
        >>> write_whole(path, b"two")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('two', 1)
    """
    path, data = Path(path), content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()  # a link stays a link
    remove_orphans(path.parent, path.name)
    with replacing(path) as file:
        file.write(data)


def create(path: Path, facts: dict[str, Any]) -> bool:
    """Write JSON to ``path`` unless it exists; of several processes exactly one does.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.files import create
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
        >>> create(path, {"one": 1}), create(path, {"two": 2})
        (True, False)
    """
    if path.exists():
        return False
    fresh = _neighbour(path)
    try:
        with fresh.open("wb") as file:
            file.write(json.dumps(facts, indent=2).encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)  # unlike a rename, this fails if another process was first
    except FileExistsError:
        return False
    finally:
        fresh.unlink(missing_ok=True)
    _sync(path.parent)
    return True


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: if it cannot be read; the sentence names the file.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.files import create, read_json
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
        >>> create(path, {"one": 1}), read_json(path)
        (True, {'one': 1})
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def remove_orphans(directory: Path, name: str | None = None) -> None:
    """Remove neighbour files, of all files or of one, whose process on this machine is dead.

    Example:
        >>> import pathlib, tempfile
        >>> from symfast.files import remove_orphans
        >>> remove_orphans(pathlib.Path(tempfile.mkdtemp()))
    """
    beginning = "*" if name is None else glob.escape(name)
    for path in directory.glob(f"{beginning}.{socket.gethostname()}.*{SUFFIX}"):
        number = path.name.removesuffix(SUFFIX).rsplit(".", 1)[-1]
        if number.isdigit() and not _alive(int(number)):
            path.unlink(missing_ok=True)


def _neighbour(path: Path) -> Path:
    """A name that says which machine and process writes it."""
    return path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}{SUFFIX}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, under another user
        return True
    return True


def _sync(directory: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_value(value: Any) -> Any:
    """A plain value as JSON can have it: NaN and infinity become None.

    Example:
        >>> from symfast.files import json_value
        >>> json_value(float("nan")), json_value(1.5), json_value("a")
        (None, 1.5, 'a')
    """
    return None if isinstance(value, float) and not math.isfinite(value) else value
