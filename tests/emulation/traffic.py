# SPDX-License-Identifier: Apache-2.0
"""Print what the emulated kernels move, beside what they cannot do without: float32 plans."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import emulated  # noqa: E402
import problems  # noqa: E402

import symfast as sf  # noqa: E402

VERBS = ("reflect", "project", "shrink", "prox", "coefficients", "norms")


def main() -> None:
    """One line per kind of frame and verb."""
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


if __name__ == "__main__":
    main()
