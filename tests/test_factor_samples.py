# SPDX-License-Identifier: Apache-2.0
"""Minibatches and noise of product factors: kernel = reference = torch.optim, laws of the noise."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from symfast import ops
from symfast.factor_steps import RandomSteps
from symfast.factor_sweep import FactorSweep, factor_sweep
from symfast.reference.factor_sweep import factor_sweep as reference
from symfast.reference.philox import GRADIENT_NOISE, LABEL_NOISE
from symfast.reference.replica import minibatch, normals

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
f64 = torch.float64
PER = ("factors", "velocity", "lr", "momentum", "lam", "depth", "kind", "lr_kind")


def regression(
    n: int, i: int, o: int = 1, by_output: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data x, y, and their Gram matrix and linear term."""
    x, y = torch.randn(n, i, dtype=f64), torch.randn(n, o, dtype=f64)
    order = torch.arange(i * o)
    if by_output:
        order = order.reshape(i, o).T.flatten()
    gram = torch.kron(x.T @ x / n, torch.eye(o, dtype=f64))[order][:, order]
    return x, y, gram, (x.T @ y / n).flatten()[order]


def mixed(
    replicas: int, slots: int, i: int, o: int, dtype: torch.dtype, by_output: bool = False
) -> dict[str, Any]:
    """Replicas of every depth, with and without minibatches, label noise and gradient noise."""
    x, y, gram, linear = regression(25, i, o, by_output)
    b, d = torch.arange(replicas), i * o
    call: dict[str, Any] = {
        "gram": gram,
        "linear": linear,
        "factors": 0.5 + 0.3 * torch.randn(replicas, slots, d, dtype=f64),
        "velocity": 0.01 * torch.randn(replicas, slots, d, dtype=f64),
        "lr": 0.01 + 0.01 * torch.rand(replicas, dtype=f64),
        "momentum": 0.6 * torch.rand(replicas, dtype=f64),
        "lam": 0.2 * torch.rand(replicas, dtype=f64),
        "schedule": torch.stack([torch.ones(100), torch.linspace(2, 0, 100)]),
        "lr_schedule": torch.stack([torch.ones(100), torch.linspace(1, 0, 100)]),
    }
    call = {name: t.to(dtype) for name, t in call.items()}
    call |= {"kind": b % 2, "lr_kind": b // 2 % 2, "depth": torch.randint(1, slots + 1, b.shape)}
    noise = torch.tensor([0.0, 0.4], dtype=dtype)
    call["random"] = RandomSteps(
        x.to(dtype), y.to(dtype), seed=b % 2 + 2**40, cell=b * 7,
        batch=torch.tensor([0, 0, 5, 16])[b % 4], label_noise=noise[b // 4 % 2],
        gradient_noise=noise[b // 8 % 2], first_step=11, by_output=by_output,
    )  # fmt: skip
    return call


def select(call: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    random: RandomSteps = call["random"]
    names = "seed", "cell", "batch", "label_noise", "gradient_noise"
    mine = random._replace(**{name: getattr(random, name)[rows] for name in names})
    return {k: v[rows] if k in PER else v for k, v in call.items()} | {"random": mine}


def run(call: dict[str, Any], **change: Any) -> FactorSweep:
    return factor_sweep(**({"steps": 100, "check_every": 30} | call | change))


@lru_cache
def expected(
    replicas: int, slots: int, i: int, o: int, dtype: torch.dtype, by_output: bool
) -> tuple[dict[str, Any], FactorSweep]:
    """A call and what the reference makes of it, for all instruction sets."""
    torch.manual_seed(replicas)
    call = mixed(replicas, slots, i, o, dtype, by_output)
    call["factored"] = torch.rand(i * o) > 0.3
    return call, run(call, operator=reference)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(f64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("replicas", "slots", "i", "o"), [(1, 2, 1, 1), (45, 4, 13, 1), (40, 6, 3, 2), (33, 1, 5, 6)]
)
@pytest.mark.parametrize("by_output", [False, True])
def test_kernel_equals_reference(
    replicas: int, slots: int, i: int, o: int, by_output: bool, dtype: torch.dtype, tol: float,
    capability: str,
) -> None:  # fmt: skip
    call, want = expected(replicas, slots, i, o, dtype, by_output)
    got = run(call)
    for name in ("weight", "factors", "velocity", "residual"):
        ours, theirs = getattr(got, name), getattr(want, name)
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol, msg=f"{name} differs")
    assert torch.equal(got.status, want.status)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(f64, 1e-12), (torch.float32, 1e-5)])
def test_gates_equal_reference(dtype: torch.dtype, tol: float, capability: str) -> None:
    call = mixed(60, 4, 3, 3, dtype, by_output=True)
    call["group"] = torch.tensor([0, 1, 2, 2, 2, 5, 5, 5, 5])
    for name in ("factors", "velocity"):
        call[name][:, 1:] = call[name][:, 1:, call["group"]]
    got, want = run(call), run(call, operator=reference)
    torch.testing.assert_close(got.factors, want.factors, atol=tol, rtol=tol)
    assert torch.equal(got.factors[:, 1:], got.factors[:, 1:, call["group"]])


@needs_kernels
@pytest.mark.parametrize("dtype", [f64, torch.float32])
def test_replica_alone_is_bitwise_itself(dtype: torch.dtype, capability: str) -> None:
    """Whatever lane, block and company, with random numbers of its own or without any."""
    call = mixed(100, 3, 5, 2, dtype)
    call["depth"], call["lr_kind"], call["kind"] = (
        torch.full((100,), x) for x in (3, 0, 1)
    )  # so that blocks are full
    together = run(call)
    for rows in (torch.tensor([7]), torch.tensor([0]), torch.tensor([99, 8, 9, 4]),
                 torch.randperm(100)):  # fmt: skip
        alone = run(select(call, rows))
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours, theirs[rows])
    plain = {k: v for k, v in select(call, torch.tensor([0])).items() if k != "random"}
    assert call["random"].batch[0] == call["random"].label_noise[0] == 0
    assert torch.equal(run(plain).weight[0], together.weight[0])


