# SPDX-License-Identifier: Apache-2.0
"""One generator in Python, C++ and on SIMD lanes: the same bits, and the right distribution."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from symfast.reference import anchor, philox

CSRC = Path(__file__).parents[1] / "csrc"
FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
}
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
#: Random123 1.14, tests/kat_vectors: philox 4x32 10.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (PI[:4], PI[4:], [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


class Stream(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint64), ("purpose", ctypes.c_uint32),
        ("parameter", ctypes.c_uint32), ("step", ctypes.c_uint32),
    ]  # fmt: skip


@pytest.fixture(scope="module", params=list(FLAGS))
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if request.param != "baseline":
        from symfast import build_info

        supported = build_info().get("supported_isas")
        if not isinstance(supported, list) or request.param not in supported:
            pytest.skip(f"this processor has no {request.param}")
    target = tmp_path_factory.mktemp("philox") / "philox.so"
    subprocess.run(
        [compiler, "-std=c++20", "-O2", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC",
         "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", *FLAGS[request.param],
         str(Path(__file__).parent / "philox_program.cpp"), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], wanted: list[int]) -> None:
    found = philox.philox4x32(torch.tensor(counter), (key[0], key[1]))
    assert found.tolist() == wanted


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_known_answers_in_cpp(
    library: ctypes.CDLL, counter: list[int], key: list[int], wanted: list[int]
) -> None:
    out = (ctypes.c_uint32 * 4)()
    library.words((ctypes.c_uint32 * 4)(*counter), (ctypes.c_uint32 * 2)(*key), out)
    assert list(out) == wanted


@pytest.mark.parametrize("first", [0, 2**36 - 128])  # block numbers across 2^32
def test_the_same_noise_everywhere(library: ctypes.CDLL, first: int) -> None:
    n, seed, parameter, step = 64 * 200, 0xFEDCBA9876543210, 5, 3_000_000_000
    found = torch.empty(2, n)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in found]
    stream = Stream(seed, philox.GRADIENT_NOISE, parameter, step)
    library.noise(ctypes.byref(stream), ctypes.c_int64(first), ctypes.c_int64(n), *pointers)
    wanted = anchor.noise_normals(seed, parameter, step, torch.arange(first, first + n))
    assert torch.equal(found, wanted.expand(2, n))


@pytest.mark.parametrize("first", [0, 2**32 - 6400, 2**32, 3 * 2**32 + 5])
def test_the_same_anchor_everywhere(library: ctypes.CDLL, first: int) -> None:
    n, seed, parameter = 6400, 0xFEDCBA9876543210, 5
    found = torch.empty(4, n)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in found]
    numbers = ctypes.c_uint64(seed), ctypes.c_uint32(parameter), ctypes.c_int64(first)
    library.anchors(*numbers, ctypes.c_int64(n), *pointers)
    i = torch.arange(first, first + n)
    assert torch.equal(found[:2], anchor.anchor_normals(seed, parameter, i).expand(2, n))
    assert torch.equal(found[2:], anchor.anchor_spreads(seed, parameter, i).expand(2, n))


def normals(kind: str, n: int) -> torch.Tensor:
    i = torch.arange(n)
    if kind == "anchor":
        return anchor.anchor_normals(11, 0, i).double()
    return anchor.noise_normals(11, 0, 5, i).double()


@pytest.mark.parametrize("kind", ["anchor", "noise"])
def test_numbers_are_normal(kind: str) -> None:
    """Moments within 5 standard errors, the distribution function within a 1e-6 bound."""
    n = 400_000
    z = normals(kind, n)
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean().item() - mean) < 5 * (variance / n) ** 0.5
    cdf = torch.special.ndtr(z.sort().values)
    steps = torch.arange(1, n + 1) / n
    assert (cdf - steps).abs().max().item() * n**0.5 < 2.7


@pytest.mark.parametrize("kind", ["anchor", "noise"])
@pytest.mark.parametrize("lag", [1, 2, 7, 8, 16, 32, 64])
def test_numbers_are_uncorrelated(kind: str, lag: int) -> None:
    z = normals(kind, 200_000)
    for a in (z, z**2 - 1):  # both numbers of a pair share a radius: squares must not show it
        correlation = (a[lag:] * a[:-lag]).mean() / (a * a).mean()
        assert abs(correlation.item()) < 5 / 200_000**0.5


def test_spreads_are_uniform_and_show_nothing_of_the_anchor() -> None:
    n = 400_000
    i = torch.arange(n)
    z, u = anchor.anchor_normals(11, 0, i).double(), anchor.anchor_spreads(11, 0, i).double()
    steps = torch.arange(1, n + 1) / n
    assert (((u + 1) / 2).sort().values - steps).abs().max().item() * n**0.5 < 2.7
    for a in (z, z**2 - 1, z.abs() - z.abs().mean()):
        for b in (u, u**2 - 1 / 3):
            correlation = (a * b).mean() / (a.std() * b.std())
            assert abs(correlation.item()) < 5 / n**0.5


def test_streams_differ_in_every_key() -> None:
    i = torch.arange(4096)
    base = anchor.noise_normals(1, 2, 3, i)
    others = [
        anchor.noise_normals(1 + (1 << 40), 2, 3, i),
        anchor.noise_normals(1, 3, 3, i),
        anchor.noise_normals(1, 2, 4, i),
        anchor.noise_normals(1, 2, 3, i + 4096),
        anchor.anchor_normals(1, 2, i),
    ]
    for other in others:
        assert abs((base * other).mean().item()) < 5 / 64


def test_uniform_numbers() -> None:
    words = philox.random_block(1, philox.LABEL_NOISE, 0, 0, torch.arange(50_000)).flatten()
    u = philox.uniform(words)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.double().mean().item() - 0.5) < 5 * (1 / 12 / len(u)) ** 0.5
    assert philox.uniform(torch.tensor([0xFFFFFFFF])).item() == 1 - 2**-24
