# SPDX-License-Identifier: Apache-2.0
"""Read the machine code of the CUDA kernels: registers, stack, widths of access, occupancy.

As a program it prints the table of all kernels of the installed package.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
CACHE = HERE.parents[1] / "build" / "machine_code"
TYPES = {"d": "float64", "f": "float32", "13__nv_bfloat16": "bfloat16", "6__half": "float16"}
VERBS = ("reflect", "project", "shrink", "prox", "coefficients", "norms")
MANGLED = re.compile(r"_ZN7symfast\d+(plan|mirror)_kernelI(d|f|13__nv_bfloat16|6__half)(.*)")
#: An instruction that touches global, local or any memory, or orders that, without its predicate.
MEMORY = re.compile(r"\*/\s+(?:@!?U?P\w+ )?((?:LDG?|STG?|LDL|STL|ATOMG?|REDG?|MEMBAR)\b[\w.]*)")
#: Dynamic shared memory of one block as csrc/*_launch.h ask for it; test_machine_code.py compares.
#: Blocks an SM are counted with the most of it: wide rows of gathered units.
INDEX_BYTES, DENSE_BYTES, TURNED_BYTES, GATHERED_BYTES = 16384, 40960, 16896, 40960
#: Registers a thread may use so that an SM has three blocks of 256 threads, or two.
THREE_BLOCKS, TWO_BLOCKS = 80, 128


@dataclass(frozen=True)
class Traits:
    """What the source says of a kernel."""

    packs: int = 0  # 16 bytes that a thread awaits at once, so often; 0: memory does not limit it
    writes: bool = True  # by packs, where memory limits it
    threads: int = 256
    dynamic: int = 0  # bytes of shared memory of a usual launch
    registers: int = 255

    @property
    def streams(self) -> bool:
        """Whether memory limits it."""
        return self.packs > 0


def _plan(dynamic: int, words: list[str]) -> Traits:
    """kAhead in plan_index.cuh, kKept in dense.cuh: one fewer with amounts."""
    coefficients, norms = words[1] == "coefficients", words[1] == "norms"
    few = words[0] == "plan_index" and words[-1] != "float64" and not coefficients and not norms
    ahead = 3 if few and words[1] in ("prox", "shrink") else 4
    writes = not norms and not (coefficients and words[0] == "mirror")
    return Traits(ahead, writes, dynamic=dynamic, registers=THREE_BLOCKS if few else TWO_BLOCKS)


def _prox_group(_: list[str]) -> Traits:
    """The norms, which find their chunk in memory; the shrinkage finds it in a cache."""
    return Traits(4, dynamic=GATHERED_BYTES, registers=TWO_BLOCKS)


def _factor_step(_: list[str]) -> Traits:
    """kStepAhead in factor.cuh: factors and velocities alone are four."""
    return Traits(4, registers=TWO_BLOCKS)


def _factor_multiply(words: list[str]) -> Traits:
    return Traits(int(words[3]) + ("gradients" in words), registers=TWO_BLOCKS)


def _update(_: list[str]) -> Traits:
    """Two of parameter and gradient each in plain SGD, one of four tensors in Adam."""
    return Traits(4, registers=TWO_BLOCKS)


#: By the first word of its name. Every kernel of the package must be here.
KERNELS: dict[str, Callable[[list[str]], Traits]] = {
    "plan_index": partial(_plan, GATHERED_BYTES),
    "plan_dense": partial(_plan, DENSE_BYTES),
    "plan_prox_group": _prox_group,
    "mirror": partial(_plan, DENSE_BYTES),
    "factor_step": _factor_step,
    "factor_multiply": _factor_multiply,
    "update_kernel": _update,
    "sweep_by_team": lambda _: Traits(threads=128),
    "sweep_by_block": lambda _: Traits(),
    "sweep_by_samples": lambda _: Traits(threads=128),
    "sweep_by_moments": lambda _: Traits(threads=128),
    "train_replica": lambda _: Traits(threads=128),
    "write_table": lambda _: Traits(),
    "count_steps": lambda _: Traits(),
    "report_progress": lambda _: Traits(threads=32),
    "report_replicas": lambda _: Traits(threads=32),
}
#: What the numbers in a mangled name mean.
PARAMETERS: dict[str, tuple[Callable[[int], str], ...]] = {
    "plan_prox_group": (("index", "dense").__getitem__,),
    "factor_multiply": ("depth {}".format, ("", "gradients").__getitem__),
    "sweep_by_team": (str, str),  # depth, threads of a team
    "sweep_by_block": (str,),
    "sweep_by_samples": (str,),
    "sweep_by_moments": (str,),
    "train_replica": (("global", "shared").__getitem__,),
    "update_kernel": (("sgd", "adam").__getitem__,),
}


@dataclass(frozen=True)
class Kernel:
    """What one kernel of one architecture uses."""

    name: str
    architecture: int
    registers: int
    stack: int
    shared: int
    local: int
    instructions: Counter[str] = field(default_factory=Counter, hash=False)
    blocks: int = 0  # resident per SM

    @property
    def traits(self) -> Traits:
        """What its source says."""
        words = self.name.split()
        return KERNELS[words[0]](words)

    @property
    def flying(self) -> int:
        """Bytes per SM that may be on their way from memory."""
        return self.blocks * self.traits.threads * self.traits.packs * 16

    def widest(self, instruction: str) -> int:
        """Bits of the widest LDG or STG."""
        found = [key for key in self.instructions if key.startswith(instruction)]
        return max((int(key.split()[1]) for key in found), default=0)


def tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: on the path, or of the PyPI package of that name."""
    places = Path(sysconfig.get_path("purelib")).glob(f"nvidia/*/bin/{name}")
    return shutil.which(name) or next((str(place) for place in places), None)


