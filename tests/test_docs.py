# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows runs: every docstring example, and the README's."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import symfast

# importlib, not attributes: sf.sweep is a function and hides the package of that name
MODULES = [
    module.name
    for module in pkgutil.walk_packages(symfast.__path__, "symfast.")
    if module.name not in ("symfast._C", "symfast.__main__")
]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("tutorial_*.md"))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run, one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    names = {"print": lambda *_: None, "__name__": page.stem}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
