# SPDX-License-Identifier: Apache-2.0
"""Bounds hold: of single operators, and of what approximate merges do to the outputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symfast as sf
from symfast.compress.lipschitz import analyse
from symfast.find.graph import make_exact


class Apply(nn.Module):
    """A function as a module, with a layer before it so that there are parameters."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function
        self.gain = nn.Parameter(torch.randn(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.gain)  # type: ignore[operator]


OPERATORS = {
    "relu": lambda x, p: F.relu(x),
    "leaky_relu": lambda x, p: F.leaky_relu(x, -1.7),
    "gelu": lambda x, p: F.gelu(x),
    "gelu_tanh": lambda x, p: F.gelu(x, approximate="tanh"),
    "silu": lambda x, p: F.silu(x),
    "mish": lambda x, p: F.mish(x),
    "selu": lambda x, p: F.selu(x),
    "elu": lambda x, p: F.elu(x, 2.5),
    "celu": lambda x, p: F.celu(x, 0.3),
    "hardswish": lambda x, p: F.hardswish(x),
    "hardsigmoid": lambda x, p: F.hardsigmoid(x),
    "sigmoid": lambda x, p: torch.sigmoid(x),
    "softplus": lambda x, p: F.softplus(x, beta=0.5),
    "atan": lambda x, p: torch.atan(x) + torch.asinh(x),
    "erf": lambda x, p: torch.erf(x),
    "cos": lambda x, p: torch.cos(x),
    "softmax": lambda x, p: x.softmax(1),
    "sum": lambda x, p: x.sum(1),
    "sum of all": lambda x, p: x.sum(),
    "mean": lambda x, p: x.mean(2),
    "expand": lambda x, p: x[:, :1].expand(-1, 6, -1),
    "cat": lambda x, p: torch.cat([x, x[:, :2], x, p.expand(2, 6, 8)], 1),
    "twice": lambda x, p: x + x,
    "minus": lambda x, p: torch.sub(x, torch.tanh(x), alpha=3),
    "plus parameter": lambda x, p: x + p,
    "spread": lambda x, p: x[:, :, :1] + x,
    "times parameter": lambda x, p: p * x,
    "times number": lambda x, p: x * -2.5 / 3,
    "spread over parameter": lambda x, p: x[:1, :1] * p,
    "max_pool": lambda x, p: F.max_pool1d(x, 3, 1),
    "max_pool of windows": lambda x, p: F.max_pool1d(x, 4),
    "pad": lambda x, p: F.pad(x, (1, 2)),
    "chunks": lambda x, p: torch.cat(list(x.chunk(2, 2)), 1),
}
LAYERS = {
    "linear": nn.Linear(8, 5),
    "conv": nn.Conv1d(6, 4, 3, padding=1),
    "conv stride": nn.Conv1d(6, 4, 3, stride=2, bias=False),
    "conv dilated": nn.Conv1d(6, 4, 3, stride=2, dilation=2),
    "conv grouped": nn.Conv1d(6, 9, 2, groups=3),
    "prelu": nn.PReLU(6, init=1.9),
    "two": nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 9), nn.ReLU()),
}


def assert_bounded(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Values and changes of random inputs, large and small, and along the steepest direction."""
    exact = make_exact(model, torch.randn(shape))
    found = analyse(exact)
    (out,) = found.outputs
    slope, offset = found.size[out]
    assert math.isfinite(slope + offset), found.reasons
    for scale in (0.01, 1.0, 30.0):
        x = scale * torch.randn(shape, dtype=torch.float64)
        y = x + 0.1 * scale * torch.randn_like(x)
        for _ in range(20):
            start = y.clone().requires_grad_(True)
            ratio = (exact.model(start) - exact.model(x)).norm() / (start - x).norm()
            assert ratio.item() <= slope * (1 + 1e-12)
            (uphill,) = torch.autograd.grad(ratio, start)
            y = y + 0.1 * scale * uphill / (uphill.norm() + 1e-300)
        assert float(exact.model(x).norm()) <= (slope * float(x.norm()) + offset) * (1 + 1e-12)
    zero = exact.model(torch.zeros(shape, dtype=torch.float64))
    assert float(zero.norm()) <= offset * (1 + 1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_no_value_is_larger_and_no_change_carries_further(name: str) -> None:
    assert_bounded(Apply(OPERATORS[name]), (2, 6, 8))


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_exceeds_its_norm(name: str) -> None:
    assert_bounded(LAYERS[name], (2, 6, 8))


def test_batch_norm_by_stored_statistics() -> None:
    norm = nn.BatchNorm1d(6)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.1, 2)
    assert_bounded(norm, (3, 6, 4))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, p: x * torch.sigmoid(x), "mul"),
        (lambda x, p: F.layer_norm(x, (8,)), "layer_norm"),
        (lambda x, p: x @ x.mT, "matmul"),
        (lambda x, p: torch.sqrt(x.abs()), "sqrt"),
        (lambda x, p: x / (1 + x.abs()), "div"),
    ],
)
def test_what_has_no_slope_is_refused_in_words(function: object, words: str) -> None:
    found = analyse(make_exact(Apply(function), torch.randn(2, 6, 8)))
    assert math.isinf(sum(found.size[found.outputs[0]]))
    assert words in found.reasons.values()


def nearly_equal_(first: Tensor, units: int, noise: float) -> None:
    """Make the last units nearly copies of the first."""
    with torch.no_grad():
        first[-units:] = first[:units] + noise * torch.randn_like(first[:units])


def assert_output_bound(model: nn.Module, x: Tensor, tol: float) -> sf.CompressionProof:
    small, proof = sf.compress(model, x, tol=tol)
    assert proof.parameters_after < proof.parameters_before
    assert 0 < proof.bound < math.inf, proof
    worst = 0.0
    for scale in (0.0, 0.01, 1.0, 100.0):
        for _ in range(10):
            y = scale * torch.randn_like(x)
            with torch.no_grad():
                change = float((small(y) - model(y)).norm())
            worst = max(worst, change / math.hypot(float(y.norm()), 1))
    assert 0 < worst <= proof.bound
    return proof


@pytest.mark.parametrize("middle", [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.SiLU(), nn.Hardswish()])
@pytest.mark.parametrize("batch", [1, 20])
def test_bound_on_the_outputs_of_a_deep_network(middle: nn.Module, batch: int) -> None:
    sizes = (6, 12, 10, 3)
    layers: list[nn.Module] = []
    for n, m in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(n, m), middle]
    model = nn.Sequential(*layers, nn.Linear(3, 2)).double()
    nearly_equal_(model[0].weight, 3, 1e-5)
    nearly_equal_(model[0].bias[:, None], 3, 0)
    nearly_equal_(model[2].weight, 2, 1e-5)
    nearly_equal_(model[2].bias[:, None], 2, 0)
    proof = assert_output_bound(model, torch.randn(batch, 6).double(), 1e-3)
    merged = [step for step in proof.steps if step.kept and step.bound]
    assert len(merged) == 2
    assert all(0 < step.local < 1e-2 for step in merged)
    assert proof.bound < 1  # of use: 1e-5 of weights of size 1, through four layers


class Residual(nn.Module):
    """Convolutions, a stored norm, pooling and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3, padding=1)
        self.second, self.norm = nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + self.second(torch.relu(self.first(h)))
        return self.head(F.max_pool2d(torch.relu(self.norm(h)), 2).flatten(1))


