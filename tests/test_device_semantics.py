# SPDX-License-Identifier: Apache-2.0
"""Streams, guards and graphs: what the sources show; replays where there is a GPU."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import symfast as sf

CSRC = Path(__file__).parents[1] / "csrc"
SOURCES = sorted(f for f in CSRC.iterdir() if f.suffix in (".cu", ".cuh", ".h"))
#: What launches, waits, allocates or copies behind torch's back.
RUNTIME = re.compile(
    r"<<<|\bcuda(?:Launch|Malloc|Free|Memcpy|Memset|Stream|Device)(?!\w*Attribute)\w+\("
    r"|\bcuda\w*Synchronize\w*\("
)
Tensors = list[torch.Tensor]


def number(value: float) -> torch.Tensor:
    """On the current CUDA device."""
    return torch.full((), value, device="cuda")


def mixed(tensors: Tensors, **options: Any) -> sf.FactorSGD:
    """Factors of the first parameter, the second as it is."""
    rest = [{"params": tensors[1:], "depth": 1}] if tensors[1:] else []
    groups = [{"params": tensors[:1], "depth": 3, "momentum": 0.9}, *rest]
    return sf.FactorSGD(groups, **options)


def constrained(tensors: Tensors, strengths: tuple[float, float], **options: Any) -> sf.optim.SGD:
    """Every parameter in a group and with an entry of its own."""
    plan = sf.Plan([(t, sf.SignFlip([0, 3])) for t in tensors])
    groups = [{"params": [t], "strength": s} for t, s in zip(tensors, strengths, strict=False)]
    return sf.optim.SGD(groups, plan=plan, **options)


def together(tensors: Tensors, **options: Any) -> sf.optim.SGD:
    """One entry over all parameters, each in a group of its own."""
    plan = sf.Plan([(sf.Units([(t, 0) for t in tensors]), sf.SignFlip([0, 3]))])
    return sf.optim.SGD([{"params": [t]} for t in tensors], plan=plan, **options)


STEPS: dict[str, Callable[[Tensors], torch.optim.Optimizer]] = {
    "SGD": lambda p: sf.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD with dampening": lambda p: sf.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "SGD with noise": lambda p: sf.optim.SGD(p, lr=0.1, noise=0.1),
    "SGD, lr on the device": lambda p: sf.optim.SGD(p, lr=number(0.1), momentum=0.9),
    "Adam": lambda p: sf.optim.Adam(p, lr=0.1),
    "AdamW": lambda p: sf.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "AdamW, lr on the device": lambda p: sf.optim.AdamW(p, lr=number(0.1)),
    "FactorSGD": lambda p: mixed(p, lr=0.1, lam=0.1, plain_decay=0.1),
    "FactorSGD, some with momentum": lambda p: sf.FactorSGD(
        [{"params": [t], "depth": 2 + i, "momentum": 0.5 * i} for i, t in enumerate(p)], lr=0.1
    ),
    "FactorSGD on the device": lambda p: mixed(
        p, lr=number(0.1), lam=number(0.1), plain_decay=number(0.1)
    ),
    "plan": lambda p: constrained(p, (0.1, 0.2), lr=0.1, constraint="shrink"),
    "plan, lr on the device": lambda p: constrained(
        p, (0.1, 0.2), lr=number(0.1), constraint="prox"
    ),
    "plan of all": lambda p: together(p, lr=number(0.1), constraint="shrink", strength=0.5),
    "plan by norm": lambda p: together(p, lr=0.1, constraint="prox", strength=0.5, mode="group"),
}


class Crossings(TorchDispatchMode):
    """Notes every operator that moves a tensor between the CPU and a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Numbers of no dim travel as arguments of a kernel, but where they are copied."""
        out = func(*args, **(kwargs or {}))
        copies = "copy" in str(func)
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in tensors if x.ndim or copies}) > 1:
            self.found.append(str(func))
        return out


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA tensors without memory; a torch without CUDA needs these two past its device guard."""
    aten = torch.ops.aten
    monkeypatch.setattr(torch.Tensor, "copy_", lambda x, y: aten.copy_.default(x, y))
    monkeypatch.setattr(torch.Tensor, "fill_", lambda x, y: aten.fill_.Scalar(x, y))
    with torch.no_grad(), FakeTensorMode():
        yield


def parameters() -> Tensors:
    """With gradients, on CUDA."""
    tensors = [torch.empty(*shape, device="cuda") for shape in ((40, 30), (40,))]
    for t in tensors:
        t.grad = torch.empty_like(t)
    return tensors


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


@pytest.mark.usefixtures("imagined")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("name", list(STEPS))
def test_steps_read_nothing_back_and_send_nothing(name: str) -> None:
    """On CUDA tensors without memory a step that asked for a value could not go on.

    Tables are sent in the first step, before a capture, and never again.
    """
    tensors = parameters()
    with pytest.raises(DataDependentOutputException):
        tensors[0].sum().item()
    optimizer = STEPS[name](tensors)
    optimizer.step()
    with Crossings() as crossings:
        for _ in range(3):
            optimizer.step()
    assert not crossings.found
    states = [x for s in optimizer.state.values() for x in s.values()]
    assert {x.device.type for x in states if isinstance(x, torch.Tensor)} <= {"cuda"}


@pytest.mark.usefixtures("imagined")
def test_what_is_sent_is_seen() -> None:
    """A number of the host that changes is sent; a tensor that is written is not."""
    tensors = parameters()
    optimizer = mixed(tensors, lr=0.1, lam=number(0.1))
    optimizer.step()
    penalty = sf.PenaltySchedule(optimizer, sf.schedule.harmonic)
    with Crossings() as crossings:
        penalty.step()
        optimizer.step()
        assert not crossings.found
        optimizer.param_groups[0]["lr"] = 0.2
        optimizer.step()
    assert crossings.found


@pytest.mark.usefixtures("imagined")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
def test_verbs_read_nothing_back_and_send_nothing() -> None:
    w, b = parameters()
    plan = sf.Plan([(w, sf.SignFlip([0, 3])), (b, sf.SignFlip()), (w.mT, sf.Swap([0], [1]))],
                   overlap="order")  # fmt: skip
    amounts = torch.empty(3, device="cuda")
    frame = torch.empty(30, 2, device="cuda")
    with Crossings() as crossings:
        plan.reflect_()
        plan.project_()
        for amount in (0.25, amounts):
            plan.shrink_(amount)
            plan.prox_(amount)
            plan.prox_(amount, mode="group")
        assert plan.norms().device.type == plan.norms("mirror").device.type == "cuda"
        plan.coefficients()
        sf.reflect(w, frame)
    assert not crossings.found


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
    torch.manual_seed(0)
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


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_captured_step_follows_its_settings(device: torch.device) -> None:
    """Tensors that are written, and numbers that another step has sent."""
    w = torch.randn(64, 40, device=device)
    twin, gradient = w.clone(), torch.randn(64, 40, device=device)
    w.grad, twin.grad = gradient, gradient.clone()
    found = [mixed([t], lr=number(0.1), lam=number(0.2)) for t in (w, twin)]
    penalties = [sf.PenaltySchedule(x, sf.schedule.harmonic) for x in found]
    graph = capture(found[0].step)
    for _ in range(2):
        found[1].step()
    graph.replay()
    found[1].step()
    for optimizer, penalty in zip(found, penalties, strict=True):
        penalty.step()
        optimizer.param_groups[0]["lr"].fill_(0.05)
    graph.replay()
    found[1].step()
    assert torch.equal(w, twin)
