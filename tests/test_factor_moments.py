# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW on product factors: kernel = reference = torch.optim, and what they penalise."""

from typing import Any

import pytest
import torch
from test_factor_samples import mixed, select
from test_factor_sweep_op import operator_arguments
from torch import Tensor

import symfast as sf
from symfast import ops
from symfast.factor_steps import AdaptiveSteps
from symfast.factor_sweep import FactorSweep, factor_sweep
from symfast.problems import Factorized
from symfast.problems.theory import predictions
from symfast.reference.factor_sweep import factor_sweep as reference

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")
f64 = torch.float64
RULES = ("adam", "adamw")
TYPES = [(f64, 1e-10), (torch.float32, 1e-5)]


def call_of(rule: str, dtype: torch.dtype, replicas: int, slots: int, i: int, o: int) -> Any:
    """Replicas of every depth and source of gradients, with rates and moments of their own.

    They are on their way after 100 steps: where a gradient has vanished but for rounding, Adam
    makes whole steps of the rounding, in float32 as far from float64 as from any other order.
    """
    call = mixed(replicas, slots, i, o, dtype)
    number = torch.arange(replicas)
    call["lr"] = call["lr"] / 10
    call["velocity"] = 0.3 * torch.rand_like(call["velocity"])
    call["adaptive"] = AdaptiveSteps(
        rule,  # type: ignore[arg-type]
        beta2=torch.tensor([0.9, 0.99, 0.999], dtype=dtype)[number % 3],
        eps=torch.tensor([1e-8, 1e-3], dtype=dtype)[number % 2],
        second=0.1 + torch.rand_like(call["velocity"]),
        first_step=11,
    )
    return call


def run(call: dict[str, Any], **change: Any) -> FactorSweep:
    return factor_sweep(**({"steps": 100, "check_every": 30} | call | change))


def chosen(call: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    steps: AdaptiveSteps = call["adaptive"]
    names = ("beta2", "eps", "second")
    mine = steps._replace(**{name: getattr(steps, name)[rows] for name in names})
    return select(call, rows) | {"adaptive": mine}


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "tol"), TYPES)
@pytest.mark.parametrize(
    ("replicas", "slots", "i", "o"), [(1, 2, 1, 1), (45, 4, 13, 1), (40, 6, 3, 2), (33, 1, 5, 6)]
)
def test_kernel_equals_reference(
    replicas: int, slots: int, i: int, o: int, dtype: torch.dtype, tol: float, rule: str,
    capability: str,
) -> None:  # fmt: skip
    call = call_of(rule, dtype, replicas, slots, i, o)
    call["factored"] = torch.rand(i * o) > 0.3
    got, want = run(call), run(call, operator=reference)
    for name in ("weight", "factors", "velocity", "second", "residual"):
        ours, theirs = getattr(got, name), getattr(want, name)
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol, msg=f"{name} differs")
    assert torch.equal(got.status, want.status)


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "tol"), TYPES)
def test_gates_equal_reference(dtype: torch.dtype, tol: float, rule: str, capability: str) -> None:
    call = call_of(rule, dtype, 60, 4, 3, 3)
    group = torch.tensor([0, 1, 2, 2, 2, 5, 5, 5, 5])
    second = call["adaptive"].second
    for x in (call["factors"], call["velocity"], second):
        x[:, 1:] = x[:, 1:, group]
    call |= {"group": group, "adaptive": call["adaptive"]._replace(second=second)}
    got, want = run(call), run(call, operator=reference)
    torch.testing.assert_close(got.factors, want.factors, atol=tol, rtol=tol)
    assert torch.equal(got.factors[:, 1:], got.factors[:, 1:, group])


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [f64, torch.float32])
def test_replica_alone_is_bitwise_itself(dtype: torch.dtype, rule: str, capability: str) -> None:
    call = call_of(rule, dtype, 100, 3, 5, 2)
    together = run(call)
    for rows in (torch.tensor([7]), torch.tensor([99, 8, 9, 4]), torch.randperm(100)):
        for ours, theirs in zip(run(chosen(call, rows)), together, strict=True):
            assert torch.equal(ours, theirs[rows])


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
def test_pieces_equal_the_whole(rule: str, capability: str) -> None:
    call = call_of(rule, f64, 40, 3, 4, 1)
    whole, state, done = run(call), {}, 0
    for steps in (7, 30, 63):
        part = {k: call[k][:, done : done + steps] for k in ("schedule", "lr_schedule")}
        part["random"] = call["random"]._replace(first_step=11 + done)
        second = state.get("second", call["adaptive"].second)
        part["adaptive"] = call["adaptive"]._replace(first_step=11 + done, second=second)
        kept = {k: v for k, v in state.items() if k != "second"}
        found = run(call | part | kept, steps=steps)
        state = {k: getattr(found, k) for k in ("factors", "velocity", "second")}
        done += steps
    for name in ("weight", "velocity", "second"):
        assert torch.equal(getattr(found, name), getattr(whole, name))


