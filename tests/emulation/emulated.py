# SPDX-License-Identifier: Apache-2.0
"""Build the CUDA kernels for the CPU emulator and run them on CPU tensors."""

import ctypes
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from symfast.chunks import partial_count

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
CACHE = HERE.parents[1] / "build" / "emulation"
RUNTIME = ("emulator.cpp", "memory.cpp", "sanitizer.cpp", "report.cpp")
FLAGS = ("-std=c++20", "-g1", "-fPIC", "-DSYMFAST_EMULATOR", "-Wall", "-Wextra", "-Werror",
         "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized", f"-I{HERE}", f"-I{CSRC}")  # fmt: skip
KERNEL_FLAGS = ("-fno-strict-aliasing", "-ffp-contract=off")
TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
}
REFLECT, PROJECT, SHRINK, PROX, COEFFICIENTS, NORMS = range(6)
ORDERS = {"forward": 0, "reverse": 1, "random": 2}


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
        CACHE.mkdir(parents=True, exist_ok=True)
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be at it
            if not target.exists():
                self._compile(target)
        return target

    def _compile(self, target: Path) -> None:
        work = target.with_name(f"{target.name}.{os.getpid()}")
        work.mkdir(parents=True)
        try:
            self._compile_in(work, target)
        finally:
            shutil.rmtree(work)

    def _compile_in(self, work: Path, target: Path) -> None:
        include = [f"-I{_planted_copy(work, self.edit)}"] if self.edit else []
        define = {"thread": ["-DEMULATOR_TSAN"], "address": ["-DEMULATOR_ASAN"]}
        instrument = [f"-fsanitize={self.sanitizer}"] if self.sanitizer else []
        jobs = [(name, ["-O2", *define.get(self.sanitizer, [])]) for name in RUNTIME]
        # inlined accesses are told apart by where they are called from: where sectors are counted
        optimise = "-O1" if self.dtype == torch.float32 else "-O0"
        jobs += [(name, [optimise, *KERNEL_FLAGS, *instrument]) for name in self.sources]
        running = []
        for name, flags in jobs:
            command = [str(compiler()), *include, *FLAGS, f"-DEMULATED_TYPE={TYPES[self.dtype]}",
                       f"-DEMULATED_VERBS={sum(1 << verb for verb in self.verbs)}",
                       *flags, "-c", str(HERE / name), "-o", str(work / f"{name}.o")]  # fmt: skip
            running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for job in running:
            _, errors = job.communicate()
            if job.returncode:
                raise RuntimeError(f"the emulated kernels do not compile:\n{errors[:4000]}")
        link = [str(compiler()), *instrument, *([] if self.program else ["-shared"]),
                *map(str, work.glob("*.o")), "-o", str(work / "out")]  # fmt: skip
        subprocess.run(link, check=True)
        (work / "out").rename(target)


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


class _Plan(ctypes.Structure):
    _fields_ = [
        ("tasks", ctypes.c_void_p), ("chunks", ctypes.c_void_p), ("index", ctypes.c_void_p),
        ("chunk_count", ctypes.c_int64), ("frames", ctypes.c_void_p), ("dense", ctypes.c_int64),
        ("amounts", ctypes.c_void_p), ("amount", ctypes.c_double),
        ("amount_index", ctypes.c_int64), ("out", ctypes.c_void_p),
        ("partials", ctypes.c_void_p), ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("data_count", ctypes.c_int64), ("pointers", ctypes.c_void_p),
        ("mirrors", ctypes.c_int64), ("sums", ctypes.c_void_p),
    ]  # fmt: skip


