# SPDX-License-Identifier: Apache-2.0
"""nn.MultiheadAttention: planted rank and dead heads are cut, everything else stays as it was."""

import pytest
import torch
from torch import Tensor, nn

import symfast as sf
from symfast.compress.attention import SlimAttention


def change(small: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        before, after = model.eval()(x), small.eval()(x)
    return float((after - before).abs().max() / before.abs().max())


class Block(nn.Module):
    """Attention, weights asked for or not."""

    def __init__(self, weights: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, bias=bias, batch_first=True)
        self.weights, self.head = weights, nn.Linear(16, 3)
        if bias:
            nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.attention(x, x, x, need_weights=self.weights)[0]
        return self.head(x + out)


def lower_rank_(weight: Tensor, bias: Tensor | None, start: int, rank: int) -> None:
    """Let every head's rows (4 from ``start`` on) span only ``rank`` dims."""
    for head in range(4):
        rows = slice(start + 4 * head, start + 4 * head + 4)
        mix = torch.randn(4, rank).double() @ torch.randn(rank, 4).double()
        weight[rows] = mix @ weight[rows]
        if bias is not None:
            bias[rows] = mix @ bias[rows]


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_rank_of_query_key_and_value_output(weights: bool, bias: bool) -> None:
    model = Block(weights, bias).double()
    with torch.no_grad():
        parts = model.attention.in_proj_weight, model.attention.in_proj_bias
        lower_rank_(*parts, start=0, rank=3)  # queries
        lower_rank_(*parts, start=32, rank=2)  # values
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    slim = small.attention
    assert isinstance(slim, SlimAttention)
    assert slim.q.weight.shape == slim.k.weight.shape == (12, 16)
    assert slim.v.weight.shape == slim.out.weight.mT.shape == (8, 16)
    assert slim.k.bias is None
    assert proof.max_error <= 1e-12
    assert change(small, model, torch.randn(3, 9, 16, dtype=torch.float64)) <= 1e-12
    assert any("4 heads of 3 query-key and 2 value dims" in note for note in proof.notes)
    kept, log = sf.compress(model, x, slim_attention=False)
    assert type(kept.attention) is nn.MultiheadAttention
    assert any(step.action == "cut" and not step.kept for step in log.steps)


def test_heads_that_nobody_reads_go() -> None:
    model = Block().double()
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:8] = 0
        model.attention.in_proj_weight[32 + 12 : 48] = 0  # the last head's values are constant:
        model.attention.in_proj_bias[32 + 12 : 48] = 0  # zero
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small.attention.num_heads == 2
    assert small.attention.q.out_features == small.attention.out.in_features == 8
    assert proof.max_error <= 1e-12
    assert change(small, model, torch.randn(3, 9, 16, dtype=torch.float64)) <= 1e-12


def test_attention_that_the_model_looks_into_stays() -> None:
    class Curious(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.attention.in_proj_weight.mean()

    model = Curious().double()
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:8] = 0
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert type(small.attention) is nn.MultiheadAttention
    assert "in_proj_weight" in proof.steps[0].note
    assert change(small, model, x) <= 1e-12


def test_frozen_attention_stays_frozen() -> None:
    model = Block()
    model.attention.requires_grad_(False)
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:8] = 0
    small, _ = sf.compress(model, torch.randn(2, 5, 16))
    assert isinstance(small.attention, SlimAttention)
    assert not any(p.requires_grad for p in small.attention.parameters())
    assert all(p.requires_grad for p in small.head.parameters())


def test_nothing_planted_leaves_the_module_as_it_was() -> None:
    model = Block()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, proof = sf.compress(model, torch.randn(2, 5, 16))
    assert type(small.attention) is nn.MultiheadAttention
    after = small.state_dict()
    assert list(after) == list(before)
    zeroed = after["attention.in_proj_bias"][16:32]
    assert not bool(zeroed.any())
    before["attention.in_proj_bias"][16:32] = 0
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert proof.parameters_after == proof.parameters_before
    assert any("the key bias is zero" in note for note in proof.notes)


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layers_of_torch_run_with_it(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).double()
    with torch.no_grad():
        for layer in model[0].layers:
            lower_rank_(layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias, 0, 2)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert small[0].layers[1].self_attn.q.out_features == 8
    assert proof.parameters_after < proof.parameters_before
    assert proof.flops_after < proof.flops_before
    with torch.inference_mode():  # where torch looks for its fast path
        torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-10, atol=1e-10)
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), small(x))
    again, _ = sf.compress(small, x)
    assert again[0].layers[0].self_attn.q.out_features == 8


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_slim_attention_is_multihead_attention(batched: bool, first: bool, weights: bool) -> None:
    full = nn.MultiheadAttention(8, 2, batch_first=first, kdim=6, vdim=5).double().eval()
    slim = SlimAttention(full)
    query, key, value = torch.randn(3, 4, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 5)
    if not first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[:, 5:] = True
    if not batched:
        query, key, value = (x.select(0 if first else 1, 0) for x in (query, key, value))
        padding = padding[0]
    causal = torch.ones(4, 7, dtype=torch.bool).triu(1)
    heads = torch.randn(6 if batched else 2, 4, 7, dtype=torch.float64)
    for masks in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": heads, "key_padding_mask": torch.zeros_like(padding).double()},
    ):
        inputs = [x.double() for x in (query, key, value)]
        for average in (True, False):
            options = {"need_weights": weights, "average_attn_weights": average} | masks
            out, shown = slim(*inputs, **options)
            wanted, told = full(*inputs, **options)
            torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
            assert (shown is None) == (told is None)
            if shown is not None:
                torch.testing.assert_close(shown, told, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # of the exporter, about its own dependencies
def test_smaller_attention_exports_to_onnx() -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, x = Block(), torch.randn(2, 5, 16)
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:8] = 0
    small, _ = sf.compress(model, x)
    assert small.attention.num_heads == 3
    program = torch.onnx.export(small.eval(), (x,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (name,) = [item.name for item in session.get_inputs()]
    out = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
    torch.testing.assert_close(out, small(x).detach(), rtol=1e-4, atol=1e-5)


class OneSize(nn.Module):
    """Attention as many libraries write it: one head size for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, dim // heads
        self.scaling = self.head_size**-0.5
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.heads, self.head_size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        h = (q @ k.mT * self.scaling).softmax(-1) @ v
        return self.out(h.transpose(1, 2).reshape(*x.shape[:-1], self.heads * self.head_size))


def test_one_head_size_loses_what_queries_and_values_both_can() -> None:
    """In one of two layers, which are told apart: queries could lose 5 of 8 dims, values 3."""
    model = nn.Sequential(OneSize(16, 2), OneSize(16, 2)).double()
    with torch.no_grad():
        for first in (0, 8):
            rows = slice(first, first + 8)
            low = torch.randn(8, 3).double() @ torch.randn(3, 17).double()
            model[1].query.weight[rows], model[1].query.bias[rows] = low[:, :16], low[:, 16]
            model[1].value.weight[first + 5 : first + 8] = 0
            model[1].value.bias[first + 5 : first + 8] = 0
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    small, proof = sf.compress(model, x)
    assert [layer.head_size for layer in small] == [8, 5]
    assert small[1].query.out_features == small[1].value.out_features == 10
    assert small[0].query.out_features == 16
    assert proof.max_error <= 1e-12
    with torch.no_grad():
        y = torch.randn(3, 4, 16, dtype=torch.float64)
        torch.testing.assert_close(small(y), model(y), rtol=1e-11, atol=1e-11)
    assert torch.export.export(small, (x,)).module()(x).shape == x.shape
