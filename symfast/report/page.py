# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page out of facts, figures and tables; images are inlined."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from symfast.files import write_whole
from symfast.report.hover import HoverPart

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigurePart:
    """A figure with its caption."""

    figure: "Figure"
    caption: str
    kind: str = "figure"

    @property
    def source(self) -> str:
        """The PNG as a data URI."""
        return "data:image/png;base64," + base64.b64encode(png_bytes(self.figure)).decode()


@dataclass(frozen=True)
class TablePart:
    """A table with its caption."""

    caption: str
    table: "pd.DataFrame"
    kind: str = "table"

    @property
    def rows(self) -> list[list[str]]:
        """Cells as text."""
        return [[_text(x) for x in row] for row in self.table.itertuples(index=False)]


@dataclass(frozen=True)
class TextPart:
    """A heading and a paragraph."""

    heading: str
    text: str
    kind: str = "text"


Part: TypeAlias = FigurePart | HoverPart | TablePart | TextPart


def write_page(
    path: str | Path, title: str, facts: Mapping[str, str], parts: Sequence[Part]
) -> Path:
    """Render the page and write it; directories are made as needed.

    Example:
        >>> import tempfile
        >>> from symfast.report.page import TextPart, write_page
        >>> page = write_page(tempfile.mkdtemp() + "/a.html", "Hello", {}, [TextPart("One", "two")])
        >>> "<h2>One</h2>" in page.read_text()
        True
    """
    environment = Environment(
        loader=PackageLoader("symfast.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.jinja").render(title=title, facts=facts, parts=parts)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def png_bytes(figure: "Figure") -> bytes:
    """Render a figure as PNG.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from symfast.report.page import png_bytes
        >>> png_bytes(Figure())[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def facts(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a nested configuration to name and text; long lists are shortened.

    Example:
        >>> from symfast.report.page import facts
        >>> facts({"grid": {"lr": [0.1]}, "steps": 5})
        {'grid lr': '0.1', 'steps': '5'}
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= facts(value, f"{prefix}{name} ")
        elif isinstance(value, list) and len(value) > 8:
            flat[prefix + name] = f"{_text(value[0])} … {_text(value[-1])} ({len(value)} values)"
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(_text, value))
        else:
            flat[prefix + name] = _text(value)
    return flat


def _text(value: Any) -> str:
    """Numbers with four digits, the rest as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
