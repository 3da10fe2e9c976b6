# SPDX-License-Identifier: Apache-2.0
"""The TwoLayer problem: starts, training in stretches, order parameters with known answers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from symfast.problems import TwoLayer
from symfast.problems.order_parameters import (
    TwoLayerWeights,
    distinct_units,
    imbalance,
    mirror_norms,
    order_parameters,
)
from symfast.problems.problem import DIVERGED, FINISHED, Problem, Replicas, State, Stretch


def replicas(problem: TwoLayer, count: int, **cells: Any) -> Replicas:
    """Replicas at the defaults of every axis but those given."""
    values = {}
    for name, axis in problem.axes.items():
        value = cells.get(name, axis.default)
        number = axis.number(value) if not isinstance(value, Tensor) else value
        values[name] = torch.as_tensor(number, dtype=torch.float64).expand(count)
    number = torch.arange(count)
    return Replicas(values, seeds=number // 2, keys=number + 2**33)


def train(
    problem: TwoLayer, chosen: Replicas, stretches: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
) -> State:  # fmt: skip
    state = problem.start(chosen, dtype=dtype, device=torch.device("cpu"))
    first, total = 0, sum(stretches)
    for steps in stretches:
        stretch = Stretch(first, steps, total, torch.zeros(2, dtype=torch.int64))
        state = problem.train(state, chosen, stretch)
        first += steps
    return state


def regression(**change: Any) -> TwoLayer:
    torch.manual_seed(0)
    X = torch.randn(50, 3)
    given: dict[str, Any] = {"hidden": 6, "activation": "tanh", "test": (X[:9], X[:9, :2].sin())}
    return TwoLayer(X, X[:, :2].sin(), **(given | change))


def net(W1: Tensor, W2: Tensor, activation: str = "relu") -> TwoLayerWeights:
    h, o = W1.shape[0], W2.shape[0]
    zero = torch.zeros(1, h), torch.zeros(1, o)
    return TwoLayerWeights(W1[None], zero[0], W2[None], zero[1], activation)


def test_follows_the_protocol_and_starts_like_torch() -> None:
    problem = regression()
    assert isinstance(problem, Problem)
    chosen = replicas(problem, 6, scale=torch.tensor([1.0, 2.0] * 3))
    theta = problem.start(chosen, dtype=torch.float64, device=torch.device("cpu"))["theta"]
    torch.testing.assert_close(theta[1::2], 2 * theta[::2])  # the same seed, twice the scale
    assert not torch.equal(theta[0], theta[2])
    assert 0.8 < theta[::2, :24].abs().max() * 3**0.5 <= 1
    assert 0.8 < theta[::2, 24:].abs().max() * 6**0.5 <= 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stretches_equal_the_whole(optimizer: str) -> None:
    problem = regression(optimizer=optimizer)
    chosen = replicas(
        problem, 4, batch_size=5, label_noise=0.1, weight_decay=1e-3, schedule="cosine"
    )
    whole, parts = train(problem, chosen, (150,)), train(problem, chosen, (1, 70, 79))
    for name, x in whole.items():
        assert torch.equal(x, parts[name]), name
    assert whole["steps"].tolist() == [150] * 4
    assert not torch.equal(whole["theta"][0], whole["theta"][1])  # the cell keys the noise


def test_training_learns_and_measures() -> None:
    problem = regression()
    chosen = replicas(problem, 4, lr=torch.tensor([0.2, 0.5, 0.2, 1e9]), batch_size=8)
    state = train(problem, chosen, (3000,))
    found = problem.measure(state, chosen)
    assert state["status"].tolist() == [FINISHED] * 3 + [DIVERGED]
    assert found["loss"][:3].max() < 0.02
    assert found["loss"][3].isnan()
    assert found["rank"][3].isnan()
    W1, b1, W2, b2, _ = problem.parts(state["theta"])
    f = (problem.X.double() @ W1[0].T + b1[0]).tanh() @ W2[0].T + b2[0]
    expected = torch.nn.functional.mse_loss(f, problem.targets)
    torch.testing.assert_close(found["loss"][0], expected)
    expected = torch.nn.functional.mse_loss(f[:9], problem.targets[:9])
    torch.testing.assert_close(found["test_loss"][0], expected, rtol=1e-6, atol=0)


def test_classes() -> None:
    torch.manual_seed(0)
    X = torch.randn(90, 2)
    Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    problem = TwoLayer(X, Y, hidden=16, loss="cross_entropy", optimizer="adamw", test=(X, Y))
    chosen = replicas(problem, 2, lr=0.02, batch_size=16)
    found = problem.measure(train(problem, chosen, (1500,)), chosen)
    assert found["error"].max() < 0.05
    assert torch.equal(found["error"], found["test_error"])
    assert found["loss"].max() < 0.2


def test_linear_net_soft_thresholds_singular_values() -> None:
    """1/2 ||Y - W2 W1||^2 + lam/2 (...) ends at max(s - lam, 0), balanced (theory of rank)."""
    torch.manual_seed(0)
    d, lam = 5, 0.4
    left, right = (torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0] for _ in "ab")
    s = torch.tensor([2.0, 1.4, 0.9, 0.2, 0.1], dtype=torch.float64)
    Y = left @ torch.diag(s) @ right.T
    # mean over d samples and d outputs: 1/d^2 ||.||^2, so rates are scaled by d^2 / 2
    problem = TwoLayer(torch.eye(d, dtype=torch.float64), Y.T, 8, "identity", bias=False)
    chosen = replicas(problem, 3, lr=0.05 * d * d / 2, weight_decay=lam * 2 / d**2)
    state = train(problem, chosen, (4000,))
    W1, _, W2, _, _ = problem.parts(state["theta"])
    found = torch.linalg.svdvals(W2 @ W1)
    torch.testing.assert_close(found, (s - lam).clamp_min(0).expand(3, d), atol=1e-8, rtol=0)
    measured = problem.measure(state, chosen)
    assert measured["product_rank"].tolist() == [3] * 3
    assert measured["rank"].tolist() == [3] * 3
    assert measured["imbalance"].max() < 1e-8


def test_distinct_units_by_what_they_compute() -> None:
    W1 = torch.tensor([[1.0, 0.0], [2.0, 0.01], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    W2 = torch.ones(1, 5)
    assert int(distinct_units(net(W1, W2, "relu"))) == 3  # 1 and 2 are one direction
    assert int(distinct_units(net(W1, W2, "tanh"))) == 3  # 1 and 3 up to sign, 2 is larger
    assert int(distinct_units(net(W1, W2, "identity"))) == 2
    chain = torch.stack([torch.tensor([1.0, 0.09 * k]) for k in range(8)])
    assert int(distinct_units(net(chain, torch.ones(1, 8), "tanh"))) == 1  # single linkage
    assert int(distinct_units(net(chain, torch.zeros(1, 8), "tanh"))) == 0


def test_order_parameters_of_known_networks() -> None:
    W1, W2 = torch.diag(torch.tensor([3.0, 1.0, 0.0])), torch.tensor([[3.0, 1.0, 0.0]])
    found = order_parameters(net(W1, W2))
    assert (int(found["rank"]), int(found["units"]), int(found["distinct"])) == (2, 2, 2)
    assert float(found["zeros"]) == pytest.approx(8 / 12)
    assert float(found["imbalance"]) == 0
    entropy = -(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log())
    torch.testing.assert_close(found["effective_rank"][0], entropy.exp())
    norms = mirror_norms(net(W1, W2))
    torch.testing.assert_close(norms["units"][0], torch.tensor([18.0, 2.0, 0.0]).sqrt())
    torch.testing.assert_close(norms["pairs"][0, 0, 1], torch.tensor(14.0 / 2).sqrt())
    assert float(imbalance(net(W1, 0 * W2))) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"X": torch.ones(3)}, "inputs must be a matrix"),
        ({"X": torch.full((4, 2), torch.nan)}, "not finite"),
        ({"X": torch.ones(4, 257)}, "inputs must be 1 to 256"),
        ({"Y": torch.ones(3, 1)}, "a row for each of 4 samples"),
        ({"Y": torch.ones(4, 65)}, "outputs must be 1 to 64"),
        ({"hidden": 0}, "hidden must be 1 to 256"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"loss": "cross_entropy"}, "one whole number"),
        ({"loss": "cross_entropy", "Y": torch.tensor([0, 1, -1, 2])}, "classes must be"),
        ({"test": (torch.ones(2, 3), torch.ones(2, 1))}, "test inputs must have 2 columns"),
        ({"test": (torch.ones(2, 2), torch.ones(2, 2))}, "targets must have 1 columns"),
    ],
)
def test_bad_data_are_refused_in_words(change: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"X": torch.ones(4, 2), "Y": torch.ones(4, 1), "hidden": 3}
    with pytest.raises(ValueError, match=sentence):
        TwoLayer(**(given | change))
