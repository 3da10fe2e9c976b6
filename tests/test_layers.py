# SPDX-License-Identifier: Apache-2.0
"""Imports point down: every module is in one layer and uses what is beside or below it."""

import ast
from pathlib import Path

import symfast

ROOT = Path(symfast.__file__).parent
#: From the bottom; a package counts as one room. docs/architecture.md says what the layers are.
LAYERS = {
    "ground": """codes dense_symmetry errors extras files index_symmetry orthonormal progress
        symmetry""",
    "arithmetic": "mirror_check plan_tables reference",
    "operators": """build factor_op factor_steps factor_sweep mirror_op ops plan_ops polar replica
        update""",
    "mirrors": """chunks compiled entries frames mirror mirror_index overlap plan plan_state tables
        units views""",
    "training": """anchor artificial dcs factor_init factor_settings factor_sgd factorize fold
        low_rank optim removal schedule threshold tucker""",
    "models": """activity align alignment balance band charges checkpoint compress curvature
        diagnosis duplicates find gauge gram head_match inspect inspect_jobs inspect_report lanczos
        lyapunov measure model_source monitor monitor_store nearest noise_balance order_parameters
        rank sides stability symmetry_group tangent triangle unit_match workers""",
    "experiments": "problems sweep verify",
    "report": "report",
    "command": "__init__ cli cli_compress cli_failures cli_inspect cli_sweep cli_verify demo",
}
#: A result draws its own page when it is asked to, and imports nothing of it before.
DRAWN = {"inspect_report uses report", "sweep uses report", "verify uses report"}


def room(module: str) -> str:
    """What stands after ``symfast.``."""
    return module.split(".")[1] if "." in module else "__init__"


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST) -> set[str]:
    """Modules of symfast that are imported when the code runs, inside functions too."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if is_for_types(node):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("symfast"):
            names = [f"symfast.{a.name}" for a in node.names]
            found |= set(names) if node.module == "symfast" else {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("symfast.")}
        found |= imports(node)
    return found


def graph() -> dict[str, set[str]]:
    """For every room, the rooms it uses."""
    uses: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        mine = room(".".join(part for part in parts if part != "__init__"))
        found = {room(name) for name in imports(ast.parse(path.read_text()))}
        uses.setdefault(mine, set()).update(found - {mine, "_C"})
    return uses


def test_every_room_is_in_one_layer() -> None:
    named = [name for names in LAYERS.values() for name in names.split()]
    assert len(named) == len(set(named))
    assert sorted(named) == sorted(graph())


def test_imports_point_down() -> None:
    height = {name: i for i, names in enumerate(LAYERS.values()) for name in names.split()}
    upward = {
        f"{mine} uses {other}"
        for mine, others in graph().items()
        for other in others
        if height.get(other, 0) > height[mine]
    }
    assert upward == DRAWN
