# SPDX-License-Identifier: Apache-2.0
"""Laws of the replica sweep: kernel = reference, pieces = whole, alone = together, torch.optim."""

from functools import cache

import pytest
import torch
from replica_problems import (
    ACTIVATIONS,
    RULES,
    WRITTEN,
    Call,
    assert_same,
    problem,
    run,
    run_reference,
    select,
)
from torch import Tensor

from symfast import ops
from symfast.reference import replica as reference
from symfast.reference.philox import GRADIENT_NOISE, LABEL_NOISE

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("sizes", "rule", "loss", "activation", "bias"),
    [
        ((5, 11, 3), "sgd", "mse", "relu", True),
        ((1, 1, 1), "sgd", "mse", "tanh", False),
        ((3, 9, 2), "sgd", "mse", "identity", False),
        ((6, 8, 5), "adam", "cross_entropy", "tanh", True),
        ((7, 3, 1), "adamw", "mse", "tanh", False),
    ],
)
def test_kernel_equals_reference(
    sizes: tuple[int, int, int], rule: str, loss: str, activation: str, bias: bool,
    dtype: torch.dtype, tol: float, capability: str,
) -> None:  # fmt: skip
    """100 steps with every kind of noise, schedule and batch in one call."""
    call, want = expected(sizes, rule, loss, activation, bias, dtype)
    got = run(call)
    assert not torch.allclose(want["theta"], call["theta"], atol=1e-2)
    for name in WRITTEN:
        torch.testing.assert_close(got[name], want[name], atol=tol, rtol=tol, msg=name)


@cache
def expected(
    sizes: tuple[int, int, int], rule: str, loss: str, activation: str, bias: bool,
    dtype: torch.dtype,
) -> tuple[Call, dict[str, Tensor]]:  # fmt: skip
    """A problem and what the reference makes of it, once for all instruction sets."""
    torch.manual_seed(1)
    call = problem(6, sizes, dtype, 100, rule, loss, activation, bias, noise=bias)
    return call, run_reference(call)


@needs_kernels
@pytest.mark.parametrize("sizes", [(256, 256, 64), (16, 32, 1), (2, 13, 17), (33, 7, 9)])
def test_shapes(sizes: tuple[int, int, int]) -> None:
    """Every kind of tile, up to the largest network."""
    call = problem(3, sizes, torch.float64, 2, rule="adam", activation="tanh", noise=False)
    torch.testing.assert_close(
        run(call)["theta"], run_reference(call)["theta"], atol=1e-12, rtol=1e-12
    )


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_equal_the_whole(rule: str, dtype: torch.dtype) -> None:
    """Bit for bit, however the steps are cut, with replicas that diverge on the way."""
    call = problem(20, (3, 10, 2), dtype, 200, rule)
    call["rates"]["lr"][4] = 1e30 if dtype == torch.float32 else 1e250
    whole, first, state = run(call), 0, call
    for steps in (1, 63, 64, 7, 30, 35):
        part = call["schedule"][:, first : first + steps].contiguous()
        state = state | run(state, schedule=part, first_step=first)
        first += steps
    assert first == 200
    assert_same({name: state[name] for name in WRITTEN}, whole)
    assert whole["status"][4] == reference.DIVERGED
    assert whole["taken"][4] == 64
    assert whole["status"][5] == reference.FINISHED


@needs_kernels
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replica_alone_is_bitwise_itself(
    activation: str, dtype: torch.dtype, capability: str
) -> None:
    """Whatever lane, block and company; a neighbour that diverges does not disturb it."""
    call = problem(50, (5, 12, 2), dtype, 130, activation=activation)
    call["rates"]["lr"][8] = 1e30
    call["seed"], call["batch"] = call["seed"] * 0 + 3, call["batch"] * 0 + 6
    together = run(call)
    assert (together["status"] != 0).sum() == 1
    for rows in (torch.tensor([7]), torch.tensor([49, 8, 9]), torch.randperm(50)):
        alone = run(select(call, rows))
        assert_same(alone, {name: x[rows] for name, x in together.items()})


@needs_kernels
def test_thread_count_does_not_matter() -> None:
    call, threads, found = problem(70, (4, 9, 1), torch.float32, 90), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(run(call))
    finally:
        torch.set_num_threads(threads)
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