@pytest.mark.parametrize("rule", RULES)
def test_is_torch_optim(rule: str) -> None:
    """Depth 3, all samples, a rate that falls: autograd and the optimizer of that name."""
    x, y = torch.randn(20, 4, dtype=f64), torch.randn(20, dtype=f64)
    start = 0.5 + torch.rand(1, 3, 4, dtype=f64)
    rates = torch.linspace(1, 0.1, 80, dtype=f64)
    found = factor_sweep(
        x.T @ x / 20, x.T @ y / 20, start, steps=80, lr=0.02, momentum=0.8, lam=0.3,
        lr_schedule=rates[None], adaptive=AdaptiveSteps(rule, beta2=0.95, eps=1e-6),  # type: ignore[arg-type]
    )  # fmt: skip
    factors = [f.clone().requires_grad_() for f in start[0]]
    kind = torch.optim.Adam if rule == "adam" else torch.optim.AdamW
    optimizer = kind(factors, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2)
    for rate in rates.tolist():
        optimizer.zero_grad()
        ((x @ (factors[0] * factors[1] * factors[2]) - y).square().mean() / 2).backward()
        optimizer.param_groups[0]["lr"] = 0.02 * rate
        optimizer.step()
    want = torch.stack(factors).detach()
    torch.testing.assert_close(found.factors[0], want, atol=1e-11, rtol=1e-11)


def test_coupled_decay_is_the_lasso_and_decoupled_is_nothing() -> None:
    """Orthonormal columns: SGD and Adam soft-threshold the weights z, AdamW returns z."""
    z = torch.tensor([2.0, 1.0, 0.5, 0.3, -0.2, -0.7], dtype=f64)
    X = torch.linalg.qr(torch.randn(30, 6, dtype=f64))[0] * 30**0.5
    soft = torch.where(z.abs() > 0.4, z - 0.4 * z.sign(), 0)
    for optimizer, want in (("sgd", soft), ("adam", soft)):
        problem = Factorized(X, X @ z, optimizer=optimizer)  # type: ignore[arg-type]
        result = sf.sweep(
            problem, weight_decay=[0.4], seeds=3, lr=0.02, steps=20_000, schedule="cosine"
        )
        weights = torch.from_numpy(result.weights)
        torch.testing.assert_close(weights, want.expand(3, 6), atol=1e-3, rtol=0)
        assert len(predictions(problem, {"weight_decay": (0.1, 0.4), "depth": (2, 3)})) >= 2
    with pytest.warns(UserWarning, match="no penalty of their product"):
        problem = Factorized(X, X @ z, optimizer="adamw")
    result = sf.sweep(
        problem, weight_decay=[0.4], seeds=3, lr=0.02, steps=20_000, schedule="cosine"
    )
    weights = torch.from_numpy(result.weights)
    torch.testing.assert_close(weights, z.expand(3, 6), atol=0.02, rtol=0)
    assert predictions(problem, {"weight_decay": (0.1, 0.4), "depth": (2,)}) == []


def test_sweep_in_stretches_and_what_a_manifest_says() -> None:
    problem = Factorized(torch.eye(3), torch.tensor([1.0, 0.5, 0.0]), optimizer="adam")
    grid: dict[str, Any] = {"weight_decay": [0.1, 0.2], "beta2": [0.9, 0.99], "seeds": 2}
    whole = sf.sweep(problem, steps=90, batch_size=2, lr=0.01, **grid)
    cut = sf.sweep(problem, steps=90, batch_size=2, lr=0.01, every=40, **grid)
    assert (whole.weights == cut.weights).all()
    assert problem.describe()["optimizer"] == "adam"
    assert "optimizer" not in Factorized(problem.X, problem.y).describe()
    with pytest.raises(ValueError, match="optimizer must be one of"):
        Factorized(problem.X, problem.y, optimizer="lion")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rule": "sgd"}, "rule must be"),
        ({"beta2": 1.0}, "below 1"),
        ({"eps": 0.0}, "eps above 0"),
        ({"second": torch.ones(2, 1, 3)}, "second must match"),
        ({"beta2": torch.ones(3)}, "beta2 must be a number"),
    ],
)
def test_bad_rates_are_refused(change: dict[str, Any], sentence: str) -> None:
    steps = AdaptiveSteps("adam")._replace(**change)
    with pytest.raises(ValueError, match=sentence):
        factor_sweep(
            torch.eye(3), torch.ones(3), torch.ones(2, 2, 3), steps=2, lr=0.1, adaptive=steps
        )
    with pytest.raises(ValueError, match="below 1"):
        factor_sweep(
            torch.eye(3), torch.ones(3), torch.ones(2, 2, 3), steps=2, lr=0.1, momentum=1.0,
            adaptive=AdaptiveSteps("adamw"),
        )  # fmt: skip


@needs_kernels
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rule", 3),
        ("rule", 0),
        ("second", torch.ones(5, 1, 3, dtype=f64)),
        ("moments", torch.ones(2, 4, dtype=f64)),
        ("noise", torch.ones(2, 0, dtype=f64)),
    ],
)
def test_operator_protects_memory(name: str, value: object) -> None:
    arguments = operator_arguments(5, 2, 3, f64, rule=1)
    torch.ops.symfast.factor_sweep.default(*arguments.values())
    with pytest.raises(RuntimeError, match="factor_sweep: "):
        torch.ops.symfast.factor_sweep.default(*(arguments | {name: value}).values())


@pytest.mark.parametrize("dtype", [f64, torch.float32])
def test_opcheck(dtype: torch.dtype) -> None:
    arguments = operator_arguments(5, 3, 4, dtype, rule=2)
    torch.library.opcheck(torch.ops.symfast.factor_sweep.default, tuple(arguments.values()))
