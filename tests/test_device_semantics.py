# SPDX-License-Identifier: Apache-2.0
"""Streams, guards and graphs: what the sources show; replays where there is a GPU."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import symfast as sf

CSRC = Path(__file__).parents[1] / "csrc"
SOURCES = sorted(f for f in CSRC.iterdir() if f.suffix in (".cu", ".cuh", ".h"))
#: What launches, waits, allocates or copies behind torch's back.
RUNTIME = re.compile(
    r"<<<|\bcuda(?:Launch|Malloc|Free|Memcpy|Memset|Stream|Device)(?!\w*Attribute)\w+\("
    r"|\bcuda\w*Synchronize\w*\("
)
STEPS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda p: sf.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD with noise": lambda p: sf.optim.SGD(p, lr=0.1, noise=0.1),
    "Adam": lambda p: sf.optim.Adam(p, lr=0.1),
    "AdamW": lambda p: sf.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


def test_kernels_are_launched_in_one_place_and_nothing_waits() -> None:
    found = {(f.name, call) for f in SOURCES for call in RUNTIME.findall(f.read_text())}
    assert found == {("launch.h", "cudaLaunchKernelEx(")}


@pytest.mark.parametrize("source", sorted(CSRC.glob("*.cu")), ids=lambda f: f.name)
def test_every_operator_guards_the_device_and_takes_its_stream(source: Path) -> None:
    """Every launcher it calls goes through ``launch`` of launch.h."""
    text = source.read_text()
    assert re.search(r"\bOnDevice device\b", text)
    assert "device.stream()" in text
    for header in re.findall(r'#include "(\w+_launch\.h)"', text):
        assert re.search(r"\blaunch\(", (CSRC / header).read_text()), header


@pytest.mark.parametrize("name", list(STEPS))
def test_steps_read_nothing_back(name: str) -> None:
    """On CUDA tensors without memory a step that asked for a value could not go on."""
    with torch.no_grad(), FakeTensorMode():
        tensors = [torch.empty(*shape, device="cuda") for shape in ((40, 30), (7,))]
        for t in tensors:
            t.grad = torch.empty_like(t)
        with pytest.raises(DataDependentOutputException):
            tensors[0].sum().item()
        optimizer = STEPS[name](tensors)
        for _ in range(3):
            optimizer.step()
        states = [x for s in optimizer.state.values() for x in s.values()]
        assert {x.device.type for x in states if isinstance(x, torch.Tensor)} <= {"cuda"}


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Run once on a side stream, as a capture asks for, then capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("name", list(STEPS))
def test_a_captured_step_goes_on(name: str, device: torch.device) -> None:
    """One step before the capture and three replays are four steps: counters are on the device."""
    w = torch.randn(64, 40, device=device)
    twin, gradient = w.clone(), torch.randn(64, 40, device=device)
    w.grad, twin.grad = gradient, gradient.clone()
    optimizers = [STEPS[name]([t]) for t in (w, twin)]
    graph = capture(optimizers[0].step)
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        optimizers[1].step()
    assert torch.equal(w, twin)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_captured_verb_repeats(device: torch.device) -> None:
    w = torch.randn(64, 40, device=device)
    twin = w.clone()
    plans = [sf.Plan([(t, sf.SignFlip([0, 3]))]) for t in (w, twin)]
    graph = capture(lambda: plans[0].shrink_(0.25))
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        plans[1].shrink_(0.25)
    assert torch.equal(w, twin)