def test_bound_on_the_outputs_of_a_residual_network() -> None:
    model = Residual().double().eval()
    nearly_equal_(model.first.weight, 2, 1e-6)
    nearly_equal_(model.first.bias[:, None], 2, 0)
    assert_output_bound(model, torch.randn(2, 2, 8, 8).double(), 1e-3)


class Stream(nn.Module):
    """A residual stream: what reads it writes to it again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.down = nn.ModuleList(nn.Linear(8, 6) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(6, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for down, up in zip(self.down, self.up, strict=True):
            h = h + up(torch.tanh(down(h)))
        return self.head(h)


@pytest.mark.parametrize("seed", range(3))
def test_bound_on_the_outputs_of_a_residual_stream(seed: int) -> None:
    """Readers that cancel where two units are equal: after the merge they carry nothing on."""
    torch.manual_seed(seed)
    model = Stream().double()
    with torch.no_grad():
        for layer in (model.stem, *model.up):
            layer.weight[7] = layer.weight[0] + 1e-6 * torch.randn_like(layer.weight[0])
            layer.bias[7] = layer.bias[0]
        for layer in model.down:
            layer.weight[:, 7] = -layer.weight[:, 0] * 5
            layer.weight[:, 0] *= 5
    assert_output_bound(model, torch.randn(4, 5).double(), 1e-3)


def test_bound_on_a_truncated_pair() -> None:
    model = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        low = torch.randn(7, 3).double() @ torch.randn(3, 9).double()
        model[0].weight.copy_(low + 1e-6 * torch.randn(7, 9).double())
    proof = assert_output_bound(model, torch.randn(5, 9).double(), 1e-3)
    assert any(step.action == "rank" and step.bound for step in proof.steps)


def test_no_bound_behind_a_norm_of_the_data_and_why() -> None:
    """What reads the units is bounded all the same."""
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4), nn.LayerNorm(4)).double()
    nearly_equal_(model[0].weight, 3, 1e-6)
    nearly_equal_(model[0].bias[:, None], 3, 0)
    _, proof = sf.compress(model, torch.randn(5, 6).double(), tol=1e-3)
    assert proof.bound == math.inf
    (step,) = (step for step in proof.steps if step.kept and step.bound)
    assert 0 < step.local < 1e-3
    assert (
        step.note
        == "no bound on the outputs: no slope is known of layer_norm, which the change reaches"
    )
    assert proof.facts()["bound"] is None


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def test_keys_are_not_read_by_queries() -> None:
    """Queries and keys meet in a product: a slope of 0 between them would be no bound."""
    model = Attention().double()
    with torch.no_grad():
        for first in (2, 6):  # half of each head's queries
            model.inner.in_proj_weight[first : first + 2] = 1e-6 * torch.randn(2, 8)
            model.inner.in_proj_bias[first : first + 2] = 0
    _, proof = sf.compress(model, torch.randn(2, 5, 8).double(), tol=1e-3)
    steps = [step for step in proof.steps if step.kept and step.action == "rank" and step.bound]
    assert steps
    assert all(step.bound == math.inf and step.note for step in steps)


def test_a_model_that_is_an_attention_is_left_as_it_is() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = torch.randn(2, 5, 8).double()
    small, proof = sf.compress(model, (x, x, x))
    assert isinstance(small, nn.MultiheadAttention)
    assert proof.max_error <= 1e-12
