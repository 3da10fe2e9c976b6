# SPDX-License-Identifier: Apache-2.0
"""What the mirror functions refuse, and with which sentence."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from symfast import errors, mirror, reference

BAD_OPERANDS = [
    ([1.0], torch.eye(2), TypeError, "theta is a list; give a torch.Tensor"),
    (torch.ones(2), None, TypeError, "O is a NoneType"),
    (torch.ones(2, dtype=torch.int64), torch.eye(2), TypeError, "theta is torch.int64"),
    (torch.ones(2), torch.eye(2, dtype=torch.complex64), TypeError, "O is torch.complex64"),
    (
        torch.ones(2),
        torch.eye(2).double(),
        TypeError,
        "theta is torch.float32 and O is torch.float64",
    ),
    (
        torch.ones(2).double(),
        torch.eye(2),
        TypeError,
        "theta is torch.float64 and O is torch.float32",
    ),
    (torch.ones(2).half(), torch.eye(2).bfloat16(), TypeError, "O must have theta's dtype"),
    (torch.ones(2, 2).to_sparse(), torch.eye(2), TypeError, "theta has layout torch.sparse_coo"),
    (torch.ones(2), torch.eye(2, device="meta"), ValueError, "O is on meta but theta is on cpu"),
    (torch.tensor(1.0), torch.eye(1), ValueError, "too few dimensions"),
    (torch.ones(2), torch.ones(2), ValueError, "too few dimensions"),
    (torch.ones(3), torch.eye(2), ValueError, "d is 3 here and 2 there"),
    (torch.ones(2), torch.ones(2, 3), ValueError, "3 columns in 2 dimensions"),
    (torch.ones(3, 2), torch.ones(4, 2, 1), ValueError, "batches do not broadcast"),
]


@pytest.mark.parametrize(("theta", "O", "kind", "sentence"), BAD_OPERANDS)
@pytest.mark.parametrize("module", [mirror, reference])
def test_operands_are_refused_in_words(
    module: Any, theta: Any, O: Any, kind: type[Exception], sentence: str
) -> None:
    for name in ("coefficients", "norms", "reflect", "project"):
        with pytest.raises(kind, match=sentence):
            getattr(module, name)(theta, O)


BAD_AMOUNTS = [
    ("x", TypeError, "is 'x'; give a real number"),
    (1j, TypeError, "is 1j"),
    (None, TypeError, "is None"),
    (torch.tensor(1j), TypeError, "complex64"),
    (torch.tensor(True), TypeError, "bool"),
    (torch.ones(3, device="meta"), ValueError, "is on meta but theta is on cpu"),
    (torch.ones(2), ValueError, r"\(2,\) does not broadcast to the batch \(3,\)"),
    (torch.ones(3, 1), ValueError, "does not broadcast"),
]


@pytest.mark.parametrize(("amount", "kind", "sentence"), BAD_AMOUNTS)
@pytest.mark.parametrize("module", [mirror, reference])
def test_amounts_are_refused_in_words(
    module: Any, amount: Any, kind: type[Exception], sentence: str
) -> None:
    theta, O = torch.ones(3, 2), torch.eye(2)
    for call in (module.shrink, module.prox):
        with pytest.raises(kind, match=sentence):
            call(theta, O, amount)


@pytest.mark.parametrize("module", [mirror, reference])
def test_thresholds_and_modes_are_refused_in_words(module: Any) -> None:
    theta, O = torch.ones(3, 2), torch.eye(2)
    for bad in (-1, -1e-300, float("nan")):
        with pytest.raises(errors.ThresholdError, match="needs a threshold >= 0"):
            module.prox(theta, O, bad)
    with pytest.raises(errors.ModeError, match="mode is 'l2'; choose 'l1'"):
        module.prox(theta, O, 1.0, "l2")
    with pytest.raises(errors.ThresholdError, match="-2"):
        module.prox(theta, O, torch.tensor([1.0, -2.0, 0.0]), check=True)
    assert module.shrink(theta, O, -3).sum() == 24  # any real amount: this one moves away
    assert module.shrink(theta, O, np.float32(0.5)).sum() == 3


DEFECTS = [
    (2 * torch.eye(3), "column 0 has length 2"),
    (torch.tensor([[1.0, 1.0], [0.0, 0.1]]), "columns 0 and 1 have inner product 1"),
    (torch.stack([torch.eye(2), torch.zeros(2, 2)]), r"column 0 has length 0 in O\[1\]"),
    (torch.full((2, 1), torch.nan), "it holds NaN or infinity"),
    (torch.eye(2).half() * 1.5, "column 0 has length 1.5"),
]


@pytest.mark.parametrize(("O", "defect"), DEFECTS)
@pytest.mark.parametrize("module", [mirror, reference])
def test_check_names_the_defect_of_a_frame(module: Any, O: Tensor, defect: str) -> None:
    theta = torch.ones(O.shape[-2], dtype=O.dtype)
    for name in ("coefficients", "norms", "reflect", "project"):
        getattr(module, name)(theta, O)
        with pytest.raises(errors.NotOrthonormalError, match=defect):
            getattr(module, name)(theta, O, check=True)
    with pytest.raises(ValueError, match="tolerance"):
        module.shrink(theta, O, 0.5, check=True)
    with pytest.raises(ValueError, match="tolerance"):
        module.prox(theta, O, 0.5, check=True)


def test_check_accepts_what_rounding_makes_of_a_frame(dtype: torch.dtype) -> None:
    for d, k in ((1, 1), (7, 3), (300, 300), (5000, 8), (4, 0)):
        entries = torch.randn(d, k, dtype=torch.float64)
        O = torch.linalg.qr(entries).Q.to(dtype) if k else entries.to(dtype)
        mirror.project(torch.randn(2, d).to(dtype), O, check=True)
