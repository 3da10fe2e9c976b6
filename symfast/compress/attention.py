# SPDX-License-Identifier: Apache-2.0
"""Attention whose heads may be smaller or fewer than ``nn.MultiheadAttention`` can express."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SlimAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes, with four plain linear layers q, k, v, out.

    Heads may have any number of query-key and of value dims: ``softmax(scale Q K^T + mask) V``,
    with the scale of the attention it came from. Same arguments and results; it computes in eager
    mode, by ``scaled_dot_product_attention`` where no weights are asked for.

    Example:
        >>> import torch
        >>> from symfast.compress.attention import SlimAttention
        >>> full, x = torch.nn.MultiheadAttention(8, 2), torch.randn(5, 3, 8)
        >>> slim = SlimAttention(full)
        >>> torch.allclose(slim(x, x, x)[0], full(x, x, x)[0], atol=1e-6)
        True
    """

    # torch's encoder layers ask for these before they choose their fast path
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, full: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.dropout = full.num_heads, full.dropout
        self.batch_first, self.scale = full.batch_first, full.head_dim**-0.5
        weights = (
            full.in_proj_weight.chunk(3)
            if full.in_proj_weight is not None
            else (full.q_proj_weight, full.k_proj_weight, full.v_proj_weight)
        )
        biases = (None,) * 3 if full.in_proj_bias is None else full.in_proj_bias.chunk(3)
        self.q, self.k, self.v = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out = _linear(full.out_proj.weight, full.out_proj.bias)
        self.train(full.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (outputs, weights or None), shapes and masks as in ``nn.MultiheadAttention``."""
        del is_causal  # a hint: the mask itself is given
        batched = query.ndim == 3
        if batched and not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        else:
            padding = key_padding_mask
        q, k, v = self._split(self.q(query)), self._split(self.k(key)), self._split(self.v(value))
        mask = self._mask(attn_mask, padding, q)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = self.scale * (q @ k.transpose(-1, -2))
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        out = self.out(mixed.transpose(1, 2).flatten(2))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        shown = weights.mean(1) if average_attn_weights else weights
        return out, shown if batched else shown.squeeze(0)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)  # (batch, head, time, dim)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Add up both masks, as numbers to add to the scores (batch or 1, heads or 1, l, s)."""
        total: Tensor | None = None
        if mask is not None:
            total = _additive(mask, q)
            if total.ndim == 3:  # (batch * heads, l, s)
                total = total.unflatten(0, (q.shape[0], -1))
        if padding is not None:
            more = _additive(padding, q)[:, None, None, :]
            total = more if total is None else total + more
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with a copy of these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, "meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=weight.requires_grad)
    return layer


def split_attention_(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """Put a `SlimAttention` in the place of every ``nn.MultiheadAttention`` that it can stand for.

    Left alone are those with extra keys (``add_bias_kv``, ``add_zero_attn``), those whose
    parameters are tied to others, and a model that is one itself. Returns what was replaced, by
    name.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found: dict[str, nn.MultiheadAttention] = {}
    for name, module in list(model.named_modules()):
        if type(module) is not nn.MultiheadAttention or not name:
            continue  # the model itself has no place that another could take
        extra = module.bias_k is not None or module.add_zero_attn
        if not extra and all(uses[id(p)] == 1 for p in module.parameters()):
            found[name] = module
            put_(model, name, SlimAttention(module))
    return found


def join_attention_(model: nn.Module, replaced: dict[str, nn.MultiheadAttention]) -> list[str]:
    """Put ``nn.MultiheadAttention`` back where no head became smaller; say in words what stays."""
    notes = []
    for name, full in replaced.items():
        slim = model.get_submodule(name)
        assert isinstance(slim, SlimAttention)
        rows = {x.weight.shape[0] for x in (slim.q, slim.k, slim.v)}
        if rows == {full.embed_dim} and slim.num_heads == full.num_heads:
            if slim.k.bias is None and full.in_proj_bias is not None:
                notes.append(f"{name}: the key bias is zero, nn.MultiheadAttention keeps its place")
            put_(model, name, _join(slim, full))
            continue
        heads = [x.weight.shape[0] // slim.num_heads for x in (slim.q, slim.v)]
        notes.append(
            f"{name} is a symfast SlimAttention now: {slim.num_heads} heads of {heads[0]} "
            f"query-key and {heads[1]} value dims, which nn.MultiheadAttention("
            f"{full.embed_dim}, {full.num_heads}) cannot hold"
        )
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False  # that path reads in_proj_weight
    return notes


def _join(slim: SlimAttention, full: nn.MultiheadAttention) -> nn.MultiheadAttention:
    layers = (slim.q, slim.k, slim.v)
    weights: list[Tensor] = [layer.weight for layer in layers]
    zero = torch.zeros_like(slim.q.weight[:, 0])
    with torch.no_grad():
        if full.in_proj_weight is not None:
            full.in_proj_weight.copy_(torch.cat(weights))
        else:
            apart = (full.q_proj_weight, full.k_proj_weight, full.v_proj_weight)
            for old, weight in zip(apart, weights, strict=True):
                old.copy_(weight)
        biases: list[Tensor] = [x.bias if isinstance(x.bias, Tensor) else zero for x in layers]
        if full.in_proj_bias is not None:
            full.in_proj_bias.copy_(torch.cat(biases))
        full.out_proj.weight.copy_(slim.out.weight)
        if full.out_proj.bias is not None:
            full.out_proj.bias.copy_(slim.out.bias)
    return full


def put_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` in the place of the submodule called ``name``, under all its names."""
    old = model.get_submodule(name)
    for parent in model.modules():
        for leaf, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, leaf, module)
