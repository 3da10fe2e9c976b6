# SPDX-License-Identifier: Apache-2.0
"""Sweeps: many training runs in one kernel call, stored, plotted and reported."""

from symfast.sweep.engine import sweep as sweep
from symfast.sweep.iterate import iterate as iterate
from symfast.sweep.manifest import SweepMismatchError as SweepMismatchError
from symfast.sweep.result import SweepResult as SweepResult
from symfast.sweep.search import objective as objective

__all__ = ["SweepMismatchError", "SweepResult", "iterate", "objective", "sweep"]
