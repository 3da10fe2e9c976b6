# SPDX-License-Identifier: Apache-2.0
"""Whole trainings of two-layer networks against torch.func.vmap, a torch loop and JAX.

``pytest -s benchmarks/bench_replica.py`` prints a table at its end. Every job is the same: 1024
networks, SGD with weight decay on minibatches of 32. Speeds are replica steps a second, the best of
many short runs, on as many threads as torch has; what is compared is run in turns, the peak of
fused multiply-adds too. GFLOP count the five matrix products of a step. Results are compared by
their distributions, because only symfast's random numbers are symfast's.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from machine import best, fma_peak, in_turns
from tables import cost, judged, point, tables
from torch import Tensor
from torch.func import functional_call, grad, vmap

from symfast import build_info
from symfast.replica import parameter_count, replica_sweep_

REPLICAS, BATCH, SAMPLES = 1024, 32, 1000
SIZES = (16, 32, 1)
LR, DECAY = 0.02, 1e-3
#: What is aimed at with lanes of 16: 12x of vmap, compiled or not, and of JAX, 400x of a loop, 65%
#: of the peak, 40% for other shapes. A case fails where that is missed. Lanes of 8 leave the
#: opponents nearer; their floors are below what was measured on a busy machine.
WIDE = "avx512" in build_info()["cpu_capability"]
WANTED = (
    {"loop": 400.0, "vmap": 12.0, "compiled": 12.0, "jax": 12.0, "peak": 0.65, "shapes": 0.4}
    if WIDE
    else {"loop": 200.0, "vmap": 5.0, "compiled": 2.5, "jax": 3.0, "peak": 0.4, "shapes": 0.2}
)

pytestmark = pytest.mark.filterwarnings("default")  # torch.compile and JAX have some of their own


note, report = tables()


def row(job: str, speed: float, words: str) -> None:
    """One line of the table of this file."""
    note("Two-layer networks, SGD, batch 32", job=job, replica_steps_a_second=f"{speed:,.0f}",
         found=words)  # fmt: skip


def flops(sizes: tuple[int, int, int], batch: int = BATCH) -> float:
    """Of one step of one replica: two products forward, three backward."""
    i, h, o = sizes
    return 2.0 * batch * (2 * h * i + 3 * h * o)


def beside_peak(call: Callable[[], object], dtype: torch.dtype, seconds: float = 3.0) -> Any:
    """The shortest time of a call, and the peak of all threads measured between its runs."""
    call()
    times, peaks, stop = [], [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < stop:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
        peaks.append(fma_peak(torch.get_num_threads(), double=dtype == torch.float64))
    return min(times), max(peaks)


@cache
def data(
    sizes: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets of a random teacher with noise, and starts (R, P)."""
    generator = torch.Generator().manual_seed(0)
    i, h, o = sizes
    x = torch.randn(SAMPLES, i, generator=generator)
    y = (x @ torch.randn(i, o, generator=generator) / i**0.5).tanh()
    y = y + 0.1 * torch.randn(SAMPLES, o, generator=generator)
    start = torch.rand(REPLICAS, parameter_count(i, h, o), generator=generator) * 2 - 1
    start[:, : h * (i + 1)] /= i**0.5
    start[:, h * (i + 1) :] /= h**0.5
    return x.to(dtype), y.to(dtype), start.to(dtype)


