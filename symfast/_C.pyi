"""Compiled kernels of symfast: importing this module registers them with torch."""

def build_info() -> dict[str, object]:
    """How this binary was compiled."""

def cpu_capability() -> str:
    """Instruction set the kernels use now."""

def set_cpu_capability(name: str) -> None:
    """Use 'baseline', 'avx2' or 'avx512' from now on; ValueError if not available here."""

def plan_drop(plan: int) -> bool:
    """Forget the plan under this key; False if there is none."""

def plan_count() -> int:
    """How many plans are kept now."""
