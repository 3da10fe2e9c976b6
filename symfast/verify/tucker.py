# SPDX-License-Identifier: Apache-2.0
"""Truth case 20: deep Tucker products conserve their balance and recover a multilinear rank."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from symfast.artificial import attached
from symfast.tucker import TuckerWeight, tucker
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most, near
from symfast.verify.quadratic import Weight

SOURCE = "Hariz et al., AISTATS 2024"
SIZE, RANK, WIDE = 8, 2, 5
#: Gradient descent that measures the drift, on half the sum of the squares that are seen: the
#: tolerance of 5 eta per norm change is in these units, a mean of 512 would loosen it 512 times.
ETA, STEPS = 2e-4, 800
#: What recovers the tensor, by name: the optimizer of some parameters.
RECOVERING: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.005),
    "gradient descent": lambda parameters: torch.optim.SGD(parameters, lr=1.0),
}


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """A tensor (8, 8, 8) of multilinear rank 2, the 70% that are seen, and a small start."""
    g = torch.Generator().manual_seed(20)
    core = torch.randn(RANK, RANK, RANK, dtype=torch.float64, generator=g)
    target = core
    for _ in range(3):
        basis = torch.linalg.qr(torch.randn(SIZE, RANK, dtype=torch.float64, generator=g)).Q
        target = torch.tensordot(target, basis, dims=([0], [1]))
    target = target / target.std()
    seen = torch.rand(target.shape, dtype=torch.float64, generator=g) > 0.3
    start = 0.02 * torch.randn(target.shape, dtype=torch.float64, generator=g)
    return target, seen, start


def mismatch(model: nn.Module, target: Tensor, seen: Tensor) -> Tensor:
    """Half the mean square of what is seen of the difference."""
    weight = model.weight
    assert isinstance(weight, Tensor)
    return 0.5 * ((weight - target) * seen).square().mean()


def drift(depth: int, eta: float, steps: int) -> tuple[float, float, float]:
    """Largest change of an invariant, the change of all squared norms together, the loss drop."""
    target, seen, start = problem()
    model = tucker(Weight(5 * start), "weight", WIDE, depth=depth)
    found = next(attached(model))
    artificial = found.artificial
    assert isinstance(artificial, TuckerWeight)

    def squares() -> float:
        return float(sum(p.square().sum() for p in found.tensors))

    with torch.no_grad():  # an uneven start: zero is conserved too easily
        for p, scale in zip(
            found.tensors, torch.linspace(0.8, 1.3, len(found.tensors)), strict=True
        ):
            p.mul_(scale)
        before, norms = artificial.invariants(found.tensors).clone(), squares()
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    losses = []
    for step in range(steps + 1):
        optimizer.zero_grad()
        loss = target.numel() * mismatch(model, target, seen)
        losses.append(float(loss.detach()))
        if step < steps:
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        moved = artificial.invariants(found.tensors) - before
        return float(moved.abs().max()), abs(squares() - norms), losses[0] - losses[-1]


def recovered(depth: int, by: str, steps: int) -> tuple[Tensor, float]:
    """Singular values (3, 8) of the unfoldings over their largest, and the error at the unseen."""
    target, seen, start = problem()
    model = tucker(Weight(start), "weight", WIDE, depth=depth)
    optimizer = RECOVERING[by](model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        mismatch(model, target, seen).backward()
        optimizer.step()
    weight = model.weight
    assert isinstance(weight, Tensor)
    W = weight.detach()
    unfoldings = torch.stack([W.movedim(n, 0).flatten(1) for n in range(3)])
    s = torch.linalg.svdvals(unfoldings)
    hidden = ~seen
    return s / s[:, :1], float((W - target)[hidden].norm() / target[hidden].norm())


def run(quick: bool) -> CaseResult:
    """Depths 1, 2, 3."""
    checks: list[Check] = []
    series: list[Series] = []
    for depth in (1, 2, 3):
        whole, grown, drop = drift(depth, ETA, STEPS)
        half, _, _ = drift(depth, ETA / 2, 2 * STEPS)
        checks += [
            at_most(f"depth {depth}: drift of the invariants over 5 eta norm change", SOURCE,
                    whole / (5 * ETA * grown), 1.0, "<= 1"),
            at_most(f"depth {depth}: drift over eta times the drop of the loss", "derived",
                    whole / (ETA * drop), 1.2, "<= 1 + O(eta)"),
            near(f"depth {depth}: drift at half the step size over drift", "derived", 0.5,
                 half / whole, 0.1),
        ]  # fmt: skip
        for by in RECOVERING:
            spectra, error = recovered(depth, by, 3_000 if quick else 10_000)
            ranks = (spectra > 0.05).sum(1).tolist()
            series.append(
                Series(f"depth {depth}, {by}", range(1, SIZE + 1), spectra.mean(0).tolist())
            )
            checks += [
                at_most(f"depth {depth}, {by}: unfolding ranks {ranks}, off by", SOURCE,
                        max(abs(r - RANK) for r in ranks), 0),
                at_most(f"depth {depth}, {by}: relative error where nothing was seen", SOURCE,
                        error, 0.05),
            ]  # fmt: skip
    curves = Curves(
        "index", "singular value / largest", tuple(series), "Mean of the three unfoldings of what "
        "was learnt from 70% of a tensor of multilinear rank 2.", yscale="log",
        vertical=((RANK, "rank"),),
    )  # fmt: skip
    return CaseResult(tuple(checks), curves)


CASES = (Case(20, "deep Tucker balance", SOURCE, run),)
