# SPDX-License-Identifier: Apache-2.0
"""The stems with CUDA kernels, beside most of plans and mirrors: one entry brings all evidence."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import factor_calls  # noqa: E402
import prox_calls  # noqa: E402
import replica_calls  # noqa: E402
import sweep_calls  # noqa: E402
import update_calls  # noqa: E402
from family import Family  # noqa: E402

FAMILIES: dict[str, Family] = {
    "factor": factor_calls.FAMILY,
    "factor_sweep": sweep_calls.FAMILY,
    "plan_prox_group": prox_calls.FAMILY,
    "replica": replica_calls.FAMILY,
    "update": update_calls.FAMILY,
}
CALLS = [(name, call) for name, family in FAMILIES.items() for call in family.calls]
TYPED = [(n, c, dtype) for n, c in CALLS for dtype in FAMILIES[n].dtypes]
STREAMS = [(name, stream) for name, family in FAMILIES.items() for stream in family.streams]
PLANTED = [(name, edit, call) for name, family in FAMILIES.items() for edit, call in family.planted]