class _Mirror(ctypes.Structure):
    _fields_ = [
        ("theta", ctypes.c_void_p), ("frames", ctypes.c_void_p), ("amounts", ctypes.c_void_p),
        ("out", ctypes.c_void_p), ("groups", ctypes.c_int64), ("rows", ctypes.c_int64),
        ("d", ctypes.c_int64), ("k", ctypes.c_int64), ("transposed", ctypes.c_bool),
        ("one_amount", ctypes.c_bool), ("group", ctypes.c_bool), ("stage_bytes", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    ]  # fmt: skip


@dataclass
class Traffic:
    """What one launch or several moved to or from tensors of one name."""

    bytes: int
    distinct: int
    requests: int
    sectors: int
    useful: int
    widest: int

    @property
    def efficiency(self) -> float:
        """Share of the 32-byte sectors moved that somebody asked for."""
        return self.useful / (32 * self.sectors) if self.sectors else 1.0


@dataclass
class Emulator:
    """One build of the kernels, and how threads take turns in it."""

    library: ctypes.CDLL
    order: str = "forward"
    seed: int = 1
    preempt: int = 0
    threads: int = 0
    count_sectors: bool = False
    names: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        """Forget the last call: counters, messages and allowed memory."""
        self.names = {}
        self.library.emulator_forget()
        self.library.emulator_configure(
            ORDERS[self.order], self.seed, self.preempt, self.threads, int(self.count_sectors)
        )

    def allow(self, name: str, tensor: torch.Tensor | None) -> int:
        """Let kernels touch a tensor's storage; returns its address."""
        if tensor is None or not tensor.untyped_storage().nbytes():
            return 0
        number = self.names.setdefault(name, len(self.names))
        storage = tensor.untyped_storage()
        self.library.emulator_allow(
            ctypes.c_void_p(storage.data_ptr()), ctypes.c_int64(storage.nbytes()), number
        )
        return tensor.data_ptr()

    def messages(self) -> list[str]:
        """What was found wrong."""
        text = ctypes.create_string_buffer(500)
        found: list[str] = []
        while self.library.emulator_message(len(found), text, len(text)):
            found.append(text.value.decode())
        return found

    def check(self) -> None:
        """Fail with the first messages, if there are any."""
        found = self.messages()
        assert not found, "\n".join(found[:5])

    def totals(self) -> dict[str, int]:
        """Launches, blocks, barriers and so on since the start."""
        values = (ctypes.c_int64 * 6)()
        self.library.emulator_totals(values)
        names = ("launches", "blocks", "barriers", "warp_operations", "atomics", "errors")
        return dict(zip(names, values, strict=True))

    def traffic(self, name: str) -> tuple[Traffic, Traffic]:
        """Loads and stores of the tensors of this name."""
        values = (ctypes.c_int64 * 12)()
        self.library.emulator_traffic(self.names[name], values)
        return Traffic(*values[:6]), Traffic(*values[6:])

    def record(self, file: Any, part: Any, verb: int, amounts: torch.Tensor, mirrors: int) -> None:
        """Append a call to a file that program.cpp runs."""

        def memory(tensor: torch.Tensor) -> bytes:
            storage = tensor.untyped_storage()
            raw = bytes(storage) if storage.nbytes() else b""
            return struct.pack("2q", len(raw), tensor.data_ptr() - storage.data_ptr()) + raw

        file.write(struct.pack("2q", verb, len(part.tensors)))
        for tensor in part.tensors:
            file.write(memory(tensor))
        tables = part.tables
        out = torch.zeros(max(1, tables.numel), dtype=tables.frames.dtype)
        partials = torch.zeros(max(1, workspace(tables)), dtype=torch.float64)
        pointers = torch.zeros(max(1, len(part.tensors)), dtype=torch.int64)
        sums = torch.zeros(mirrors, dtype=torch.float64)
        number, tensors = 0, None
        fields = [
            tables.tasks, tables.chunks, tables.index, tables.chunks.shape[0], tables.frames,
            int(tables.frames.numel() > 0), amounts, number, 1, out, partials, tensors,
            len(part.tensors), pointers, mirrors, sums,
        ]  # fmt: skip
        file.write(struct.pack("q", len(fields)))
        for value in fields:
            if value is None:
                file.write(struct.pack("q", 2))
            elif isinstance(value, torch.Tensor):
                file.write(struct.pack("q", 1) + memory(value))
            else:
                file.write(struct.pack("2q", 0, value))

    def plan(
        self,
        part: Any,
        verb: int,
        *,
        amounts: torch.Tensor | None = None,
        amount: float = 0.0,
        per: int = 0,
        mirrors: int = 0,
    ) -> torch.Tensor | None:
        """One verb of a plan's part; coefficients and norms are returned."""
        self.start()
        tables = part.tables
        data = [self.allow("parameters", t) for t in part.tensors]
        out = torch.full((tables.numel,), float("nan"), dtype=tables.frames.dtype)
        partials = torch.full((max(1, workspace(tables)),), float("nan"), dtype=torch.float64)
        sums = torch.full((mirrors,), float("nan"), dtype=torch.float64)
        pointers = torch.zeros(max(1, len(data)), dtype=torch.int64)
        call = _Plan(
            *(self.allow(n, getattr(tables, n)) for n in ("tasks", "chunks", "index")),
            tables.chunks.shape[0], self.allow("frames", tables.frames), tables.frames.numel() > 0,
            self.allow("amounts", amounts), amount, per, self.allow("out", out),
            self.allow("partials", partials), (ctypes.c_void_p * len(data))(*data), len(data),
            self.allow("pointers", pointers), mirrors, self.allow("sums", sums),
        )  # fmt: skip
        self.library.emulated_plan(ctypes.byref(call), ctypes.c_int64(verb))
        return {COEFFICIENTS: out, NORMS: sums}.get(verb)

    def mirror(self, theta: torch.Tensor, frames: torch.Tensor, verb: int, *,
               amounts: torch.Tensor | None = None, group: bool = False,
               most_shared: int = 99 * 1024) -> torch.Tensor:  # fmt: skip
        """A functional verb on theta (groups, rows, d), O (groups, d, k)."""
        self.start()
        groups, rows, d = theta.shape
        k = frames.shape[2]
        accumulate = 8 if theta.dtype == torch.float64 else 4
        stage = self.library.emulated_stage_bytes(
            ctypes.c_int64(d), ctypes.c_int64(k), ctypes.c_int64(accumulate),
            ctypes.c_int64(most_shared),
        )  # fmt: skip
        if stage == 0:
            dtype = torch.float64 if accumulate == 8 else torch.float32
            frames = frames.to(dtype).transpose(1, 2).contiguous()
        out = theta.new_full((groups, rows, k if verb == COEFFICIENTS else d), float("nan"))
        call = _Mirror(
            self.allow("theta", theta), self.allow("frames", frames),
            self.allow("amounts", amounts), self.allow("out", out), groups, rows, d, k,
            stage == 0, amounts is not None and amounts.numel() == 1, group, stage, None,
        )  # fmt: skip
        self.library.emulated_mirror(
            ctypes.byref(call), ctypes.c_int64(frames.dtype != theta.dtype), ctypes.c_int64(verb)
        )
        return out


def workspace(tables: Any) -> int:
    """Doubles that the sums of squares of all chunks take."""
    return partial_count(tables.tasks.numpy(), tables.chunks.numpy())


def load(dtype: torch.dtype = torch.float32, **settings: Any) -> Emulator:
    """The emulator with the kernels of one element type."""
    return Emulator(ctypes.CDLL(str(Build(dtype=dtype).make())), **settings)
