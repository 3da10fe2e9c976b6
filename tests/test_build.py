# SPDX-License-Identifier: Apache-2.0
"""The installation: what was built says so, and says so loudly when it was not."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import symfast
from symfast import ops
from symfast.build import build_info
from symfast.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = Path(symfast.__file__).parent
#: On CUDA their reference runs, which is made of torch's own matrix products.
CPU_ONLY = {"symfast::polar_iterate"}
needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")


def dispatch_keys(key: str) -> set[str]:
    """Names of the symfast operators that have a kernel for `key`."""
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("symfast::")}
    return {name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)}


def test_strict_installation_has_kernels() -> None:
    if os.environ.get("SYMFAST_STRICT", "0") != "1":
        pytest.skip("SYMFAST_STRICT is not 1")
    assert ops.has_kernels(), ops.KERNEL_ERROR


@needs_kernels
def test_cuda_sources_compiled_when_asked_for() -> None:
    if os.environ.get("SYMFAST_CUDA") != "ON":
        pytest.skip("SYMFAST_CUDA is not ON")
    assert build_info()["cuda"]


@needs_kernels
def test_cuda_kernels_accompany_cpu_kernels() -> None:
    if not build_info()["cuda"]:
        pytest.skip("built without nvcc: CUDA kernels were not compiled")
    assert dispatch_keys("CUDA") == dispatch_keys("CPU") - CPU_ONLY


def test_build_info_answers_every_question() -> None:
    info = build_info()
    asked = {"symfast", "kernels", "kernel_error", "cpu_capability", "cuda", "cuda_device"}
    asked |= {"threads", "torch", "python", "platform"}
    if ops.has_kernels():
        asked |= {"compiler", "cxx_standard", "pybind11", "torch_target_version", "isas"}
        asked |= {"supported_isas", "cuda_toolkit", "cuda_architectures", "sanitizer"}
    assert set(info) == asked
    assert symfast.build_info() == info


def test_info_prints_json() -> None:
    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == build_info()


def test_info_is_loud_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "KERNEL_ERROR", "No module named 'symfast._C'")
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    assert "NO COMPILED KERNELS" in result.output
    assert "No module named 'symfast._C'" in result.output
    assert build_info()["kernels"] is False


@needs_kernels
def test_capability_can_be_lowered(capability: str) -> None:
    assert build_info()["cpu_capability"] == capability


@needs_kernels
def test_unknown_capability_is_refused_in_words() -> None:
    from symfast import _C

    with pytest.raises(ValueError, match="CPU capability 'mmx' is not available here"):
        _C.set_cpu_capability("mmx")


def run_python(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@needs_kernels
@pytest.mark.parametrize(("wish", "position"), [("baseline", 0), ("nonsense", -1)])
def test_environment_lowers_capability(wish: str, position: int) -> None:
    code = "import symfast; info = symfast.build_info(); "
    code += f"print(info['cpu_capability'] == info['supported_isas'][{position}])"
    assert run_python(code, SYMFAST_CPU_CAPABILITY=wish) == "True"


def test_core_import_needs_only_torch_and_numpy() -> None:
    edge = "typer rich sklearn pandas pyarrow matplotlib jinja2 jax"
    code = "import sys, torch; before = set(sys.modules); import symfast;"
    code += f"print(*(set('{edge}'.split()) & (set(sys.modules) - before)))"
    assert run_python(code) == ""


@pytest.mark.parametrize("name", ["py.typed", "_C.pyi"])
def test_types_are_shipped(name: str) -> None:
    assert (PACKAGE / name).is_file()


@needs_kernels
def test_stub_matches_binary() -> None:
    from symfast import _C

    stub = ast.parse((PACKAGE / "_C.pyi").read_text(encoding="utf-8"))
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert set(functions) == {name for name in vars(_C) if not name.startswith("_")}
    for name, node in functions.items():
        assert node.returns is not None
        written = f"{name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
        signature, _, sentence = getattr(_C, name).__doc__.strip().partition("\n\n")
        assert (written, ast.get_docstring(node)) == (signature, sentence)


def test_vector_code_stays_in_its_namespace() -> None:
    objects = [*ROOT.glob("build/dev/CMakeFiles/simd_avx*.dir/**/*.o")]
    if not objects or shutil.which("nm") is None:
        pytest.skip("needs nm and the object files that `make test` leaves in build/dev")
    lines = subprocess.run(
        ["nm", "-C", "--defined-only", *objects], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    # Weak symbols are merged by name: one from std:: would bring AVX code to every caller.
    fields = [line.split(maxsplit=2) for line in lines]
    weak = [field[2] for field in fields if len(field) == 3 and field[1] in {"W", "V", "u"}]
    foreign = [name for name in weak if "symfast::avx" not in name]
    assert [name for name in foreign if not name.startswith("DW.ref.")] == []  # a pointer, no code
