# SPDX-License-Identifier: Apache-2.0
"""Planted structure in convolutions, attention and recurrent layers is cut out, or put back."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traced_models import GroupedQuery, Recurrent, Residual

import symfast as sf


def change(small: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        before, after = model.eval()(x), small.eval()(x)
    return float((after - before).abs().max() / before.abs().max())


class ConvNet(nn.Module):
    """Valid convolution, batch norm, padded convolution, flatten with a size of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 10, 3), nn.BatchNorm2d(10)
        self.b, self.c = nn.Conv2d(10, 8, 3, padding=1), nn.Conv2d(8, 6, 2)
        self.width = 6 * 9
        self.head = nn.Linear(self.width, 4)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        x = F.relu(self.c(F.relu(self.b(x))))
        return self.head(x.reshape(-1, self.width))


@pytest.mark.parametrize("norms", [True, False])
def test_convolutions_lose_dead_and_double_channels(norms: bool) -> None:
    model = ConvNet().double()
    with torch.no_grad():
        model.a.weight[3], model.a.bias[3] = model.a.weight[1], model.a.bias[1]
        for name in ("weight", "bias", "running_mean", "running_var"):
            values = getattr(model.norm, name)
            values[3] = values[1]
        model.b.weight[2] = 0  # constant, read without padding
        model.b.weight[4], model.b.bias[4] = 3 * model.b.weight[5], 3 * model.b.bias[5]
        model.c.weight[1] = 0
        model.c.bias[1] = -1.0  # relu(-1): zero
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    small, proof = sf.compress(model, x, norms=norms)
    assert small.a.out_channels == small.b.in_channels == 9
    assert small.b.out_channels == small.c.in_channels == 6
    assert small.c.out_channels == 5
    assert small.head.in_features == small.width == 45
    if norms:
        assert isinstance(small.norm, nn.Identity)
    else:
        assert small.norm.num_features == 9
        assert small.a.bias is None  # taken over by the stored mean
    assert change(small, model, torch.randn(5, 2, 6, 6, dtype=torch.float64)) <= 1e-12
    assert any("width" in step.note for step in proof.steps)


def test_constant_before_padding_is_not_folded() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1), nn.Flatten()
    ).double()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 1.0
        model[0].weight[2], model[0].bias[2] = 0, -1.0
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    small, _ = sf.compress(model, x)
    assert small[0].out_channels == 4
    assert change(small, model, x) <= 1e-12


