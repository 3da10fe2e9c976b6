# SPDX-License-Identifier: Apache-2.0
"""Laws of the replica sweep: kernel = reference, pieces = whole, alone = in company, torch.optim."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from symfast import ops
from symfast.reference import replica as reference
from symfast.reference.philox import GRADIENT_NOISE, LABEL_NOISE
from symfast.replica import parameter_count, replica_sweep_

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
ACTIVATIONS = ("identity", "relu", "tanh")
RULES = ("sgd", "adam", "adamw")
#: Arguments with a row for each replica; rates have one each, too.
PER_REPLICA = ("theta", "first", "second", "kind", "seed", "cell", "batch", "status", "taken")
WRITTEN = ("theta", "first", "second", "status", "taken")
Call = dict[str, Any]


def problem(
    replicas: int, sizes: tuple[int, int, int], dtype: torch.dtype, steps: int = 100,
    rule: str = "sgd", loss: str = "mse", activation: str = "relu", bias: bool = True,
    noise: bool = True,
) -> Call:  # fmt: skip
    """A random, stable call with mixed seeds, batch sizes, schedules, noise and momentum."""
    inputs, hidden, outputs = sizes
    x, y = (torch.randn(40, k, dtype=torch.float64) for k in (inputs, outputs))
    p = parameter_count(inputs, hidden, outputs, bias)
    theta = torch.randn(replicas, p, dtype=torch.float64) / max(inputs, hidden) ** 0.5
    number = torch.arange(replicas)
    share = torch.rand(7, replicas, dtype=torch.float64)
    rates = {
        "lr": share[0] * (0.05 if rule == "sgd" else 0.002),
        "weight_decay": 0.05 * share[1],
        "momentum": torch.where(number % 3 == 0, 0.0, 0.9 * share[2]),
        "beta2": 0.9 + 0.09 * share[3],
        "eps": 1e-3 + share[4] * 1e-3,  # not smaller: Adam would blow up rounding where g = 0
        "label_noise": share[5] * (noise and loss == "mse"),
        "gradient_noise": 0.1 * share[6] * noise,
    }
    schedule = torch.stack([torch.ones(steps), torch.linspace(1, 0, steps)])
    second = torch.zeros(replicas, 0 if rule == "sgd" else p)
    tensors = {
        "x": x,
        "y": y.softmax(1) if loss == "cross_entropy" else y,
        "theta": theta,
        "first": torch.zeros(replicas, p),
        "second": second,
        "schedule": schedule,
    }
    call: Call = {name: t.to(dtype).contiguous() for name, t in tensors.items()}
    call["rates"] = {name: r.to(dtype) for name, r in rates.items()}
    call |= {"kind": number % 2, "seed": number // 4 - 1, "cell": 7 * number}
    call |= {"batch": torch.tensor([8, 5, 0])[number // 2 % 3], "status": 0 * number}
    call |= {"taken": 0 * number, "hidden": hidden, "bias": bias}
    return call | {"activation": activation, "loss": loss, "rule": rule}


def run(call: Call, **change: Any) -> dict[str, Tensor]:
    """What the operator writes, from copies of its inputs."""
    fresh = {k: v.clone() if isinstance(v, Tensor) else v for k, v in (call | change).items()}
    replica_sweep_(**fresh)
    return {name: fresh[name] for name in WRITTEN}


def run_reference(call: Call) -> dict[str, Tensor]:
    fresh = {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.items()}
    names = "x y theta first second schedule kind seed cell batch status taken".split()
    tensors = [fresh[name] for name in names]
    table = torch.stack([fresh["rates"][name] for name in reference.RATES])
    codes = ACTIVATIONS.index(call["activation"]), ("mse", "cross_entropy").index(call["loss"])
    reference.replica_sweep_(
        *tensors[:5], table, *tensors[5:], torch.zeros(2, dtype=torch.int64), call["hidden"],
        call["bias"], *codes, RULES.index(call["rule"]), call.get("first_step", 0),
    )  # fmt: skip
    return {name: fresh[name] for name in WRITTEN}


def select(call: Call, rows: Tensor) -> Call:
    """The same call for some of its replicas."""
    rates = {name: r[rows] for name, r in call["rates"].items()}
    return call | {name: call[name][rows] for name in PER_REPLICA} | {"rates": rates}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in WRITTEN:
        torch.testing.assert_close(
            ours[name], theirs[name], atol=0, rtol=0, equal_nan=True, msg=f"{name} differs"
        )


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("sizes", "rule", "loss", "activation", "bias"),
    [
        ((5, 11, 3), "sgd", "mse", "relu", True),
        ((1, 1, 1), "sgd", "mse", "tanh", False),
        ((3, 9, 2), "sgd", "mse", "identity", True),
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
    call = problem(6, sizes, dtype, 100, rule, loss, activation, bias)
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
    call["rates"]["lr"][4], call["rates"]["lr"][9] = 1e30, 3.0
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
    z = reference.normals(seed, purpose, cell, 3, 20_000).double()
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


def test_cancel_and_progress() -> None:
    call = problem(5, (2, 3, 1), torch.float64, 70, noise=False)
    progress = torch.zeros(2, dtype=torch.int64)
    run(call, progress=progress)
    assert progress.tolist() == [350, 0]
    progress[1] = 1
    stopped = run(call, progress=progress)
    assert set(stopped["status"].tolist()) == {reference.CANCELLED}
    assert torch.equal(stopped["theta"], call["theta"])


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


@pytest.mark.parametrize("steps", [0, 3])
def test_empty(steps: int) -> None:
    call = problem(2, (2, 3, 1), torch.float32, steps)
    assert run(select(call, torch.arange(0)))["theta"].shape == (0, 13)
    if steps == 0:
        assert torch.equal(run(call)["theta"], call["theta"])


def test_unknown_names_are_refused_in_words() -> None:
    call = problem(2, (2, 3, 1), torch.float32, 1)
    with pytest.raises(ValueError, match="activation must be one of"):
        run(call, activation="gelu")
    with pytest.raises(ValueError, match="rates are lr, weight_decay"):
        run(call, rates={"beta3": torch.zeros(2)})


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.ones(40, 3)},
        {"y": torch.ones(39, 1)},
        {"theta": torch.ones(2, 14)},
        {"first": torch.ones(2, 13, dtype=torch.float64)},
        {"second": torch.ones(2, 13)},
        {"kind": torch.tensor([0, 2])},
        {"cell": torch.tensor([0, -1])},
        {"batch": torch.tensor([0, -1])},
        {"seed": torch.zeros(3, dtype=torch.int64)},
        {"schedule": torch.ones(3)},
        {"progress": torch.zeros(1, dtype=torch.int64)},
        {"hidden": 257},
        {"first_step": -1},
        {"theta": torch.ones(13, 2).T},
    ],
)
def test_operator_protects_memory(change: Call) -> None:
    call = problem(2, (2, 3, 1), torch.float32, 2)
    before = call["theta"].clone()
    with pytest.raises(RuntimeError, match="replica_sweep_"):
        replica_sweep_(**(call | change))
    assert torch.equal(call["theta"], before)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_opcheck(rule: str) -> None:
    call = problem(3, (2, 3, 1), torch.float64, 4, rule)
    names = "x y theta first second rates schedule kind seed cell batch status taken".split()
    call["rates"] = torch.stack([call["rates"][name] for name in reference.RATES])
    arguments = [call[name] for name in names] + [torch.zeros(2, dtype=torch.int64)]
    arguments += [3, True, 2, 0, RULES.index(rule), 0]
    torch.library.opcheck(torch.ops.symfast.replica_sweep_.default, tuple(arguments))
