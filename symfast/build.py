# SPDX-License-Identifier: Apache-2.0
"""How this installation was built and what it runs on."""

import platform
from importlib import import_module
from importlib.metadata import version

import torch

from symfast import ops


def build_info() -> dict[str, object]:
    """Describe the kernels, the versions they were built with, and this machine.

    ``kernels`` says whether the compiled kernels are loaded; if not, every operator runs its slow
    pure-Python reference and ``kernel_error`` says why. ``cuda`` says whether the binary contains
    CUDA kernels, ``cuda_device`` names the GPU that torch sees, and ``cpu_capability`` the
    instruction set chosen at run time (``SYMFAST_CPU_CAPABILITY`` lowers it). Nothing raises.

    Example:
        >>> import symfast as sf
        >>> info = sf.build_info()
        >>> info["kernels"] or info["kernel_error"] is not None
        True
    """
    info: dict[str, object] = {
        "symfast": version("symfast"),
        "kernels": ops.has_kernels(),
        "kernel_error": ops.KERNEL_ERROR,
        "cpu_capability": None,
        "cuda": False,
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if ops.has_kernels():
        compiled = import_module("symfast._C")
        info["cpu_capability"] = compiled.cpu_capability()
        info.update(compiled.build_info())
    return info