@needs_kernels
def test_pieces_equal_the_whole(capability: str) -> None:
    call = mixed(40, 3, 4, 1, f64)
    whole, state, done = run(call), {}, 0
    for steps in (7, 30, 63):
        part = {k: call[k][:, done : done + steps] for k in ("schedule", "lr_schedule")}
        part["random"] = call["random"]._replace(first_step=11 + done)
        found = run(call | part | state, steps=steps)
        state = {"factors": found.factors, "velocity": found.velocity}
        done += steps
    assert torch.equal(found.weight, whole.weight)
    assert torch.equal(found.velocity, whole.velocity)


def test_is_torch_optim_on_the_same_batches() -> None:
    """One replica, depth 3, label noise on minibatches of 6, cosine rate: autograd and SGD."""
    x, y, gram, linear = regression(20, 4)
    start = 0.5 + torch.rand(1, 3, 4, dtype=f64)
    seed, cell, one = torch.tensor([9]), torch.tensor([77]), torch.ones(1, dtype=f64)
    random = RandomSteps(x, y, seed, cell, torch.tensor([6]), 0.3 * one, 0.1 * one, first_step=4)
    rates = (1 + (torch.pi * torch.arange(50, dtype=f64) / 50).cos()) / 2
    found = factor_sweep(
        gram, linear, start, steps=50, lr=0.02, momentum=0.8, lam=0.3, random=random,
        lr_schedule=rates[None],
    )  # fmt: skip
    factors = [f.clone().requires_grad_() for f in start[0]]
    optimizer = torch.optim.SGD(factors, lr=0.02, momentum=0.8, weight_decay=2 * 0.3 / 3)
    for step, rate in enumerate(rates.tolist()):
        rows = minibatch(9, step + 4, 6, 20)
        at = torch.tensor([step + 4])
        label = normals(seed, LABEL_NOISE, cell, at, 6)[0, 0].double()
        push = normals(seed, GRADIENT_NOISE, cell, at, 4)[0, 0].double()
        w = factors[0] * factors[1] * factors[2]
        error = x[rows] @ w - y[rows, 0] - 0.3 * label
        optimizer.zero_grad()
        (error.square().mean() / 2 + 0.1 * push @ w).backward()
        optimizer.param_groups[0]["lr"] = 0.02 * rate
        optimizer.step()
    torch.testing.assert_close(
        found.factors[0], torch.stack(factors).detach(), atol=1e-12, rtol=1e-12
    )