def cuda_include() -> Path | None:
    """The folder of cuda_occupancy.h, beside nvcc."""
    nvcc = shutil.which(os.environ.get("CUDACXX", "nvcc"))
    roots = [Path(nvcc).resolve().parents[1]] if nvcc else []
    roots += [Path(os.environ[key]) for key in ("CUDA_HOME", "CUDA_PATH") if key in os.environ]
    for root in [*roots, Path("/usr/local/cuda")]:
        if (root / "include" / "cuda_occupancy.h").exists():
            return root / "include"
    return None


def _run(*command: object, given: str | None = None) -> str:
    environment = dict(os.environ)
    disassembler = tool("nvdisasm")
    if disassembler:  # cuobjdump looks for it there
        environment["PATH"] = f"{Path(disassembler).parent}:{environment['PATH']}"
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, input=given, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[:2000]}")
    return done.stdout


def _plain(symbol: str) -> str:
    """Name, type and what follows, for kernels other than those of plans and mirrors."""
    found = re.match(r"_ZN7symfast(\d+)(\w+)", symbol)
    if not found:
        return symbol
    name, rest = found[2][: int(found[1])], found[2][int(found[1]) :]
    types = re.match(r"I(d|f|13__nv_bfloat16|6__half)((?:L(?:i|b|NS_\d+[A-Za-z]+E)\d+E)*)", rest)
    if not types:
        return name
    numbers = map(int, re.findall(r"L(?:i|b|NS_\d+[A-Za-z]+E)(\d+)E", types[2]))
    words = [word(n) for word, n in zip(PARAMETERS.get(name, ()), numbers, strict=False)]
    return " ".join([name, TYPES[types[1]], *filter(None, words)])


def readable(symbol: str) -> str:
    """A short name: ``plan_dense prox float32`` for a mangled one."""
    found = MANGLED.match(symbol)
    if not found:
        return _plain(symbol)
    kind, number, rest = found.groups()
    verb = VERBS[int(re.search(r"VerbE(\d)", rest)[1])]  # type: ignore[index]
    if kind == "mirror":
        wide = " O float32" if rest.startswith("f") and number not in "df" else ""
        return f"mirror {verb} {TYPES[number]}{wide}"
    return f"plan_{'dense' if 'ELb1E' in rest else 'index'} {verb} {TYPES[number]}"


def architectures(binary: Path) -> list[int]:
    """Those the binary holds machine code for."""
    try:
        listing = _run(tool("cuobjdump"), "-lelf", binary)
    except RuntimeError:  # "does not contain device code"
        return []
    return sorted({int(number) for number in re.findall(r"\.sm_(\d+)\.", listing)})


