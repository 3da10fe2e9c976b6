# SPDX-License-Identifier: Apache-2.0
"""What nvcc made of the CUDA kernels, read without a GPU; `make cuda-report` prints the table."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from symfast import ops

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

import machine_code  # noqa: E402
from machine_code import Kernel  # noqa: E402

NVCC = shutil.which(os.environ.get("CUDACXX", "nvcc"))
#: Where CUDA was asked for, a missing tool is an error.
ASKED = os.environ.get("SYMFAST_CUDA") == "ON"
pytestmark = pytest.mark.skipif(
    not ASKED and not (machine_code.tool("cuobjdump") and machine_code.tool("nvdisasm")),
    reason="no cuobjdump and nvdisasm; pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm",
)


@pytest.fixture(scope="module")
def installed() -> list[Kernel]:
    """The kernels of plans and mirrors in the installed package."""
    if not ops.has_kernels():
        pytest.skip("no compiled kernels")
    from symfast import _C

    binary = Path(_C.__file__)
    if not ASKED and not machine_code.architectures(binary):
        pytest.skip("compiled without CUDA")
    return machine_code.read(binary)


@pytest.fixture(scope="module", params=[75, 100])
def probed(request: pytest.FixtureRequest) -> list[Kernel]:
    """A few kernels for architectures that are not in the package."""
    if NVCC is None and not ASKED:
        pytest.skip("no nvcc")
    cubin = machine_code.probe(request.param)
    kernels = machine_code.read(cubin)
    cubin.unlink()
    return kernels


#: Of whole words, at addresses that are known to be global.
COUNTS = {"ATOMG 64", "RED 64", "REDG 64"}


def waits(kernel: Kernel) -> bool:
    """Whether blocks wait for others, which they count: csrc/turns.cuh."""
    return kernel.name.startswith("plan_prox_group")


def check_resources(kernels: list[Kernel]) -> None:
    assert kernels
    for kernel in kernels:
        assert kernel.stack == kernel.local == 0, kernel.name
        opcodes = {key.split()[0] for key in kernel.instructions}
        assert not opcodes & {"LDL", "STL", "ATOM"}, kernel.name
        atomics = {key for key in kernel.instructions if key.split()[0] in ("ATOMG", "RED", "REDG")}
        assert bool(atomics) == waits(kernel), kernel.name
        assert atomics <= COUNTS, kernel.name
        if kernel.traits.streams:  # no generic address
            assert opcodes <= {"LDG", "STG", "MEMBAR", "ATOMG", "RED", "REDG"}, kernel.name


def check_registers(kernels: list[Kernel]) -> None:
    """Within their launch bounds; a block of any kernel fits an SM."""
    for kernel in kernels:
        assert kernel.registers <= kernel.traits.registers, kernel.name
        assert kernel.traits.threads * kernel.registers <= 65536, kernel.name


def check_widths(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        if kernel.traits.streams:
            assert kernel.widest("LDG") == 128, kernel.name
            assert not kernel.traits.writes or kernel.widest("STG") == 128, kernel.name


def check_factor_steps(kernels: list[Kernel]) -> None:
    """They write the tensors that they read, and the weight for the gradient: no pack is split."""
    for kernel in kernels:
        if kernel.name in ("factor_step float32", "factor_step float64"):
            assert kernel.instructions["LDG 128"] == kernel.instructions["STG 128"], kernel.name


def check_mirrors(kernels: list[Kernel]) -> None:
    """Their results are new memory: no pack of half types is stored in parts."""
    for kernel in kernels:
        words = kernel.name.split()
        halves = words[0] == "mirror" and words[2] in ("bfloat16", "float16")
        if halves and words[1] != "norms":  # which are single numbers of float32
            assert not kernel.instructions["STG 64"] + kernel.instructions["STG 32"], kernel.name


def check_fences(kernels: list[Kernel]) -> None:
    """Norms of plans agree across blocks by fences that are sequentially consistent: plan_sums.cuh.

    Before and after the flags are stored, and when all are seen, by a block and by a warp; where
    blocks wait for others, before a block is counted, and after it has waited.
    """
    for kernel in kernels:
        fences = {key: n for key, n in kernel.instructions.items() if key.startswith("MEMBAR")}
        norms = kernel.name.startswith("plan") and kernel.name.split()[1] == "norms"
        least = 6 if waits(kernel) else 4 if norms else 0
        assert set(fences) == ({"MEMBAR SC GPU"} if least else set()), kernel.name
        assert fences.get("MEMBAR SC GPU", 0) >= least, kernel.name


def check_occupancy(kernels: list[Kernel]) -> None:
    """H100: 3.35 TB/s * 0.7 us = 2.3 MB on their way, 18 KB an SM (132); asked for: 32 KB."""
    if not kernels[0].blocks:
        pytest.skip("no cuda_occupancy.h")
    for kernel in kernels:
        if kernel.traits.streams and kernel.architecture >= 80:
            assert kernel.flying >= 32 * 1024, kernel.name


def test_installed_architectures(installed: list[Kernel]) -> None:
    """Where CI asks for several, all of them are read."""
    wanted = re.findall(r"\d+", os.environ.get("CUDAARCHS", ""))
    assert {k.architecture for k in installed} >= set(map(int, wanted))


def test_installed_kernels_use_no_local_memory(installed: list[Kernel]) -> None:
    check_resources(installed)


def test_installed_kernels_keep_to_their_registers(installed: list[Kernel]) -> None:
    check_registers(installed)


def test_installed_kernels_move_16_bytes(installed: list[Kernel]) -> None:
    check_widths(installed)


def test_installed_mirrors_split_no_pack(installed: list[Kernel]) -> None:
    check_mirrors(installed)


def test_installed_norms_are_fenced(installed: list[Kernel]) -> None:
    check_fences(installed)


def test_installed_factor_steps_split_no_pack(installed: list[Kernel]) -> None:
    check_factor_steps(installed)


def test_installed_kernels_fill_the_memory_system(installed: list[Kernel]) -> None:
    check_occupancy(installed)


def test_every_kernel_is_known(installed: list[Kernel]) -> None:
    """A kernel that nobody listed would not be checked."""
    assert {k.name.split()[0] for k in installed} == set(machine_code.KERNELS)


def test_every_verb_and_type_is_there(installed: list[Kernel]) -> None:
    found = {k.name for k in installed}
    for dtype in machine_code.TYPES.values():
        for verb in machine_code.VERBS:
            assert f"plan_index {verb} {dtype}" in found
            assert f"plan_dense {verb} {dtype}" in found
            assert f"mirror {verb} {dtype}" in found
        assert {f"plan_prox_group {dtype} {way}" for way in ("index", "dense")} <= found
        assert {f"update_kernel {dtype} {rule}" for rule in ("sgd", "adam")} <= found
        assert f"factor_step {dtype}" in found
        assert {f"factor_multiply {dtype} depth {n} gradients" for n in range(2, 7)} <= found


def test_other_architectures(probed: list[Kernel]) -> None:
    check_resources(probed)
    check_registers(probed)
    check_widths(probed)
    check_fences(probed)
    check_occupancy(probed)


def test_shared_memory_is_what_launches_ask_for() -> None:
    names = ("plan_launch.h", "dense.cuh", "plan_turned.cuh", "plan_staged.cuh")
    text = {name: (machine_code.CSRC / name).read_text() for name in names}
    index = re.search(r"kIndexCache = (\d+) \* 1024", text["plan_launch.h"])
    dense = re.search(r"kDenseCache = kDenseBytes \+ (\d+) \* 1024", text["plan_launch.h"])
    scratch = re.findall(r"k(?:Coefficient|Scratch)Bytes = (\d+);", text["dense.cuh"])
    turned = re.findall(r"k(?:Turned|Shortest) = (\d+)", text["plan_turned.cuh"])
    tile, shortest = map(int, turned)
    assert tile // shortest * (shortest + 1) == machine_code.TURNED_BYTES
    gathered = re.search(r"kStagedBytes = (\d+) \* 1024", text["plan_staged.cuh"])
    assert gathered is not None
    assert int(gathered[1]) * 1024 == machine_code.GATHERED_BYTES
    least = max(machine_code.INDEX_BYTES, 2 * machine_code.TURNED_BYTES)
    assert least <= machine_code.GATHERED_BYTES
    assert index is not None
    assert dense is not None
    assert int(index[1]) * 1024 == machine_code.INDEX_BYTES
    assert sum(map(int, scratch)) + int(dense[1]) * 1024 == machine_code.DENSE_BYTES
