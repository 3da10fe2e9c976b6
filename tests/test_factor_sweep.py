# SPDX-License-Identifier: Apache-2.0
"""Laws of the product-factor sweep: discrete identities, closed forms, kernel = reference."""

from typing import Any

import pytest
import torch
from torch import Tensor

from symfast import ops
from symfast.factor_sweep import FactorSweep, factor_sweep
from symfast.reference.factor_sweep import CANCELLED, CONVERGED, DIVERGED, FINISHED, leave_one_out
from symfast.reference.factor_sweep import factor_sweep as reference

needs_kernels = pytest.mark.skipif(not ops.has_kernels(), reason="no compiled kernels")


def inputs(replicas: int, slots: int, d: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A random, stable problem with mixed depths and some plain weights."""
    X = torch.randn(4 * d + 1, d, dtype=torch.float64)
    found = {
        "gram": X.T @ X / len(X),
        "linear": torch.randn(d, dtype=torch.float64),
        "factors": 0.5 + 0.5 * torch.randn(replicas, slots, d, dtype=torch.float64),
        "velocity": 0.01 * torch.randn(replicas, slots, d, dtype=torch.float64),
        "lr": 0.02 * torch.rand(replicas, dtype=torch.float64),
        "momentum": 0.9 * torch.rand(replicas, dtype=torch.float64),
        "lam": torch.rand(replicas, dtype=torch.float64),
    }
    found = {name: x.to(dtype) for name, x in found.items()}
    found["depth"] = torch.randint(1, slots + 1, (replicas,))
    found["factored"] = torch.rand(d) > 0.3
    return found


def run_reference(x: dict[str, Tensor], steps: int, tol: float, check_every: int) -> FactorSweep:
    numbers: dict[str, Any] = {"steps": steps, "tol": tol, "check_every": check_every}
    return factor_sweep(**x, **numbers, operator=reference)


def scalar_problem(z: Tensor, depth: int, lam: float) -> Tensor:
    """Minimise 1/2 (w - z)^2 + lam |w|^q, q = 2 / depth, from w = z with equal factors, for z > 0.

    With w = z v every z is a replica of the same problem: 1/2 (v - 1)^2 + lam z^(q - 2) |v|^q. No
    momentum: it would carry w beyond a minimum that has only just appeared.
    """
    one = torch.ones(1, dtype=z.dtype)
    out = factor_sweep(
        one[:, None], one, torch.ones(len(z), depth, 1, dtype=z.dtype), steps=60_000, lr=0.05,
        lam=lam * z ** (2 / depth - 2), tol=1e-15, check_every=200,
    )  # fmt: skip
    return z * out.weight[:, 0]


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize(
    ("replicas", "slots", "d"), [(1, 2, 1), (33, 4, 13), (70, 6, 3), (5, 1, 70)]
)
def test_kernel_equals_reference(
    replicas: int, slots: int, d: int, dtype: torch.dtype, tol: float, capability: str
) -> None:
    x = inputs(replicas, slots, d, dtype)
    got = factor_sweep(**x, steps=105, tol=1e-2, check_every=10)
    want = run_reference(x, 105, 1e-2, 10)
    for name in ("weight", "factors", "velocity", "residual"):
        ours, theirs = getattr(got, name), getattr(want, name)
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol, msg=f"{name} differs")
    if dtype == torch.float64:
        assert torch.equal(got.steps, want.steps)
        assert torch.equal(got.status, want.status)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_gates_and_schedules_equal_reference(
    dtype: torch.dtype, tol: float, capability: str
) -> None:
    """Groups of 1, 3 and 4 of nine coordinates, replicas of every depth, two schedules."""
    x = inputs(40, 4, 9, dtype)
    x["factored"] = torch.tensor([True, False, True, True, True, True, True, True, True])
    x["group"] = torch.tensor([0, 1, 2, 2, 2, 5, 5, 5, 5])
    x["factors"][:, 1:] = x["factors"][:, 1:, x["group"]]
    x["velocity"][:, 1:] = x["velocity"][:, 1:, x["group"]]
    x["schedule"] = torch.stack([torch.ones(105), torch.linspace(2, 0, 105)]).to(dtype)
    x["kind"] = torch.arange(40) % 2
    got = factor_sweep(**x, steps=105, tol=1e-2, check_every=10)
    want = run_reference(x, 105, 1e-2, 10)
    for name in ("weight", "factors", "velocity", "residual"):
        ours, theirs = getattr(got, name), getattr(want, name)
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol, msg=f"{name} differs")
    assert torch.equal(got.factors[:, 1:], got.factors[:, 1:, x["group"]])
    rows = torch.tensor([39, 2, 11])
    per = ("factors", "velocity", "lr", "momentum", "lam", "depth", "kind")
    mine = {name: t[rows] if name in per else t for name, t in x.items()}
    alone = factor_sweep(**mine, steps=105, tol=1e-2, check_every=10)
    assert torch.equal(alone.weight, got.weight[rows])


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"kind": torch.tensor([0, 1])},
        {"group": torch.tensor([0, 0, 1])},
        {"group": torch.tensor([0, 1])},
        {"group": torch.tensor([0, 0, 0]), "factored": torch.tensor([True, False, True])},
        {"schedule": torch.ones(2, 3)},
    ],
)
def test_bad_tables_are_refused(change: dict[str, Tensor]) -> None:
    x = inputs(2, 2, 3, torch.float64) | {"factored": torch.ones(3, dtype=torch.bool)} | change
    with pytest.raises((RuntimeError, ValueError), match="kind|group|schedule"):
        factor_sweep(**x, steps=4)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_discrete_identities(dtype: torch.dtype, tol: float) -> None:
    """Mirror coordinates, imbalance and product of one step, momentum 0, for any gradient."""
    d, lr, lam = 50, 0.07, 0.3
    zero = torch.zeros(d, d, dtype=dtype)
    f = torch.randn(1, 2, d, dtype=dtype)
    for _ in range(50):
        g = torch.randn(d, dtype=dtype)
        (u, w), shrink = f[0], 1 - lr * lam
        f = factor_sweep(zero, -g, f, steps=1, lr=lr, lam=lam).factors
        (u1, w1), near = f[0], {"atol": tol, "rtol": tol}
        torch.testing.assert_close(u1 + w1, (shrink - lr * g) * (u + w), **near)
        torch.testing.assert_close(u1 - w1, (shrink + lr * g) * (u - w), **near)
        imbalance = (shrink**2 - lr**2 * g**2) * (u**2 - w**2)
        torch.testing.assert_close(u1**2 - w1**2, imbalance, **near)
        product = (shrink**2 + lr**2 * g**2) * u * w - lr * shrink * g * (u**2 + w**2)
        torch.testing.assert_close(u1 * w1, product, **near)


def test_leave_one_out_with_zeros() -> None:
    f = torch.tensor([[2.0, 0.0], [3.0, 5.0], [4.0, 0.0]])
    others, product = leave_one_out(f)
    assert others.tolist() == [[12.0, 0.0], [8.0, 0.0], [6.0, 0.0]]
    assert product.tolist() == [24.0, 0.0]


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_scalar_law(depth: int) -> None:
    """Started at w = z training ends at the larger root of w + lam q w^(q-1) = z, or at zero."""
    lam, q = 0.2, 2 / depth
    z = torch.linspace(0.1, 2, 381, dtype=torch.float64)
    w = scalar_problem(z, depth, lam)
    # Size of the smallest local minimum that is not zero, and the z below which there is none.
    gap = (lam * q * (1 - q)) ** (1 / (2 - q)) if depth > 2 else 0.0
    least = gap + lam * q * gap ** (q - 1)
    root = z.clone()
    for _ in range(100):  # Newton from the right finds the larger root
        slope = 1 + lam * q * (q - 1) * root ** (q - 2)
        root = root - (root + lam * q * root ** (q - 1) - z) / slope
    clear = (z - least).abs() > 0.02
    expected = torch.where(z > least, root, 0)
    torch.testing.assert_close(w[clear], expected[clear], atol=1e-8, rtol=0)
    onset = float(z[w > 1e-4].min())
    assert abs(onset - least) <= 0.02
    assert float(w[w > 1e-4].min()) >= gap  # no small weights


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_replica_alone_is_bitwise_itself(dtype: torch.dtype) -> None:
    x = inputs(70, 4, 10, dtype)
    together = factor_sweep(**x, steps=333, tol=1e-3, check_every=7)
    for b in (0, 1, 37, 69):
        mine = {k: v if k in ("gram", "linear", "factored") else v[b : b + 1] for k, v in x.items()}
        alone = factor_sweep(**mine, steps=333, tol=1e-3, check_every=7)
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours[0], theirs[b])


@needs_kernels
def test_thread_count_does_not_matter() -> None:
    x, threads = inputs(200, 3, 6, torch.float64), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(factor_sweep(**x, steps=200, tol=1e-4, check_every=9))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_continuing_equals_one_run() -> None:
    x = inputs(20, 3, 5, torch.float64)
    whole = factor_sweep(**x, steps=60, check_every=20)
    half = factor_sweep(**x, steps=20, check_every=20)
    rest = factor_sweep(
        **(x | {"factors": half.factors, "velocity": half.velocity}), steps=40, check_every=20
    )
    assert torch.equal(whole.weight, rest.weight)
    assert torch.equal(whole.velocity, rest.velocity)


def test_ends_of_a_replica() -> None:
    """Diverged, converged and finished replicas side by side, none disturbing another."""
    eye, ones = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    start = torch.tensor([1.0, 0.5], dtype=torch.float64)[None, :, None].repeat(3, 1, 2)
    out = factor_sweep(
        eye, ones, start, steps=1000, lr=torch.tensor([50.0, 0.1, 1e-6]), lam=0.1, tol=1e-9,
        check_every=50,
    )  # fmt: skip
    assert out.status.tolist() == [DIVERGED, CONVERGED, FINISHED]
    assert out.steps[0] == 50
    assert 50 < out.steps[1] < 1000
    assert out.steps[2] == 1000
    assert out.residual[0].isnan()
    assert out.residual[1] < 1e-9
    torch.testing.assert_close(out.weight[1], 0.9 * ones, atol=1e-6, rtol=0)


def test_progress_and_cancel() -> None:
    x = inputs(40, 2, 3, torch.float64)
    progress = torch.zeros(2, dtype=torch.int64)
    factor_sweep(**x, steps=100, tol=1.0, check_every=10, progress=progress)
    assert progress.tolist() == [4000, 0]  # replicas that stopped early count as done
    progress[1] = 1
    out = factor_sweep(**x, steps=100, progress=progress)
    assert set(out.status.tolist()) == {CANCELLED}
    assert out.steps.sum() == 0
    assert progress[0] == 4000


@pytest.mark.parametrize(("replicas", "d", "steps"), [(0, 3, 5), (4, 0, 5), (4, 3, 0)])
def test_empty(replicas: int, d: int, steps: int) -> None:
    x = inputs(replicas, 2, d, torch.float64)
    out = factor_sweep(**x, steps=steps)
    assert out.weight.shape == (replicas, d)
    if steps == 0 and replicas:
        assert torch.equal(out.factors, x["factors"])
        assert out.residual.isinf().all()


def test_inputs_stay_and_layout_does_not_matter() -> None:
    x = inputs(9, 3, 4, torch.float64)
    before = {k: v.clone() for k, v in x.items()}
    plain = factor_sweep(**x, steps=30)
    x["factors"] = x["factors"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    x["gram"] = x["gram"].T
    strided = factor_sweep(**x, steps=30)
    assert torch.equal(plain.weight, strided.weight)
    assert all(torch.equal(before[k], x[k]) for k in ("factors", "velocity", "linear"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"factors": torch.ones(2, 7, 3, dtype=torch.float64)}, "depth 1 to 6"),
        ({"factors": torch.ones(5, 2, 3, dtype=torch.float16)}, "float32 or float64"),
        ({"gram": torch.ones(3, 2, dtype=torch.float64)}, "gram must be"),
        ({"linear": torch.ones(3)}, "linear must be"),
        ({"velocity": torch.ones(5, 2, 4, dtype=torch.float64)}, "velocity must be"),
        ({"factored": torch.ones(3)}, "factored must be"),
        ({"depth": torch.full((5,), 3)}, "depth must be"),
        ({"depth": 1.5}, "depth must be"),
        ({"depth": torch.ones(4, dtype=torch.int64)}, "depth must be a number"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"lam": -1.0}, "lam must be finite and not negative"),
        ({"momentum": torch.ones(4)}, "momentum must be a number"),
        ({"steps": -1}, "steps -1"),
        ({"check_every": 0}, "check_every 0"),
        ({"tol": float("nan")}, "tol nan"),
    ],
)
def test_bad_input_is_refused_in_words(change: dict[str, object], sentence: str) -> None:
    arguments = inputs(5, 2, 3, torch.float64) | {"steps": 3} | change
    with pytest.raises(ValueError, match=sentence):
        factor_sweep(**arguments)  # type: ignore[arg-type]
