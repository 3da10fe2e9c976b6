# SPDX-License-Identifier: Apache-2.0
"""Propagation through sums of products: linear layers, matrix products, attention scores."""

from typing import Any

import numpy as np
from torch import fx

from symfast.find.classes import Key, Labels
from symfast.find.elementwise import add
from symfast.find.tracer import Tracer, output_shapes, rule
from symfast.find.value import Flows, Value

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Contraction:
    """One product ``out[...] = sum_k a[..., k] b[..., k]``, dims named by letters."""

    def __init__(self, tracer: Tracer, a: Value, b: Value, spec: str) -> None:
        """``spec`` is as for einsum: ``"ik,jk->ij"``."""
        inputs, self.out = spec.split("->")
        self.names = inputs.split(",")
        self.tracer, self.values = tracer, (a, b)
        self.order = "".join(dict.fromkeys(inputs.replace(",", "")))
        shared = set(self.names[0]) & set(self.names[1])
        self.summed = [i for i, c in enumerate(self.order) if c not in self.out]
        self.batch = [i for i, c in enumerate(self.order) if c in self.out and c in shared]
        self.apart: set[str] = set()  # what the sums differ along, as their units did
        self.kept = [i for i, c in enumerate(self.order) if c in self.out]

    def run(self) -> Value:
        """Unite what is summed over, pass on the rest."""
        flows: Flows = {}
        for side, value in enumerate(self.values):
            self.tracer.settle(value)
            for dim, letter in enumerate(self.names[side]):
                self.tracer.set_role(value, dim, "in" if letter in self.out else "out")
        for algebra in self.values[0].flows:
            flows[algebra] = self._flows(algebra)
        shape = tuple(max(self._size(c)) for c in self.out)
        varies = tuple(c in self.apart or self._any_varies(c) for c in self.out)
        return Value(shape, varies, flows)

    def _size(self, letter: str) -> list[int]:
        found = []
        for value, names in zip(self.values, self.names, strict=True):
            found += [value.shape[i] for i, c in enumerate(names) if c == letter]
        return found

    def _any_varies(self, letter: str) -> bool:
        return self._varies(0, letter) or self._varies(1, letter)

    def _varies(self, side: int, letter: str) -> bool:
        names = self.names[side]
        return letter in names and self.values[side].varies[names.index(letter)]

    def _lay(self, labels: Labels, side: int) -> Labels:
        """Put the dims of a flow into the common order of letters."""
        names = self.names[side]
        present = [c for c in self.order if c in names]
        moved = labels.transpose([names.index(c) for c in present])
        shape = [moved.shape[present.index(c)] if c in present else 1 for c in self.order]
        return moved.reshape(shape)

    def _flows(self, algebra: str) -> tuple[Labels, ...]:
        laid = [
            [self._lay(f, side) for f in value.flows[algebra]]
            for side, value in enumerate(self.values)
        ]
        inner = [[f for f in flows if self._is_summed(f)] for flows in laid]
        free = [[f for f in flows if not self._is_summed(f)] for flows in laid]
        out = self._contract(algebra, inner)
        out += self._pass(algebra, free, laid)
        return tuple(self._project(f) for f in out)

    def _is_summed(self, f: Labels) -> bool:
        return any(f.shape[i] > 1 for i in self.summed)

    def _contract(self, algebra: str, inner: list[list[Labels]]) -> list[Labels]:
        classes = self.tracer.classes[algebra]
        blocks = []
        for f, g in zip(*inner, strict=False):
            classes.unite(f, g, inverse=True)
            apart = [d for d in self.kept if f.shape[d] > 1 or g.shape[d] > 1]
            self.apart |= {self.order[d] for d in apart}
            for labels in (f, g):
                classes.refine(labels, tuple(apart))
            if apart and algebra == "permutation":
                both = np.broadcast_arrays(f, g)
                whole = classes.blocks_of(both[0], tuple(apart))
                classes.contain(whole, both[1])
                blocks.append(whole)
        used = min(len(inner[0]), len(inner[1]))
        for side in (0, 1):
            for slot, f in enumerate(inner[side][used:]):
                self._alone(algebra, side, f, slot + used)
        return blocks

    def _alone(self, algebra: str, side: int, f: Labels, slot: int) -> None:
        """Handle units that are summed against something that has no units of its own."""
        classes, other = self.tracer.classes[algebra], self.values[1 - side]
        dims = [d for d in self.summed if f.shape[d] > 1]
        letters = [self.order[d] for d in dims]
        known = [c in self.names[1 - side] for c in letters]
        if algebra == "diagonal" and other.parameter is not None and len(dims) == 1 and slot:
            dim = self.names[1 - side].index(letters[0]) if known[0] else None
            axis = other.axes[dim] if dim is not None else None
            if axis is not None and dim is not None:
                key = Key(other.parameter, axis, str(slot + 1))
                labels = self.tracer.axis(algebra, key, other.shape[dim])
                shape = [-1 if d == dims[0] else 1 for d in range(f.ndim)]
                classes.unite(f, labels.reshape(shape), inverse=True)
                return
        same = not any(self._varies(1 - side, c) for c in letters)
        if algebra == "permutation" and same:
            classes.refine(f, tuple(d for d in self.kept if f.shape[d] > 1))
            return
        self.tracer.drop(algebra, f)

    def _pass(
        self, algebra: str, free: list[list[Labels]], laid: list[list[Labels]]
    ) -> list[Labels]:
        """Pass on units that are not summed; those of different batch entries stay apart."""
        classes = self.tracer.classes[algebra]
        swallowed: list[Labels] = []
        for side in (0, 1):
            for f in free[side]:
                others = [g for g in laid[1 - side] if self._share_batch(f, g)]
                if algebra == "permutation":
                    swallowed += self._match(f, [g for g in others if not self._is_summed(g)])
                elif algebra == "rotation" and any(self._inside_batch(f, g) for g in others):
                    self.tracer.drop(algebra, f)
                apart = [
                    d
                    for d in self.batch
                    if f.shape[d] > 1
                    and (
                        self._varies(1 - side, self.order[d]) or any(g.shape[d] > 1 for g in others)
                    )
                ]
                if not any(f is g for g in swallowed):
                    classes.refine(f, tuple(apart))
        out = [f for flows in free for f in flows]
        return [f for f in out if not any(f is g for g in swallowed)]

    def _share_batch(self, f: Labels, g: Labels) -> bool:
        return any(f.shape[d] > 1 and g.shape[d] > 1 for d in self.batch)

    def _inside_batch(self, f: Labels, g: Labels) -> bool:
        """Say whether f mixes along a batch dim on which the other operand has units."""
        return all(g.shape[d] > 1 for d in range(f.ndim) if f.shape[d] > 1)

    def _match(self, f: Labels, others: list[Labels]) -> list[Labels]:
        """Unite units of whole batch entries with the units (or blocks) they multiply."""
        classes = self.tracer.classes["permutation"]
        swallowed: list[Labels] = []
        for g in others:
            mine = {d for d in range(f.ndim) if f.shape[d] > 1}
            theirs = {d for d in range(g.ndim) if g.shape[d] > 1}
            if mine == theirs and not any(f is x for x in swallowed):
                classes.unite(f, g)
                swallowed.append(g)
            elif mine < theirs:
                classes.contain(f, g)
                swallowed.append(f)
        return swallowed

    def _project(self, f: Labels) -> Labels:
        moved = f.transpose([self.order.index(c) for c in self.out] + self.summed)
        return moved.reshape(moved.shape[: len(self.out)])


