# SPDX-License-Identifier: Apache-2.0
"""Print what the emulated kernels move, beside what they cannot do without."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import emulated  # noqa: E402
import problems  # noqa: E402
from families import FAMILIES, STREAMS  # noqa: E402

import symfast as sf  # noqa: E402

VERBS = ("reflect", "project", "shrink", "prox", "coefficients", "norms")


def print_families() -> None:
    """One line per call: all bytes over the ideal, the worst sectors of a tensor, launches."""
    head = ("kernels", "call", "read", "written", "sectors in", "sectors out", "launches")
    sys.stdout.write("\n{:10}{:27}{:>7}{:>9}{:>12}{:>13}{:>10}\n".format(*head))
    for family, name in STREAMS:
        stream = FAMILIES[family].streams[name]()
        emulator = emulated.load(stream.dtype, FAMILIES[family].source, count_sectors=True)
        stream.call.run(emulator)
        emulator.check()
        words = []
        for way, ideal in enumerate((stream.read, stream.written)):
            found = [emulator.traffic(tensors)[way] for tensors in ideal]
            words += [sum(t.bytes for t in found) / sum(ideal.values())]
            words += [min(t.efficiency for t in found)]
        sys.stdout.write(
            f"{family:10}{name:27}{words[0]:7.3f}{words[2]:9.3f}{words[1]:12.1%}{words[3]:13.1%}"
            f"{emulator.totals()['launches']:10}\n"
        )


def print_gathered() -> None:
    """Units that lie last and are looked up: bytes over the touched ones, sectors asked for once.

    The latter over all that are asked for: part of a sector may be of units that nobody touches.
    """
    head = ("gathered, units last", "verb", "read", "written", "sectors in", "sectors out")
    sys.stdout.write("\n{:38}{:14}{:>7}{:>9}{:>12}{:>13}\n".format(*head))
    emulator = emulated.load(count_sectors=True)
    for name, (w, entry) in problems.gathered_streams().items():
        for verb, word in enumerate(VERBS):
            plan = sf.Plan([entry])
            part = plan._compiled.parts[0]
            emulator.plan(part, verb, amount=0.3, mirrors=plan.mirrors)
            emulator.check()
            read, written = emulator.traffic("parameters")
            ideal = int(part.extent[0, 1]) * w.shape[0] * 4
            sys.stdout.write(
                f"{name:38}{word:14}{read.bytes / ideal:7.3f}{written.bytes / ideal:9.3f}"
                f"{read.once:12.1%}{written.once:13.1%}\n"
            )


def main() -> None:
    """One line per kind of frame and verb, and the other kernels."""
    torch.manual_seed(0)
    head = ("kind of frame", "verb", "read", "written", "sectors in", "sectors out", "barriers")
    sys.stdout.write("{:23}{:14}{:>7}{:>9}{:>12}{:>13}{:>10}\n".format(*head))
    emulator = emulated.load(count_sectors=True)
    for name, (w, entry) in problems.streaming().items():
        for verb, word in enumerate(VERBS):
            plan = sf.Plan([entry])
            emulator.plan(plan._compiled.parts[0], verb, amount=0.3, mirrors=plan.mirrors)
            emulator.check()
            read, written = emulator.traffic("parameters")
            totals = emulator.totals()
            ideal = w.numel() * 4
            sys.stdout.write(
                f"{name:23}{word:14}{read.bytes / ideal:7.3f}{written.bytes / ideal:9.3f}"
                f"{read.efficiency:12.1%}{written.efficiency:13.1%}"
                f"{totals['barriers'] / totals['blocks']:10.1f}\n"
            )
    print_gathered()
    print_families()


if __name__ == "__main__":
    main()
