# SPDX-License-Identifier: Apache-2.0
"""Propagation through LSTM, GRU and plain recurrent layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from symfast.find.classes import ALGEBRAS, RESCALE, SIGN, Key, Labels
from symfast.find.tracer import Tracer, operator_name, output_shapes, rule
from symfast.find.value import Value, no_flows

# per cell: number of gates, the gates that the state's sign passes through, kinds of the state
CELLS = {
    "lstm": (4, (2,), SIGN),
    "gru": (3, (2,), SIGN),
    "rnn_tanh": (1, (0,), SIGN),
    "rnn_relu": (1, (0,), RESCALE),
}


def cell(tracer: Tracer, kind: str, x: Value, weights: Sequence[Value]) -> dict[str, Labels]:
    """Unite the units of one cell; return the labels of its state per algebra.

    The state h is read by the columns of W_hh and written by one row of each gate. Its sign
    passes only through the candidate gate: c = f c + i tanh(W_g h), h = o tanh(c).
    """
    gates, signed, kinds = CELLS[kind]
    names = [weight.parameter for weight in weights]
    assert all(name is not None for name in names)
    hidden = weights[1].shape[1]
    state: dict[str, Labels] = {}
    for algebra, classes in tracer.classes.items():
        read = classes.axis(Key(str(names[1]), 1), hidden)
        for name in names:
            rows = classes.axis(Key(str(name), 0), gates * hidden).reshape(gates, hidden)
            for gate in range(gates):
                if algebra == "permutation" or gate in signed:
                    classes.unite(rows[gate], read, inverse=True)
                else:
                    tracer.drop(algebra, rows[gate])
        if algebra == "diagonal":
            classes.forbid(read, (SIGN | RESCALE) & ~kinds)
        elif algebra == "rotation":
            tracer.drop(algebra, read)
        else:
            classes.name_activation(read, kind)
        _read_input(tracer, algebra, x, weights[0])
        state[algebra] = read ^ 1
    for name, value in zip(names, weights, strict=True):
        tracer.roles.setdefault((str(name), 0), "in" if len(value.shape) > 1 else "bias")
        if len(value.shape) > 1:
            tracer.roles.setdefault((str(name), 1), "out")
    return state


def _read_input(tracer: Tracer, algebra: str, x: Value, weight: Value) -> None:
    classes = tracer.classes[algebra]
    columns = classes.axis(Key(str(weight.parameter), 1), weight.shape[1])
    last = len(x.shape) - 1
    met = [f for f in x.flows[algebra] if f.shape[last] > 1]
    for f in x.flows[algebra]:
        if f.size > f.shape[last] or not any(f is g for g in met[:1]):
            tracer.drop(algebra, f)
    if met:
        classes.unite(met[0].reshape(-1, met[0].shape[last])[0], columns, inverse=True)
    else:
        tracer.drop(algebra, columns)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Any:
    kind = operator_name(node)
    x, weights = args["input"], args["params"]
    per = 4 if args["has_biases"] else 2
    ways = 2 if args["bidirectional"] else 1
    cells = args["num_layers"] * ways
    initial = args["hx"] if isinstance(args["hx"], (list, tuple)) else [args["hx"]]
    shapes = [tuple(value.shape) for value in node.meta["val"]]
    if len(weights) != per * cells or any(w.parameter is None for w in weights):
        tracer.note(f"{kind} in {tracer.here}: projections or computed weights are not followed")
        tracer.pin([x, *weights, *initial])
        return [Value.plain(shape) for shape in shapes]
    tracer.settle(x)
    states: list[dict[str, Labels]] = []
    for layer in range(args["num_layers"]):
        mine = [
            cell(tracer, kind, x, weights[per * i : per * (i + 1)])
            for i in range(layer * ways, (layer + 1) * ways)
        ]
        states += mine
        lead = (1,) * (len(shapes[0]) - 1)
        flows = no_flows()
        for a in ALGEBRAS:
            flows[a] = (np.concatenate([s[a] for s in mine]).reshape(*lead, -1),)
        x = Value(shapes[0], (*(size > 1 for size in shapes[0][:-1]), False), flows)
    _start(tracer, initial, states)
    last = [_stacked(states, shape) for shape in shapes[1:]]
    return [x, *last]


def _start(tracer: Tracer, initial: Sequence[Value], states: list[dict[str, Labels]]) -> None:
    """Fix the units if a state is given that does not move with them."""
    if all(value.zero for value in initial):
        return
    tracer.note(f"recurrent layer in {tracer.here}: its initial state is given, its units stay")
    tracer.pin(list(initial))
    for state in states:
        for algebra in ALGEBRAS:
            tracer.drop(algebra, state[algebra])


def _stacked(states: list[dict[str, Labels]], shape: tuple[int, ...]) -> Value:
    """Return the last states of all layers and directions, (layers * ways, ..., hidden)."""
    flows = no_flows()
    for algebra in ALGEBRAS:
        rows = np.stack([state[algebra] for state in states])
        flows[algebra] = (rows.reshape(len(states), *(1,) * (len(shape) - 2), -1),)
    varies = (False, *(size > 1 for size in shape[1:-1]), False)
    return Value(shape, varies, flows)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Any:
    kind = operator_name(node).removesuffix("_cell")
    weights = [args[k] for k in ("w_ih", "w_hh", "b_ih", "b_hh") if args.get(k) is not None]
    initial = args["hx"] if isinstance(args["hx"], (list, tuple)) else [args["hx"]]
    x = args["input"]
    meta = node.meta["val"]
    several = isinstance(meta, (list, tuple))
    shape = tuple(meta[0].shape) if several else output_shapes(node)
    if any(w.parameter is None for w in weights):
        tracer.pin([x, *weights, *initial])
        return [Value.plain(shape)] * 2 if several else Value.plain(shape)
    tracer.settle(x)
    state = cell(tracer, kind, x, weights)
    for value in initial:
        _carry(tracer, value, state)
    flows = no_flows()
    for a in ALGEBRAS:
        flows[a] = (state[a].reshape((1,) * (len(shape) - 1) + (-1,)),)
    out = Value(shape, (*(size > 1 for size in shape[:-1]), False), flows)
    return [out, out] if several else out


def _carry(tracer: Tracer, value: Value, state: dict[str, Labels]) -> None:
    """Let the state of the step before move with the units, or fix them if it cannot."""
    if value.zero:
        return
    for algebra, classes in tracer.classes.items():
        flows = value.flows[algebra]
        last = len(value.shape) - 1
        if flows and flows[0].size == flows[0].shape[last] == state[algebra].size:
            classes.unite(flows[0].reshape(-1), state[algebra])
        else:
            tracer.drop(algebra, state[algebra])
            for f in flows:
                tracer.drop(algebra, f)
