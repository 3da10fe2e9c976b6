# SPDX-License-Identifier: Apache-2.0
"""Sweeps: many training runs in one kernel call, stored, plotted and reported."""

from symfast.sweep.engine import sweep as sweep
from symfast.sweep.result import SweepResult as SweepResult

__all__ = ["SweepResult", "sweep"]