def test_head_ranks_and_key_bias() -> None:
    """Heads written by hand: both key-query and value-output lose the planted dimensions."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(12, 16) for _ in range(3))
            self.o = nn.Linear(16, 12)

        def heads(self, x: Tensor) -> Tensor:
            return x.unflatten(-1, (4, -1)).transpose(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
            mixed = F.scaled_dot_product_attention(q, k, v)
            return self.o(mixed.transpose(1, 2).flatten(2))

    model = Heads().double()
    with torch.no_grad():
        for layer in (model.q, model.v):
            for head in range(4):
                rows = slice(4 * head, 4 * head + 4)
                mix = torch.randn(4, 2).double() @ torch.randn(2, 4).double()
                layer.weight[rows] = mix @ layer.weight[rows]
                layer.bias[rows] = mix @ layer.bias[rows]
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small.q.out_features == small.k.out_features == 8
    assert small.v.out_features == small.o.in_features == 8
    assert small.k.bias is None
    assert change(small, model, torch.randn(3, 7, 12, dtype=torch.float64)) <= 1e-12
    assert proof.max_error <= 1e-12


def test_what_cannot_be_cut_is_put_back_and_logged() -> None:
    """The head size is written into this model: its value stays whole, and the log says so."""
    model = GroupedQuery().double()
    with torch.no_grad():
        model.v.weight[::4] = 0
        model.v.bias[::4] = 0
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small.v.out_features == 8
    assert change(small, model, x) <= 1e-12
    assert any(step.action == "cut" and not step.kept for step in proof.steps)


def test_recurrent_units_that_nobody_reads_go() -> None:
    model = Recurrent(nn.LSTM).double()
    with torch.no_grad():
        model.out.weight[:, 2] = 0
        model.rnn.weight_hh_l0[:, 2] = 0
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    small, _ = sf.compress(model, x)
    assert small.rnn.hidden_size == small.out.in_features == 3
    assert small.rnn.weight_hh_l0.shape == (12, 3)
    assert change(small, model, x) <= 1e-12


def test_residual_stream_of_batch_norms_stays_whole() -> None:
    model = Residual().double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small.conv.out_channels == 8
    assert proof.max_error <= 1e-12


class Normed(nn.Module):
    """Batch norms behind a convolution, a turned one and a linear layer, and before layers."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.conv, self.a = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, affine=affine)
        self.turned, self.b = nn.ConvTranspose2d(6, 4, 2), nn.BatchNorm2d(4, affine=affine)
        self.c, self.plain = nn.BatchNorm2d(4, affine=affine), nn.Conv2d(4, 5, 2)
        self.d, self.pads = nn.BatchNorm2d(5, affine=affine), nn.Conv2d(5, 3, 3, padding=1)
        self.line, self.e = nn.Linear(3, 7), nn.BatchNorm1d(7, affine=affine)
        self.f, self.out = nn.BatchNorm1d(7, affine=affine), nn.Linear(7, 2, bias=False)
        for norm in (self.a, self.b, self.c, self.d, self.e, self.f):
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
            if affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(self.turned(F.relu(self.a(self.conv(x))))))
        x = self.pads(self.d(F.relu(self.plain(self.c(x)))))
        x = self.e(self.line(F.relu(x).amax((2, 3))))
        return self.out(self.f(torch.tanh(x)))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_fold_into_the_layers_beside_them(affine: bool) -> None:
    model = Normed(affine).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    kept = [
        name for name, m in small.named_modules() if isinstance(m, nn.modules.batchnorm._NormBase)
    ]
    assert kept == ["d"]  # what it shifts is padded with zeros
    step = proof.steps[0]
    assert (step.action, step.units, step.kept) == ("batch norm", 5, True)
    assert proof.max_error <= 1e-12
    assert small.training
    assert change(small, model, torch.randn(9, 3, 7, 7, dtype=torch.float64)) <= 1e-12
    assert proof.parameters_after == sum(p.numel() for p in small.parameters())
    whole, _ = sf.compress(model, x, norms=False)
    assert isinstance(whole.a, nn.BatchNorm2d)


def test_a_norm_that_the_model_looks_into_stays() -> None:
    class Curious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.norm(self.a(x)))) / self.norm.num_features

    model = Curious().double()
    small, proof = sf.compress(model, torch.randn(4, 3, dtype=torch.float64))
    assert isinstance(small.norm, nn.BatchNorm1d)
    assert "num_features" in proof.steps[0].note
    assert not proof.steps[0].kept


def test_batch_norm_whose_input_is_read_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
            nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(F.gelu(self.norm(y)) + F.gelu(y))

    model = Twice().double()
    small, proof = sf.compress(model, torch.randn(4, 3, dtype=torch.float64))
    assert isinstance(small.norm, nn.BatchNorm1d)
    assert [step.kept for step in proof.steps if step.action == "batch norm"] == [False]
    assert change(small, model, torch.randn(4, 3, dtype=torch.float64)) <= 1e-12


def test_constants_are_folded_for_unbatched_inputs_and_readers_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(2, 5, 2), nn.Conv1d(5, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(input=F.relu(self.a(x)))

    model = Keyword().double()
    with torch.no_grad():
        model.a.weight[[1, 3]] = 0
        model.a.bias[[1, 3]] = torch.tensor([2.0, -1.0]).double()
    x = torch.randn(2, 9, dtype=torch.float64)  # (channels, positions)
    small, _ = sf.compress(model, x)
    assert small.a.out_channels == 3
    assert change(small, model, torch.randn(2, 9, dtype=torch.float64)) <= 1e-12
