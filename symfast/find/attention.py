# SPDX-License-Identifier: Apache-2.0
"""Propagation through scaled dot product attention."""

from typing import Any

import numpy as np
from torch import fx

from symfast.find.classes import Labels
from symfast.find.contraction import LETTERS, contract
from symfast.find.elementwise import add, unary
from symfast.find.tracer import Tracer, rule
from symfast.find.value import Value


@rule("scaled_dot_product_attention")
def _attention(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """softmax(Q K^T / scale + mask) V, head by head; grouped keys serve several heads."""
    query, key, value = args["query"], args["key"], args["value"]
    if args.get("enable_gqa") and len(query.shape) > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = (_repeat(v, len(v.shape) - 3, times) for v in (key, value))
    lead = LETTERS[: len(query.shape) - 2]
    scores = contract(tracer, query, key, f"{lead}xz,{lead}yz->{lead}xy")
    mask = args.get("attn_mask")
    if mask is not None:
        scores = add(tracer, scores, mask)
    weights = unary(tracer, scores, 0, "softmax")
    return contract(tracer, weights, value, f"{lead}xy,{lead}yz->{lead}xz")


def _repeat(value: Value, dim: int, times: int) -> Value:
    """Repeat each entry along ``dim``, as grouped-query attention does with its keys."""

    def wide(f: Labels) -> Labels:
        return np.repeat(f, times, axis=dim) if f.shape[dim] > 1 else f

    shape = list(value.shape)
    shape[dim] *= times
    flows = {a: tuple(wide(f) for f in v) for a, v in value.flows.items()}
    return Value(tuple(shape), value.varies, flows)