def read(binary: Path) -> list[Kernel]:
    """All kernels of a cubin or library."""
    kernels: dict[tuple[str, int], Kernel] = {}
    named = re.search(r"\.sm_(\d+)", binary.name)  # a lone cubin is not asked for its architecture
    architecture = int(named[1]) if named else 0
    symbol = ""
    for line in _run(tool("cuobjdump"), "-res-usage", binary).splitlines():
        if found := re.search(r"arch = sm_(\d+)", line):
            architecture = int(found[1])
        elif found := re.match(r"\s*Function (\S+):", line):
            symbol = found[1]
        elif found := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            numbers = [int(n) for n in found.groups()]
            if architecture >= 90:  # with what the driver takes, which is counted again below
                numbers[2] -= min(1024, numbers[2])
            kernels[symbol, architecture] = Kernel(readable(symbol), architecture, *numbers)
    for line in _run(tool("cuobjdump"), "-sass", binary).splitlines():
        if found := re.search(r"code for sm_(\d+)", line):
            architecture = int(found[1])
        elif found := re.match(r"\s*Function : (\S+)", line):
            symbol = found[1]
        elif found := MEMORY.search(line):
            kernels[symbol, architecture].instructions[_width(found[1])] += 1
    return with_occupancy(list(kernels.values()))


def _width(instruction: str) -> str:
    """``LDG 128`` for LDG.E.128.CONSTANT; 32 bits have no suffix. Fences keep theirs."""
    parts = instruction.split(".")
    if parts[0] == "MEMBAR":
        return " ".join(parts)
    bits = {"U8": 8, "S8": 8, "U16": 16, "S16": 16}
    sizes = [int(p) for p in parts if p in ("64", "128")] + [bits[p] for p in parts if p in bits]
    return f"{parts[0]} {sizes[0] if sizes else 32}"


def with_occupancy(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels with their resident blocks per SM, if the toolkit's calculator is there."""
    include = cuda_include()
    if include is None:
        return kernels
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / f"occupancy_{os.getpid()}"
    _run("g++", "-std=c++20", "-w", f"-I{include}", HERE / "occupancy.cpp", "-o", program)
    lines = "".join(
        f"{k.architecture} {k.registers} {k.shared} {k.traits.dynamic} {k.traits.threads}\n"
        for k in kernels
    )
    answers = _run(program, given=lines).split()
    program.unlink()
    return [replace(k, blocks=int(a)) for k, a in zip(kernels, answers, strict=True)]


def probe(architecture: int) -> Path:
    """Compile probe.cu; nvcc must be there. Local memory is an error."""
    CACHE.mkdir(parents=True, exist_ok=True)
    cubin = CACHE / f"probe_{os.getpid()}.sm_{architecture}.cubin"
    nvcc = os.environ.get("CUDACXX", "nvcc")
    _run(nvcc, "-std=c++20", "-O3", "-cubin", f"-arch=sm_{architecture}", f"-I{CSRC}", "-Werror",
         "all-warnings", "-Xptxas", "-warn-spills,-warn-lmem-usage,-Werror", HERE / "probe.cu",
         "-o", cubin)  # fmt: skip
    return cubin


def table(kernels: list[Kernel]) -> str:
    """One line per kernel."""
    head = (f"{'kernel':38}{'sm':>4}{'regs':>6}{'stack':>6}{'shared':>8}{'LDG.128':>8}"
            f"{'STG.128':>8}{'blocks':>7}{'KB/SM':>6}")  # fmt: skip
    rows = [
        f"{k.name:38}{k.architecture:4}{k.registers:6}{k.stack:6}{k.shared + k.traits.dynamic:8}"
        f"{k.instructions['LDG 128']:8}{k.instructions['STG 128']:8}{k.blocks:7}"
        f"{k.flying // 1024:6}"
        for k in sorted(kernels, key=lambda k: (k.name, k.architecture))
    ]
    return "\n".join([head, *rows])


def main() -> int:
    """Print the table for a binary, by default the installed package's."""
    from symfast import _C

    binary = Path(sys.argv[1] if len(sys.argv) > 1 else _C.__file__)
    if not tool("cuobjdump") or not tool("nvdisasm"):
        sys.stderr.write("pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm\n")
        return 1
    if not architectures(binary):
        sys.stderr.write(f"{binary} holds no CUDA machine code\n")
        return 1
    sys.stdout.write(table(read(binary)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
