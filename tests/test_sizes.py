# SPDX-License-Identifier: Apache-2.0
"""What a reader takes in at once: files of at most 300 lines, functions of at most 40."""

import ast
import re
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


#: What is not code, and may hold braces: comments, strings, characters, lines of the preprocessor.
NOT_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'(?!\d)"""
    r"""|^[ \t]*\#(?:\\\n|[^\n])*""",
    re.DOTALL | re.MULTILINE,
)
#: What opens a brace whose inside is not a function's.
SCOPE = re.compile(
    r"\bnamespace\b[\w: ]*$|^extern\s*$"
    r"|^(template\s*<.*>\s*)?(requires.*)?(struct|class|union|enum)\b(?!.*\)\s*(const|noexcept)?$)",
    re.DOTALL,
)


def cpp_functions(text: str) -> Iterator[tuple[str, int]]:
    """Every function outside of others, as clang-format lays it out, from its first line on."""
    code = NOT_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    inside: list[int | None] = []  # where a function began; None for a scope
    begin = 0
    for found in re.finditer(r"[{};]", code):
        mark, outside = found[0], not any(start is not None for start in inside)
        if mark == "{":
            head = code[begin : found.start()]
            scope = outside and SCOPE.search(head.strip())
            inside.append(None if scope else begin + len(head) - len(head.lstrip()))
        elif mark == "}":
            start = inside.pop()
            outside = not any(other is not None for other in inside)
            if start is not None and outside:
                head = " ".join(code[start : code.index("{", start)].split())
                yield head, code.count("\n", start, found.end()) + 1
        if outside:
            begin = found.end()
    assert not inside


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


@pytest.mark.parametrize("folder", ["csrc", "benchmarks", "tests"])
def test_cpp_functions_are_short(folder: str) -> None:
    found = [
        (f"{path.relative_to(ROOT)}: {name}", lines)
        for path in SOURCES
        if path.suffix != ".py" and path.is_relative_to(ROOT / folder)
        for name, lines in cpp_functions(path.read_text())
    ]
    assert len(found) > {"csrc": 800, "benchmarks": 100, "tests": 100}[folder], (
        "functions are missed"
    )
    assert {name: lines for name, lines in found if lines > LONGEST_FUNCTION} == {}
