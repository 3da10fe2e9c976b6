# SPDX-License-Identifier: Apache-2.0
"""Small versions of the example diagrams show what theory says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import symfast as sf
from symfast import ops

pytestmark = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels: minutes")


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    path = Path(__file__).parent.parent / "examples" / "phase_diagrams.py"
    spec = importlib.util.spec_from_file_location("phase_diagrams", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["phase_diagrams"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def corners(
    diagram: object, decay: list[float], noise: list[float], steps: int
) -> dict[tuple[float, float], float]:
    """The diagram's number at some (decay, noise), mean over 4 seeds."""
    d = diagram
    result = sf.sweep(
        d.problem, weight_decay=decay, label_noise=noise, lr=d.lr, batch_size=d.batch_size,  # type: ignore[attr-defined]
        momentum=0.0, seeds=4, steps=steps, dtype=torch.float32,
    )  # fmt: skip
    means = result.table.groupby(["weight_decay", "label_noise"])[d.metric].mean()  # type: ignore[attr-defined]
    return {key: float(value) for key, value in means.items()}  # type: ignore[misc]


def test_rank_follows_singular_values(examples: ModuleType) -> None:
    diagram = examples.rank()
    s = torch.linalg.svdvals(diagram.problem.targets.T @ diagram.problem.X / 1797)
    ends = s * 2 / 12  # each singular value's threshold
    decay = [float((ends[k] * ends[k + 1]) ** 0.5) for k in (0, 2, 5)] + [float(2 * ends[0])]
    found = corners(diagram, decay, [0.0, 6.0], 5000)
    assert [diagram.predict(x) for x in decay] == [1.0, 3.0, 6.0, 0.0]
    for lam in decay:
        assert abs(found[lam, 0.0] - diagram.predict(lam)) <= 1
    assert found[decay[3], 0.0] == 0
    assert found[decay[2], 6.0] < found[decay[2], 0.0]


def test_noise_is_a_penalty_of_products(examples: ModuleType) -> None:
    """Sparsity is that of the Lasso at the effective penalty, within one weight of ten."""
    diagram = examples.product()
    decay, noise = [0.05, 0.18, 0.4], [0.0, 4.0, 8.0]
    found = corners(diagram, decay, noise, 20_000)
    for (lam, sigma), share in found.items():
        assert abs(share - diagram.predict(diagram.effective(lam, sigma))) <= 0.1
    assert found[0.05, 0.0] + 0.1 < found[0.05, 8.0]


def test_decay_and_noise_remove_units(examples: ModuleType) -> None:
    found = corners(examples.sparsity(), [1e-3, 1.0], [0.0, 4.0], 10_000)
    assert found[1e-3, 0.0] > 15
    assert found[1.0, 4.0] < found[1.0, 0.0] < found[1e-3, 0.0]
    assert found[1e-3, 4.0] < found[1e-3, 0.0]


def test_noise_makes_units_equal(examples: ModuleType) -> None:
    found = corners(examples.distinct(), [6e-4], [0.0, 0.5], 10_000)
    assert found[6e-4, 0.5] < 4 < found[6e-4, 0.0]