class Net(torch.nn.Module):
    """The same network in torch."""

    def __init__(self, theta: Tensor, sizes: tuple[int, int, int], activation: str) -> None:
        super().__init__()
        self.first = torch.nn.Linear(sizes[0], sizes[1], dtype=theta.dtype)
        self.second = torch.nn.Linear(sizes[1], sizes[2], dtype=theta.dtype)
        self.activation = getattr(torch, activation) if activation != "identity" else torch.clone
        torch.nn.utils.vector_to_parameters(theta, self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_full_step_is_autograd(activation: str, loss: str) -> None:
    sizes = (5, 9, 4)
    call = problem(4, sizes, torch.float64, 1, "sgd", loss, activation, noise=False)
    call["batch"] *= 0
    call["rates"] |= {"weight_decay": torch.zeros(4), "momentum": torch.zeros(4)}
    got = run(call)["theta"]
    measure = getattr(torch.nn.functional, {"mse": "mse_loss"}.get(loss, loss))
    for b in range(4):
        net = Net(call["theta"][b], sizes, activation)
        measure(net(call["x"]), call["y"]).backward()
        g = torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]
        want = call["theta"][b] - call["rates"]["lr"][b] * g
        torch.testing.assert_close(got[b], want, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_is_torch_optim_on_the_same_batches(rule: str) -> None:
    sizes, steps, batch = (4, 6, 2), 50, 7
    call = problem(3, sizes, torch.float64, steps, rule, activation="tanh", noise=False)
    call |= {"batch": torch.full((3,), batch), "kind": torch.zeros(3, dtype=torch.int64)}
    got = run(call)["theta"]
    for b in range(3):
        rate = {name: float(r[b]) for name, r in call["rates"].items()}
        net = Net(call["theta"][b], sizes, "tanh")
        chosen = {"lr": rate["lr"], "weight_decay": rate["weight_decay"]}
        if rule == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                net.parameters(), momentum=rate["momentum"], **chosen
            )
        else:
            kind = torch.optim.Adam if rule == "adam" else torch.optim.AdamW
            betas = (rate["momentum"], rate["beta2"])
            optimizer = kind(net.parameters(), betas=betas, eps=rate["eps"], **chosen)
        for step in range(steps):
            rows = reference.minibatch(int(call["seed"][b]), step, batch, 40)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(call["x"][rows]), call["y"][rows]).backward()
            optimizer.step()
        want = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        torch.testing.assert_close(got[b], want, atol=1e-12, rtol=1e-12)


def test_minibatches_are_uniform_and_shared_by_cells() -> None:
    drawn = torch.cat([reference.minibatch(5, step, 100, 10) for step in range(100)])
    counts = torch.bincount(drawn, minlength=10)
    assert counts.sum() == 10_000
    assert (counts - 1000).abs().max() < 5 * 30  # 5 standard deviations
    assert not torch.equal(reference.minibatch(5, 0, 100, 10), reference.minibatch(5, 1, 100, 10))


@pytest.mark.parametrize("purpose", [LABEL_NOISE, GRADIENT_NOISE])
def test_noise_is_normal_and_differs_by_cell(purpose: int) -> None:
    seed, cell = torch.ones(2, dtype=torch.int64), torch.arange(2)
    z = reference.normals(seed, purpose, cell, torch.tensor([3]), 20_000)[:, 0].double()
    assert z.mean(1).abs().max() < 5 / 20_000**0.5
    assert (z.var(1) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5
    assert abs(float((z[0] * z[1]).mean())) < 5 / 20_000**0.5
    assert (z.pow(4).mean(1) - 3).abs().max() < 5 * (96 / 20_000) ** 0.5


def test_gradient_noise_spreads_weights_as_its_variance_says() -> None:
    """With targets 0 and theta = 0 nothing but the noise moves: variance T (lr sigma)^2."""
    call = problem(400, (2, 4, 1), torch.float64, 30, activation="identity", noise=False)
    zero = torch.zeros(400, dtype=torch.float64)
    call |= {"theta": torch.zeros_like(call["theta"]), "y": 0 * call["y"], "x": 0 * call["x"]}
    call["kind"], call["batch"] = call["kind"] * 0, call["batch"] * 0 + 4
    call["rates"] |= {"lr": zero + 1e-6, "gradient_noise": zero + 2, "weight_decay": zero}
    call["rates"] |= {"momentum": zero}
    theta = run(call)["theta"]
    assert abs(float(theta.var()) / (30 * 4e-12) - 1) < 5 * (2 / theta.numel()) ** 0.5


@needs_kernels
def test_tanh_is_accurate() -> None:
    """One hidden unit, one step of a huge rate turns the activation into a weight change."""
    z = torch.cat([torch.linspace(-12, 12, 4001), torch.logspace(-6, 0, 200)]).double()
    for dtype, tol in ((torch.float32, 4e-7), (torch.float64, 1e-15)):
        # f = v tanh(w x), v = 0, y = -1/2, so that the error is 1 and dv = -lr tanh(w)
        theta = torch.stack([z, 0 * z], 1).to(dtype)
        call = problem(len(z), (1, 1, 1), dtype, 1, activation="tanh", bias=False, noise=False)
        zero = torch.zeros(len(z), dtype=dtype)
        call |= {"theta": theta, "x": torch.ones(1, 1, dtype=dtype)}
        call |= {"y": torch.full((1, 1), -0.5, dtype=dtype), "batch": call["batch"] * 0}
        call["rates"] |= {"lr": zero + 1, "weight_decay": zero, "momentum": zero}
        got = -run(call)["theta"][:, 1].double()
        want = theta[:, 0].double().tanh()
        assert ((got - want).abs() / want.abs().clamp_min(1e-9)).max() < tol
        assert got.abs().max() <= 1