def one_step(batch: int, label: float, gradient: float, count: int) -> tuple[Tensor, ...]:
    """Gradients (count, 3) of cells at w = 1, and the Gram matrix and the mean they should have."""
    x, y, gram, linear = regression(50, 3)
    zero, one = torch.zeros(count, dtype=torch.int64), torch.ones(count, 1, 3, dtype=f64)
    seeds = torch.arange(count) if batch else zero
    level = torch.ones(count, dtype=f64)
    random = RandomSteps(
        x, y, seeds, torch.arange(count), zero + batch, label * level, gradient * level
    )
    found = factor_sweep(gram, linear, one, steps=1, lr=1.0, random=random)
    return 1 - found.weight, gram, gram.sum(1) - linear


@needs_kernels
def test_samples_give_the_gradient_of_the_gram_matrix() -> None:
    """All samples in order, labels of no noise to speak of; then the mean over minibatches."""
    gradient, _, want = one_step(0, 1e-300, 0.0, 3)
    torch.testing.assert_close(gradient, want.expand(3, 3), atol=1e-14, rtol=0)
    gradient, _, want = one_step(10, 0.0, 0.0, 40_000)
    error = (gradient.mean(0) - want) / (gradient.std(0) / 200)
    assert float(error.abs().max()) < 4
    assert float(gradient.std(0).min()) > 0.1


@needs_kernels
@pytest.mark.parametrize(("label", "gradient"), [(0.7, 0.0), (0.0, 0.7), (0.5, 0.5)])
def test_noise_has_the_right_mean_and_covariance(label: float, gradient: float) -> None:
    """Of all samples: sigma^2 Gram / n from labels, sigma'^2 from gradients."""
    found, gram, want = one_step(0, label, gradient, 40_000)
    covariance = label**2 * gram / 50 + gradient**2 * torch.eye(3, dtype=f64)
    error = (found.mean(0) - want) / (covariance.diagonal() / 40_000).sqrt()
    assert float(error.abs().max()) < 4
    scale = covariance.diagonal().sqrt()
    wrong = (found.T.cov() - covariance) / (scale[:, None] * scale)
    assert float(wrong.abs().max()) < 4 * (2 / 40_000) ** 0.5


@needs_kernels
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": torch.tensor([-1, 0])}, "batch must not be negative"),
        ({"cell": torch.tensor([0, 2**32])}, "cell lie in"),
        ({"x": torch.ones(0, 3), "y": torch.ones(0, 1)}, "need the samples"),
        ({"y": torch.ones(5, 2)}, "inputs times outputs"),
        ({"seed": torch.zeros(3, dtype=torch.int64)}, "stack expects|equal size"),
        ({"label_noise": torch.tensor([-1.0, 0.0])}, "label_noise must be finite"),
        ({"first_step": -1}, "first_step"),
    ],
)
def test_bad_draws_are_refused(change: dict[str, Any], sentence: str) -> None:
    zero = torch.zeros(2, dtype=torch.int64)
    random = RandomSteps(
        torch.ones(5, 3), torch.ones(5, 1), zero, zero, zero + 2, torch.zeros(2), torch.zeros(2)
    )
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        factor_sweep(
            torch.eye(3), torch.ones(3), torch.ones(2, 2, 3), steps=2, lr=0.1,
            random=random._replace(**change),
        )  # fmt: skip
