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


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_readme_example() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"print": lambda *_: None})
