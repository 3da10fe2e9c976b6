# SPDX-License-Identifier: Apache-2.0
"""Run the CUDA kernels, compiled for the CPU emulator, on CPU tensors."""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import torch
from compiled_kernels import CSRC as CSRC
from compiled_kernels import FLAGS as FLAGS
from compiled_kernels import HERE as HERE
from compiled_kernels import KERNEL_FLAGS as KERNEL_FLAGS
from compiled_kernels import RUNTIME as RUNTIME
from compiled_kernels import TYPES as TYPES
from compiled_kernels import Build as Build
from compiled_kernels import clean_environment as clean_environment
from compiled_kernels import compiler as compiler
from compiled_kernels import run_program as run_program
from recording import Recording

from symfast.chunks import partial_count
from symfast.reference import plan as reference

REFLECT, PROJECT, SHRINK, PROX, COEFFICIENTS, NORMS = range(6)
#: What marks the flags of a call of norms, unless it is told another one.
TAG = 0x1234_5678_9ABC_DEF1
ORDERS = {"forward": 0, "reverse": 1, "random": 2}


class _Plan(ctypes.Structure):
    _fields_ = [
        ("tasks", ctypes.c_void_p), ("chunks", ctypes.c_void_p), ("index", ctypes.c_void_p),
        ("chunk_count", ctypes.c_int64), ("frames", ctypes.c_void_p), ("dense", ctypes.c_int64),
        ("amounts", ctypes.c_void_p), ("amount", ctypes.c_double),
        ("amount_index", ctypes.c_int64), ("out", ctypes.c_void_p),
        ("partials", ctypes.c_void_p), ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("data_count", ctypes.c_int64), ("pointers", ctypes.c_void_p),
        ("mirrors", ctypes.c_int64), ("sums", ctypes.c_void_p), ("workspace", ctypes.c_int64),
        ("tag", ctypes.c_int64), ("by_group", ctypes.c_int64), ("before", ctypes.c_void_p),
        ("root", ctypes.c_int64),
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
    distinct_sectors: int
    widest: int

    @property
    def efficiency(self) -> float:
        """Share of the 32-byte sectors moved that somebody asked for."""
        return self.useful / (32 * self.sectors) if self.sectors else 1.0

    @property
    def once(self) -> float:
        """Sectors that hold something asked for, over those moved: 1 if each was moved once.

        Where part of every sector is foreign, no kernel has a better ``efficiency``.
        """
        return self.distinct_sectors / self.sectors if self.sectors else 1.0


@dataclass
class Emulator:
    """One build of the kernels, and how threads take turns in it."""

    library: ctypes.CDLL
    order: str = "forward"
    seed: int = 1
    preempt: int = 0
    threads: int = 0
    count_sectors: bool = False
    last_blocks: int = 0
    resident: int = 1
    names: dict[str, int] = field(default_factory=dict)
    recording: Recording | None = None

    def start(self) -> None:
        """Forget the last call: counters, messages and allowed memory."""
        self.names = {}
        if self.recording is not None:
            self.recording.forget()
        self.library.emulator_forget()
        self.library.emulator_configure(
            ORDERS[self.order], self.seed, self.preempt, self.threads, int(self.count_sectors)
        )
        self.library.emulator_run_last(ctypes.c_int64(self.last_blocks))
        self.library.emulator_interleave(self.resident)

    def allow(self, name: str, tensor: torch.Tensor | None) -> int:
        """Let kernels touch a tensor's storage; returns its address."""
        if tensor is None or not tensor.untyped_storage().nbytes():
            return 0
        number = self.names.setdefault(name, len(self.names))
        storage = tensor.untyped_storage()
        if self.recording is not None:
            self.recording.storages.append(storage)
        self.library.emulator_allow(
            ctypes.c_void_p(storage.data_ptr()), ctypes.c_int64(storage.nbytes()), number
        )
        return tensor.data_ptr()

    def keep(self, table: ctypes.Array[Any]) -> None:
        """A table of addresses that the arguments of the call point to."""
        if self.recording is not None:
            self.recording.tables.append(table)

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
        values = (ctypes.c_int64 * 14)()
        self.library.emulator_traffic(self.names[name], values)
        return Traffic(*values[:7]), Traffic(*values[7:])

    def call(self, entry: str, arguments: ctypes.Structure, *numbers: int) -> None:
        """Run one C function of the library, or record the call for a sanitized program."""
        if self.recording is not None:
            self.recording.write(entry, arguments, numbers)
        else:
            function = getattr(self.library, entry)
            function(ctypes.byref(arguments), *map(ctypes.c_int64, numbers))

    def plan(
        self,
        part: Any,
        verb: int,
        *,
        amounts: torch.Tensor | None = None,
        amount: float = 0.0,
        per: int = 0,
        mirrors: int = 0,
        workspace: torch.Tensor | None = None,
        tag: int = TAG,
        groups: int = 0,
        before: torch.Tensor | None = None,
        root: bool = False,
    ) -> torch.Tensor | None:
        """One verb of a plan's part; coefficients and norms are returned.

        Norms are of ``mirrors`` mirrors, or of ``groups`` groups. They leave partial sums and flags
        in ``workspace``, of ``workspace_of(part, groups > 0)`` numbers.
        """
        self.start()
        tables = part.tables
        data = [self.allow("parameters", t) for t in part.tensors]
        out = unwritten(part) if verb == COEFFICIENTS else tables.frames.new_empty(0)
        if workspace is None:
            workspace = workspace_of(part, groups > 0)
        sums = torch.full((groups or mirrors,), float("nan"), dtype=torch.float64)
        pointers = torch.zeros(max(1, len(data)), dtype=torch.int64)
        addresses = (ctypes.c_void_p * len(data))(*data)
        self.keep(addresses)
        call = _Plan(
            *(self.allow(n, getattr(tables, n)) for n in ("tasks", "chunks", "index")),
            tables.chunks.shape[0], self.allow("frames", tables.frames), tables.frames.numel() > 0,
            self.allow("amounts", amounts), amount, per, self.allow("out", out),
            self.allow("workspace", workspace), addresses, len(data),
            self.allow("pointers", pointers), groups or mirrors, self.allow("sums", sums),
            workspace.numel() // 2, tag, groups > 0, self.allow("before", before), root,
        )  # fmt: skip
        self.call("emulated_plan", call, verb)
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
        shapes = {COEFFICIENTS: (groups, rows, k), NORMS: (groups, rows)}
        wide = torch.float32 if theta.dtype.itemsize == 2 and verb == NORMS else theta.dtype
        out = theta.new_full(shapes.get(verb, (groups, rows, d)), float("nan"), dtype=wide)
        call = _Mirror(
            self.allow("theta", theta), self.allow("frames", frames),
            self.allow("amounts", amounts), self.allow("out", out), groups, rows, d, k,
            stage == 0, amounts is not None and amounts.numel() == 1, group, stage, None,
        )  # fmt: skip
        self.call("emulated_mirror", call, int(frames.dtype != theta.dtype), verb)
        return out


def unwritten(part: Any) -> torch.Tensor:
    """NaN where coefficients go, zeros in the gaps between entries, where nothing may go."""
    nothing = [torch.full_like(tensor, float("nan")) for tensor in part.tensors]
    return reference.plan_coefficients(nothing, part.tables)


def workspace_of(part: Any, by_group: bool = False) -> torch.Tensor:
    """Poisoned memory for partial sums, and as many flags: at most one for every partial sum."""
    tables = part.tables
    count = partial_count(tables.tasks.numpy(), tables.chunks.numpy())
    count += tables.chunks.shape[0] if by_group else 0
    return torch.full((2 * count,), float("nan"), dtype=torch.float64)


def load(
    dtype: torch.dtype = torch.float32,
    source: str = "kernels.cpp",
    edit: str = "",
    **settings: Any,
) -> Emulator:
    """The emulator with one file's kernels for one element type."""
    build = Build(sources=(source,), dtype=dtype, edit=edit)
    return Emulator(ctypes.CDLL(str(build.make())), **settings)
