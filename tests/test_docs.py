# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows runs: every docstring example, and the README's."""

import ast
import doctest
import importlib
import inspect
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
#: What docs/conf.py writes the API page from.
REEXPORT = r"^from (symfast\.\S+) import (\w+) as \2$"
NAMES = {
    name for _, name in re.findall(REEXPORT, Path(symfast.__file__).read_text(), flags=re.MULTILINE)
}
PACKAGES = ["optim", "problems"]
PUBLIC = {name: getattr(symfast, name) for name in sorted(NAMES)} | {
    f"{package}.{name}": getattr(getattr(symfast, package), name)
    for package in PACKAGES
    for name in getattr(symfast, package).__all__
}
DESCRIBED = {name: x for name, x in PUBLIC.items() if callable(x)}
#: Names that compute something from the literature: their docstring, or their module's, says which.
THEORY = [
    *("Anchor", "balance_", "charges", "dcs", "factorize", "low_rank", "noise_balance"),
    *("penalty_threshold", "polar", "project", "prox", "reflect", "remove_symmetry", "shrink"),
    *("stability", "tucker"),
]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("tutorial_*.md")),
]


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


def raising(x: object) -> bool:
    """Whether the code of a function, or of a class's construction, has a raise statement."""
    if getattr(x, "_is_protocol", False):
        return False
    places = [x.__init__, getattr(x, "__post_init__", None)] if isinstance(x, type) else [x]
    sources = [
        inspect.getsource(place)
        for place in places
        if inspect.isfunction(place) and not place.__code__.co_filename.startswith("<")
    ]
    trees = [ast.parse(inspect.cleandoc("\n" + source)) for source in sources]
    return any(isinstance(node, ast.Raise) for tree in trees for node in ast.walk(tree))


@pytest.mark.parametrize("name", list(DESCRIBED))
def test_public_docstrings_are_complete(name: str) -> None:
    """A sentence, the arguments or the shapes, what raises, an example that runs."""
    x = DESCRIBED[name]
    text = inspect.getdoc(x)
    assert text
    first = " ".join(text.split("\n\n")[0].split())
    assert first.endswith("."), first
    assert ">>> " in text, "no example"
    assert "Raises:" in text or not raising(x), "it raises, and does not say what"
    if not isinstance(x, type) and inspect.signature(x).parameters:
        documented = "Args:" in text or "(..." in text or "``" in text
        assert documented, "nothing about its arguments"


@pytest.mark.parametrize("name", THEORY)
def test_theory_has_a_source(name: str) -> None:
    module = importlib.import_module(PUBLIC[name].__module__)
    texts = f"{inspect.getdoc(PUBLIC[name])}\n{inspect.getdoc(module)}"
    assert re.search(r"\b(19|20)\d\d\b|arXiv", texts), "no source with its year"


def test_the_api_page_has_every_public_name() -> None:
    public = {
        name
        for name, x in vars(symfast).items()
        if not name.startswith("_") and not inspect.ismodule(x)
    }
    assert public == NAMES
    conf = (ROOT / "docs" / "conf.py").read_text()
    assert f'r"{REEXPORT}"' in conf, "conf.py finds the names in another way"
    for package in PACKAGES:
        assert f'("{package}", "{package}:' in conf


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: str(path.stem)
)
def test_pictures_of_pages_are_found(page: Path) -> None:
    """Pictures of an included file lie beside that file, which its page has to say."""
    text = page.read_text()
    sources = {page: text}
    for name, options in re.findall(r"```\{include\} (\S+)\n(.*?)```", text, flags=re.DOTALL):
        included = (page.parent / name).resolve()
        sources[included] = included.read_text()
        assert ":relative-images:" in options or "![" not in sources[included]
    for source, words in sources.items():
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", words):
            assert (source.parent / picture).is_file(), f"{source}: {picture}"