def contract(tracer: Tracer, a: Value, b: Value, spec: str) -> Value:
    """Return ``einsum(spec, a, b)``: summed units meet, one scaled by s, the other by 1/s."""
    return Contraction(tracer, a, b, spec).run()


@rule("linear")
def _linear(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    x, weight, bias = args["input"], args["weight"], args.get("bias")
    lead = LETTERS[: len(x.shape) - 1]
    out = contract(tracer, x, weight, f"{lead}z,yz->{lead}y")
    return out if bias is None else add(tracer, out, bias)


@rule("bilinear")
def _bilinear(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    """``y_o = sum_ij x_i W_oij z_j + b_o``: both inputs are read by one weight."""
    left, right, bias = args["input1"], args["input2"], args.get("bias")
    lead = LETTERS[: len(left.shape) - 1]
    half = contract(tracer, left, args["weight"], f"{lead}z,yzx->{lead}yx")
    out = contract(tracer, half, right, f"{lead}yx,{lead}x->{lead}y")
    return out if bias is None else add(tracer, out, bias)


@rule("matmul", "bmm", "mm", "mv", "dot")
def _matmul(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    a, b = (value for value in args.values() if isinstance(value, Value))
    return matmul(tracer, a, b)


def matmul(tracer: Tracer, a: Value, b: Value) -> Value:
    """Return ``a @ b`` with torch's rules for batch dims and vectors."""
    batch = LETTERS[: max(len(a.shape), len(b.shape), 2) - 2]
    left = (batch[len(batch) - len(a.shape) + 2 :] + "y") if len(a.shape) > 1 else ""
    right = (batch[len(batch) - len(b.shape) + 2 :]) if len(b.shape) > 1 else ""
    tail = ("y" if len(a.shape) > 1 else "") + ("x" if len(b.shape) > 1 else "")
    last = "x" if len(b.shape) > 1 else ""
    return contract(tracer, a, b, f"{left}z,{right}z{last}->{batch}{tail}")


@rule("addmm", "baddbmm")
def _addmm(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    a = args.get("mat1", args.get("batch1"))
    b = args.get("mat2", args.get("batch2"))
    assert a is not None
    assert b is not None
    product = matmul(tracer, a, b)
    return product if args.get("beta", 1) == 0 else add(tracer, product, args["self"])


@rule("einsum")
def _einsum(tracer: Tracer, node: fx.Node, args: dict[str, Any]) -> Value:
    spec = args["equation"].replace(" ", "")
    values = args["tensors"]
    inputs = spec.split("->")[0].split(",")
    plain = "." not in spec and "->" in spec and len(values) == 2
    if not plain or any(len(set(names)) < len(names) for names in inputs):
        tracer.note(f"einsum {spec!r} in {tracer.here}: only products of two operands are followed")
        tracer.pin(values)
        return Value.plain(output_shapes(node))
    return contract(tracer, values[0], values[1], spec)
