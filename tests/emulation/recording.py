# SPDX-License-Identifier: Apache-2.0
"""Calls of emulated kernels as a file that program.cpp runs: sanitizers cannot enter Python.

A call holds the name of a C function, all memory it may touch, its argument structure with the
places of addresses in it, and the whole numbers that follow.
"""

import ctypes
import struct
from typing import Any, BinaryIO

import torch


class Recording:
    """Writes calls to a file; `end` closes it so that the program knows."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.calls = 0
        self.forget()

    def forget(self) -> None:
        """Start the next call: no memory is known."""
        self.storages: list[torch.UntypedStorage] = []
        self.tables: list[Any] = []  # ctypes arrays of addresses

    def write(self, entry: str, arguments: ctypes.Structure, numbers: tuple[int, ...]) -> None:
        """Append one call."""
        self.calls += 1
        raw = bytes(arguments)
        places = [
            (offset, self._place(address))
            for offset, address in _addresses(arguments)
            if address != 0
        ]
        self._numbers(len(entry), len(self.storages), len(self.tables), len(raw), len(places))
        self.file.write(entry.encode())
        for storage in self.storages:
            self._numbers(storage.nbytes())
            self.file.write(bytes(storage))
        for table in self.tables:
            self._numbers(len(table))
            for address in table:
                self._numbers(*(self._place(address) if address else (-1, 0)))
        self.file.write(raw)
        for offset, place in places:
            self._numbers(offset, *place)
        self._numbers(len(numbers), *numbers)

    def end(self) -> None:
        """No more calls."""
        self._numbers(-1)

    def _numbers(self, *numbers: int) -> None:
        self.file.write(struct.pack(f"{len(numbers)}q", *numbers))

    def _place(self, address: int) -> tuple[int, int]:
        """The memory that holds an address, tables after storages, and how far in."""
        for number, storage in enumerate(self.storages):
            if 0 <= address - storage.data_ptr() < max(storage.nbytes(), 1):
                return number, address - storage.data_ptr()
        for number, table in enumerate(self.tables):
            if address == ctypes.addressof(table):
                return len(self.storages) + number, 0
        raise ValueError("an argument points to memory that the call was not allowed to touch")


def _addresses(arguments: ctypes.Structure) -> list[tuple[int, int]]:
    """Offset and value of every pointer in a structure."""
    found = []
    for name, kind in arguments._fields_:
        if kind is ctypes.c_void_p or issubclass(kind, ctypes._Pointer):
            offset = getattr(type(arguments), name).offset
            found.append((offset, struct.unpack_from("q", bytes(arguments), offset)[0]))
    return found