def train(
    sizes: tuple[int, int, int],
    activation: str,
    steps: int,
    replicas: int = REPLICAS,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Trained parameters by one kernel call; eight seeds share the replicas."""
    x, y, start = data(sizes, dtype)
    rows, number = start[:replicas], torch.arange(replicas)
    theta = rows.repeat(-(-replicas // len(rows)), 1)[:replicas]
    replica_sweep_(
        x, y, theta, torch.zeros_like(theta), theta.new_empty(replicas, 0),
        rates={"lr": torch.full((replicas,), LR), "weight_decay": torch.full((replicas,), DECAY)},
        schedule=torch.ones(1, steps, dtype=dtype), kind=0 * number, seed=number % 8, cell=number,
        batch=0 * number + BATCH, status=0 * number, taken=0 * number, hidden=sizes[1],
        activation=activation,  # type: ignore[arg-type]
    )  # fmt: skip
    return theta


class Net(torch.nn.Module):
    """The network of the opponents."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(SIZES[0], SIZES[1])
        self.second = torch.nn.Linear(SIZES[1], SIZES[2])

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def stacked(start: Tensor) -> dict[str, Tensor]:
    """Parameters (R, ...) by name."""
    net = Net()
    parts = start.split([p.numel() for p in net.parameters()], 1)
    names = dict(net.named_parameters())
    return {
        name: part.reshape(-1, *p.shape).clone()
        for (name, p), part in zip(names.items(), parts, strict=True)
    }


def vmap_step(net: Net, p: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """One SGD step of all replicas on minibatches (R, B, ...)."""

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(functional_call(net, parameters, (x,)), y)

    g = vmap(grad(loss))(p, x, y)
    return {name: w - LR * (g[name] + DECAY * w) for name, w in p.items()}


def by_vmap(steps: int, step: Callable[..., dict[str, Tensor]]) -> Tensor:
    """Trained parameters (R, P); minibatches of eight seeds, as in `train`."""
    x, y, start = data(SIZES)
    p, group = stacked(start), torch.arange(REPLICAS) % 8
    for _ in range(steps):
        rows = torch.randint(SAMPLES, (8, BATCH))[group]
        p = step(p, x[rows], y[rows])
    return torch.cat([w.flatten(1) for w in p.values()], 1)


def by_loop(steps: int) -> Tensor:
    """One replica by torch's own modules and optimizer."""
    x, y, start = data(SIZES)
    net = Net()
    torch.nn.utils.vector_to_parameters(start[0], net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, weight_decay=DECAY)
    for _ in range(steps):
        rows = torch.randint(SAMPLES, (BATCH,))
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x[rows]), y[rows]).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach()


