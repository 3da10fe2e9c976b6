# SPDX-License-Identifier: Apache-2.0
"""Compile the unmodified CUDA kernels for the CPU emulator, from a cache if nothing changed."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
CACHE = HERE.parents[1] / "build" / "emulation"
RUNTIME = ("emulator.cpp", "grid.cpp", "memory.cpp", "signals.cpp", "stacks.cpp", "sanitizer.cpp",
           "report.cpp")  # fmt: skip
FLAGS = ("-std=c++20", "-g1", "-fPIC", "-DSYMFAST_EMULATOR", "-Wall", "-Wextra", "-Werror",
         "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized", f"-I{HERE}", f"-I{CSRC}")  # fmt: skip
KERNEL_FLAGS = ("-fno-strict-aliasing", "-ffp-contract=off")
TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
}


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def clean_environment() -> dict[str, str]:
    """Without a sanitizer's runtime for Python: compilers and sanitized programs die of it."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


@dataclass(frozen=True)
class Build:
    """What to compile beside the run time, which alone stays without the sanitizer.

    ``edit`` is ``file:old=>new``: a bug planted in a copy of one kernel header.
    """

    sources: tuple[str, ...] = ("kernels.cpp",)
    dtype: torch.dtype = torch.float32
    sanitizer: str = ""
    program: bool = False
    edit: str = ""
    verbs: tuple[int, ...] = tuple(range(6))

    def make(self) -> Path:
        """The library or program, from the cache if nothing changed."""
        digest = hashlib.sha256(f"{self}{compiler()}{FLAGS}{KERNEL_FLAGS}".encode())
        for folder in (HERE, CSRC):
            for file in sorted(f for f in folder.iterdir() if f.suffix in (".h", ".cpp", ".cuh")):
                if folder == HERE or file.suffix != ".cpp":
                    digest.update(file.read_bytes())
        names = "_".join(Path(source).stem for source in self.sources)
        target = CACHE / f"{names}_{digest.hexdigest()[:16]}{'' if self.program else '.so'}"
        return _made(target, self._compile_in)

    def _compile_in(self, work: Path) -> None:
        runtime = _made(CACHE / f"runtime_{self.sanitizer}_{_runtime_digest()}.a",
                        lambda folder: _compile_runtime(folder, self.sanitizer))  # fmt: skip
        include = [f"-I{_planted_copy(work, self.edit)}"] if self.edit else []
        instrument = [f"-fsanitize={self.sanitizer}"] if self.sanitizer else []
        # inlined accesses are told apart by where they are called from: where sectors are counted
        optimise = "-O1" if self.dtype == torch.float32 else "-O0"
        flags = [*include, *FLAGS, f"-DEMULATED_TYPE={TYPES[self.dtype]}",
                 f"-DEMULATED_VERBS={sum(1 << verb for verb in self.verbs)}", optimise,
                 *KERNEL_FLAGS, *instrument]  # fmt: skip
        _compile({HERE / name: flags for name in self.sources}, work)
        link = [str(compiler()), *instrument, *(["-rdynamic"] if self.program else ["-shared"]),
                *map(str, work.glob("*.o")), "-Wl,--whole-archive", str(runtime),
                "-Wl,--no-whole-archive", "-o", str(work / "out")]  # fmt: skip
        subprocess.run(link, check=True)


def _made(target: Path, make: Callable[[Path], None]) -> Path:
    """The file, from the cache, or what ``make`` leaves as ``out`` in an empty folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be at it
        if not target.exists():
            work = target.with_name(f"{target.name}.{os.getpid()}")
            work.mkdir(parents=True)
            try:
                make(work)
                (work / "out").rename(target)
            finally:
                shutil.rmtree(work)
    return target


def _compile(sources: dict[Path, list[str]], work: Path) -> None:
    """Objects of all sources, at the same time."""
    jobs = [
        subprocess.Popen(
            [str(compiler()), *flags, "-c", str(source), "-o", str(work / f"{source.name}.o")],
            stderr=subprocess.PIPE, text=True,
        )
        for source, flags in sources.items()
    ]  # fmt: skip
    for job in jobs:
        _, errors = job.communicate()
        if job.returncode:
            raise RuntimeError(f"the emulated kernels do not compile:\n{errors[:4000]}")


def _runtime_digest() -> str:
    digest = hashlib.sha256(f"{compiler()}{FLAGS}".encode())
    for file in sorted(HERE.glob("*.h")) + [HERE / name for name in RUNTIME]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _compile_runtime(work: Path, sanitizer: str) -> None:
    """An archive of the run time, which knows of the sanitizer but is not instrumented."""
    define = {"thread": ["-DEMULATOR_TSAN"], "address": ["-DEMULATOR_ASAN"]}.get(sanitizer, [])
    _compile({HERE / name: [*FLAGS, "-O2", *define] for name in RUNTIME}, work)
    subprocess.run(["ar", "rcs", str(work / "out"), *map(str, work.glob("*.o"))], check=True)


def run_program(program: Path, *arguments: object) -> tuple[int, str]:
    """Run a sanitized program: exit code and everything that was printed."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True, text=True, timeout=250, env=clean_environment(),
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _planted_copy(work: Path, edit: str) -> Path:
    name, change = edit.split(":", 1)
    old, new = change.split("=>")
    copy = work / "csrc"
    shutil.copytree(CSRC, copy, ignore=shutil.ignore_patterns("*.cpp", "*.cu"))
    text = (copy / name).read_text()
    if text.count(old) < 1:
        raise RuntimeError(f"nothing to break: {old!r} is not in {name}")
    (copy / name).write_text(text.replace(old, new))
    return copy
