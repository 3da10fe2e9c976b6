# SPDX-License-Identifier: Apache-2.0
"""The factor step against a product, its backward and torch's fused SGD, and against memory."""

import pytest
import torch
from machine import in_turns, stream_bandwidth
from tables import cost, point, tables
from torch import Tensor, nn

import symfast as sf
from symfast.factor_op import factor_step_

LARGE = [(10_000_000,)]
#: The parameters of a small residual network or transformer: 465 tensors of 16 to 60 thousand.
SMALL = [((7919 * i) % 60_000 + 16,) for i in range(465)]
LR, LAM = 1e-3, 1e-3
note, report = tables()


class Peer:
    """What people do: factors as parameters, the product in autograd, torch's fused SGD."""

    def __init__(self, shapes: list[tuple[int, ...]], depth: int, momentum: float) -> None:
        self.factors = [
            [nn.Parameter(1 + 0.1 * torch.randn(s)) for _ in range(depth)] for s in shapes
        ]
        self.gradients = [1e-3 * torch.randn(s) for s in shapes]
        flat = [f for fs in self.factors for f in fs]
        self.optimizer = torch.optim.SGD(
            flat, lr=LR, momentum=momentum, weight_decay=2 * LAM / depth, fused=True
        )

    def weights(self) -> list[Tensor]:
        products = []
        for factors in self.factors:
            w = factors[0]
            for f in factors[1:]:
                w = w * f
            products.append(w)
        return products

    def step(self) -> None:
        """Product, its backward for given dl/dw, and the step."""
        self.optimizer.zero_grad()
        torch.autograd.backward(self.weights(), self.gradients)
        self.optimizer.step()


def kernel_state(peer: Peer, momentum: float) -> list[list[Tensor]]:
    """The same numbers as the kernel wants them."""
    factors = [torch.stack([f.detach() for f in fs]).contiguous() for fs in peer.factors]
    velocities = [torch.zeros_like(f) for f in factors] if momentum else []
    return [[f.prod(0) for f in factors], peer.gradients, factors, velocities]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("shapes", [LARGE, SMALL], ids=["1 x 10M", "465 small"])
def test_step(shapes: list[tuple[int, ...]], depth: int, momentum: float) -> None:
    """The fused step, checked against the peer, then both timed in turns."""
    peer = Peer(shapes, depth, momentum)
    state = kernel_state(peer, momentum)
    settings = torch.tensor([[LR, momentum, 2 * LAM / depth]], dtype=torch.float64)
    rows = [0] * len(shapes)

    def fused() -> None:
        factor_step_(*state, settings, rows)

    for _ in range(3):
        peer.step()
        fused()
    for factors, ours in zip(peer.factors, state[2], strict=True):
        torch.testing.assert_close(
            ours, torch.stack([f.detach() for f in factors]), rtol=1e-5, atol=1e-6
        )

    theirs, seconds = in_turns(peer.step, fused, seconds=0.75)
    numbers = sum(w.numel() for w in state[0])
    per_weight = 8 * depth + 8 + (8 * depth if momentum else 0)
    rate = per_weight * numbers / seconds / 1e9
    # the step reads as many numbers as it writes, as a stream in place does
    large = shapes is LARGE
    stream = stream_bandwidth(per_weight * numbers / 1e6, 0) if large else 0.0
    note(
        "Factor step, against product, backward and torch fused SGD",
        tensors=len(shapes),
        D=depth,
        momentum=momentum,
        ms=f"{seconds * 1e3:.2f}",
        over_torch=f"{theirs / seconds:.1f}x",
        bytes_a_weight=per_weight,
        GB_s=f"{rate:.1f}",
        of_an_in_place_stream=f"{rate / stream:.0%}" if large else "",
    )
    if large and not momentum:
        flops = 3 * (depth - 2) + 5 * depth + depth - 1
        point(f"factor step, D = {depth}", flops=flops * numbers, moved=per_weight * numbers,
              seconds=seconds)  # fmt: skip


@pytest.mark.parametrize("exponent", [4, 5, 6, 7])
def test_cost_is_linear(exponent: int) -> None:
    state = kernel_state(Peer([(10**exponent,)], 3, 0.0), 0.0)
    settings = torch.tensor([[LR, 0.0, LAM]], dtype=torch.float64)
    (seconds,) = in_turns(lambda: factor_step_(*state, settings, [0]), seconds=0.2)
    assert all(torch.isfinite(w).all() for w in state[0])
    note("Factor step of one tensor, D = 3", weights=10**exponent, us=f"{seconds * 1e6:.1f}")
    cost("factor step, D = 3", "weights", 10**exponent, seconds)


def test_optimizer_overhead() -> None:
    """FactorSGD on the 465 tensors: what Python adds to the kernel."""
    params = [nn.Parameter(1 + 0.1 * torch.randn(s)) for s in SMALL]
    for p in params:
        p.grad = 1e-3 * torch.randn_like(p)
    optimizer = sf.FactorSGD([{"params": params, "depth": 2}], lr=LR, lam=LAM)
    optimizer.step()
    state = [params, [p.grad for p in params], [optimizer.state[p]["factors"] for p in params], []]
    settings = torch.tensor([[LR, 0.0, LAM]], dtype=torch.float64)
    rows = [0] * len(SMALL)
    with torch.no_grad():
        whole, kernel = in_turns(
            optimizer.step, lambda: factor_step_(*state, settings, rows), seconds=0.5
        )
    note(
        "FactorSGD.step and its kernel, 465 tensors, D = 2",
        ms=f"{whole * 1e3:.2f}",
        kernel_alone=f"{kernel * 1e3:.2f}",
    )