def by_jax(steps: int) -> Callable[[], Any]:
    """jit(vmap(scan)) of the same training."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, y, start = data(SIZES)
    X, Y = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())
    p0 = {k: jnp.asarray(v.numpy()) for k, v in stacked(start).items()}

    def loss(p: Any, x: Any, y: Any) -> Any:
        a = jnp.maximum(x @ p["first.weight"].T + p["first.bias"], 0)
        return ((a @ p["second.weight"].T + p["second.bias"] - y) ** 2).mean()

    def one(p: Any, seed: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            rows = jax.random.randint(key, (BATCH,), 0, SAMPLES)
            g = jax.grad(loss)(carry, X[rows], Y[rows])
            fresh = jax.tree_util.tree_map(lambda w, d: w - LR * (d + DECAY * w), carry, g)
            return fresh, None

        return jax.lax.scan(step, p, jax.random.split(jax.random.PRNGKey(seed), steps))[0]

    run = jax.jit(jax.vmap(one))
    seeds = jnp.arange(REPLICAS) % 8
    return lambda: jax.block_until_ready(run(p0, seeds))


def losses(theta: Tensor) -> Tensor:
    """Training losses (R,) of parameters (R, P)."""
    x, y, _ = data(SIZES)
    net = Net()
    f = vmap(lambda p: functional_call(net, p, (x,)))(stacked(theta))
    return torch.as_tensor((f - y).square().mean((1, 2)))


OURS = 100  # steps of a run of ours: 35 ms


def compare(name: str, theirs: Callable[[], object], work: int, wanted: str) -> None:
    """Add a row, and fail if the ratio is below what is wanted."""
    mine, other = in_turns(lambda: train(SIZES, "relu", OURS), theirs, seconds=3.0)
    ratio = (other / work) / (mine / (REPLICAS * OURS))
    least = WANTED[wanted]
    row(name, work / other, judged(f"symfast {ratio:.1f}x", ratio >= least, f"{least:.0f}x"))
    assert ratio >= least


def test_share_of_peak_of_the_job() -> None:
    """Wanted: 65% with lanes of 16."""
    seconds, peak = beside_peak(lambda: train(SIZES, "relu", OURS), torch.float32)
    found = REPLICAS * OURS / seconds
    share = found * flops(SIZES) / peak
    words = f"{share:.0%} of {peak / 1e9:.0f} GFLOP/s"
    least = WANTED["peak"]
    row("symfast 16-32-1 relu", found, judged(words, share >= least, f"{least:.0%}"))
    assert share >= least


def test_results_are_alike() -> None:
    """Equal within 2%: the starts are the same, the minibatches are not."""
    a = losses(train(SIZES, "relu", 100))
    b = losses(by_vmap(100, partial(vmap_step, Net())))
    torch.testing.assert_close(a.mean(), b.mean(), rtol=0.02, atol=0)
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.8


def test_against_a_loop() -> None:
    """Wanted: 400x with lanes of 16."""
    compare("torch loop", lambda: by_loop(50), 50, "loop")


def test_against_vmap() -> None:
    """Wanted: 12x with lanes of 16."""
    step = partial(vmap_step, Net())
    compare("torch.func.vmap", lambda: by_vmap(5, step), REPLICAS * 5, "vmap")


def test_against_jax() -> None:
    """Wanted: 12x with lanes of 16."""
    compare("JAX jit(vmap(scan))", by_jax(20), REPLICAS * 20, "jax")


def test_against_compiled_vmap() -> None:
    """Wanted: 12x with lanes of 16."""
    step = torch.compile(partial(vmap_step, Net()))
    compare("torch.func.vmap, compiled", lambda: by_vmap(5, step), REPLICAS * 5, "compiled")


SHAPES = [(8, 8, 1), (64, 64, 10), (16, 128, 16), (256, 256, 16), (8, 256, 1), (256, 8, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize("sizes", SHAPES)
def test_share_of_peak(sizes: tuple[int, int, int], activation: str, dtype: torch.dtype) -> None:
    """Wanted: 40% of the peak with lanes of 16."""
    replicas = 128  # whole blocks of a seed; enough steps that starting a call does not count
    steps = max(20, int(2e9 / (flops(sizes) * replicas)))
    call = partial(train, sizes, activation, steps, replicas, dtype)
    seconds, peak = beside_peak(call, dtype, 1.5)
    found = replicas * steps / seconds
    share = found * flops(sizes) / peak
    name = f"symfast {'-'.join(map(str, sizes))} {activation} {str(dtype).removeprefix('torch.')}"
    least = WANTED["shapes"]
    row(name, found, judged(f"{share:.0%} of the peak", share >= least, f"{least:.0%}"))
    i, h, o = sizes  # weights stay in registers and caches: what must move is read and written once
    moved = 2.0 * dtype.itemsize * replicas * (h * i + h + h * o + o)
    point(name, flops=flops(sizes) * replicas * steps, moved=moved, seconds=seconds)
    assert share >= least


def test_linear_in_replicas_and_steps() -> None:
    """Twice the work takes twice the time, within 30%."""
    base, steps, replicas = in_turns(
        lambda: train(SIZES, "relu", 100, 512),
        lambda: train(SIZES, "relu", 200, 512),
        lambda: train(SIZES, "relu", 100, 1024),
        seconds=2.0,
    )
    found = f"{steps / base:.2f} / {replicas / base:.2f}"
    note("Time of twice the steps / of twice the replicas", ratios=found)
    assert 1.4 < steps / base < 2.6
    assert 1.4 < replicas / base < 2.6


def test_cost_over_replicas() -> None:
    """One network to a million: 4-4-1, 16 steps."""
    for exponent in range(0, 7):
        count = 10**exponent
        seconds = best(lambda count=count: train((4, 4, 1), "relu", 16, count), 0.2)
        cost("TwoLayer 4-4-1, 16 steps", "replicas", count, seconds)
        note("TwoLayer 4-4-1, 16 steps, cost over replicas", replicas=f"10^{exponent}",
             ms=f"{1e3 * seconds:.3f}", us_per_replica=f"{1e6 * seconds / count:.2f}")  # fmt: skip
