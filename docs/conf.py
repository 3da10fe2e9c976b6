# SPDX-License-Identifier: Apache-2.0
"""The documentation's site: `make docs` writes build/docs/index.html."""

import re
from pathlib import Path

from sphinx.application import Sphinx

import symfast
from symfast.build import build_info

project = "symfast"
author = "the symfast authors"
copyright = "the symfast authors, Apache-2.0"
release = str(build_info()["symfast"])
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# files outside this folder are included, and what they link to stays a name
suppress_warnings = ["myst.xref_missing", "myst.header"]
default_role = "literal"  # docstrings write `name` for code
autodoc_typehints = "none"  # signatures carry them
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
html_theme = "furo"
html_title = f"symfast {release}"


def api_page() -> str:
    """One entry for every public name, under the heading of the stem that defines it."""
    source = Path(symfast.__file__).read_text()
    names = re.findall(r"^from (symfast\.\S+) import (\w+) as \2$", source, flags=re.MULTILINE)
    lines = ["# API", "", "Every name is `sf.<name>` after `import symfast as sf`.", ""]
    for home, name in sorted(names, key=lambda pair: pair[1].lower()):
        kind = "class" if isinstance(getattr(symfast, name), type) else "function"
        lines += [f"## {name}", "", "```{eval-rst}", f".. auto{kind}:: {home}.{name}", "```", ""]
    for package, title in [("optim", "optim: optimizers"), ("problems", "problems: what to sweep")]:
        lines += [f"## {title}", "", "```{eval-rst}"]
        module = getattr(symfast, package)
        for name in module.__all__:
            if isinstance(getattr(module, name), type):
                lines += [f".. autoclass:: symfast.{package}.{name}"]
        lines += ["```", ""]
    return "\n".join(lines)


Path(__file__).with_name("api.md").write_text(api_page())


def escape_bars(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Outside of code, |x| is a norm and not a substitution."""
    text = re.split(r"(`[^`]*`)", "\n".join(lines))
    text[::2] = [part.replace("|", r"\|") for part in text[::2]]
    lines[:] = "".join(text).split("\n")


def setup(app: Sphinx) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", escape_bars)
