# SPDX-License-Identifier: Apache-2.0
"""Six alignments: against numpy's correlation, and their invariances."""

import numpy as np
import pytest
import torch

import symfast as sf


def test_equals_numpy_on_entries() -> None:
    h, g = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 4, dtype=torch.float64)
    W = torch.randn(4, 5, dtype=torch.float64)
    found = sf.alignments(h, g, W)
    after, before = h @ W.T, g @ W
    matrices = {
        "Ha": h.T @ h, "Hb": after.T @ after, "Ga": before.T @ before, "Gb": g.T @ g,
        "Za": W.T @ W, "Zb": W @ W.T,
    }  # fmt: skip
    for name, value in found._asdict().items():
        pair = [matrices[name[:2]].flatten().numpy(), matrices[name[2:]].flatten().numpy()]
        assert float(value) == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-12)


def test_scale_and_shift_of_the_centred_form() -> None:
    h, g = torch.randn(2, 40, 5, dtype=torch.float64), torch.randn(2, 40, 4, dtype=torch.float64)
    W = torch.randn(4, 5, dtype=torch.float64)
    raw, centred = sf.alignments(h, g, W), sf.alignments(h, g, W, centred=True)
    for a, b in zip(raw, sf.alignments(3 * h, -2 * g, 5 * W), strict=True):
        torch.testing.assert_close(a, b)
    shifted = sf.alignments(h + 7, g - 2, W, centred=True)
    for a, b in zip(centred, shifted, strict=True):
        assert a.shape == (2,)
        torch.testing.assert_close(a, b)
    assert not torch.allclose(raw.HaZa, centred.HaZa)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="same n"):
        sf.alignments(torch.ones(3, 2), torch.ones(4, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="W has shape"):
        sf.alignments(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2))
