# SPDX-License-Identifier: Apache-2.0
"""What a reader takes in at once: files of at most 300 lines, functions of at most 40."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("symfast", "csrc", "benchmarks", "examples", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".h", ".cpp", ".cuh", ".cu", ".c"}
)
LONGEST_FILE, LONGEST_FUNCTION = 300, 40


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every function and its lines; a docstring is no line of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines, first = node.end_lineno - node.lineno + 1, node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno is not None:
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


def test_files_are_short() -> None:
    assert len(SOURCES) > 100, "the sources are not beside the tests"
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


@pytest.mark.parametrize("folder", ["symfast", "benchmarks", "examples", "tests"])
def test_functions_are_short(folder: str) -> None:
    long = {
        f"{path.relative_to(ROOT)}: {name}": lines
        for path in SOURCES
        if path.suffix == ".py" and path.is_relative_to(ROOT / folder)
        for name, lines in functions(ast.parse(path.read_text()))
        if lines > LONGEST_FUNCTION
    }
    assert long == {}
