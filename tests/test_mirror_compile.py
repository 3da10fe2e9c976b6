# SPDX-License-Identifier: Apache-2.0
"""The mirror functions under torch.compile, export and fake tensors."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from symfast import mirror

Function = Callable[..., Tensor]
CALLS: dict[str, Function] = {
    "coefficients": lambda x, o, a: mirror.coefficients(x, o),
    "norms": lambda x, o, a: mirror.norms(x, o),
    "reflect": lambda x, o, a: mirror.reflect(x, o),
    "project": lambda x, o, a: mirror.project(x, o),
    "shrink": lambda x, o, a: mirror.shrink(x, o, a),
    "shrink-number": lambda x, o, a: mirror.shrink(x, o, 0.25),
    "prox": lambda x, o, a: mirror.prox(x, o, a),
    "prox-group": lambda x, o, a: mirror.prox(x, o, a, mode="group"),
}
#: theta batch, O batch: each of the ways a batch can fold
BATCHES = [((4,), ()), ((4,), (4,)), ((3, 4), (4,)), ((3, 4), (3, 1)), ((2, 3, 1), (2,)), ((), ())]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def operands(
    rows: tuple[int, ...], groups: tuple[int, ...], d: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    theta = torch.randn(*rows, d)
    O = torch.linalg.qr(torch.randn(*groups, d, 2)).Q
    return theta, O, torch.rand(torch.broadcast_shapes(rows, groups))


@pytest.mark.parametrize("name", CALLS)
def test_compiles_without_breaks_for_any_size(name: str) -> None:
    call = CALLS[name]
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for size, d in ((4, 6), (5, 7), (9, 6)):
        args = operands((size,), (), d)
        assert_close(compiled(*args), call(*args))


@pytest.mark.parametrize(("rows", "groups"), BATCHES, ids=str)
def test_compiles_every_way_of_broadcasting(rows: tuple[int, ...], groups: tuple[int, ...]) -> None:
    def all_verbs(x: Tensor, o: Tensor, a: Tensor) -> Tensor:
        return mirror.project(x, o) + mirror.prox(x, o, a) + mirror.norms(x, o).unsqueeze(-1)

    for dynamic in (False, True):
        compiled = torch.compile(all_verbs, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        args = operands(rows, groups)
        assert_close(compiled(*args), all_verbs(*args))


@pytest.mark.parametrize("name", ["project", "shrink", "prox-group"])
def test_compiled_gradients_equal_eager_ones(name: str) -> None:
    def gradients(call: Function) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in args]
        return torch.autograd.grad(call(*leaves).square().sum(), leaves, allow_unused=True)

    args = operands((4,), ())
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    assert_close(gradients(compiled), gradients(CALLS[name]))


def test_a_changing_number_does_not_recompile() -> None:
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(mirror.shrink, fullgraph=True, dynamic=True, backend=counter)
    theta, O, _ = operands((4,), ())
    for amount in (0.1, 0.2, 0.3, 0.4):
        assert_close(compiled(theta, O, amount), mirror.shrink(theta, O, amount))
    assert counter.frame_count <= 2


@pytest.mark.skipif(shutil.which("c++") is None, reason="the inductor needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_default_backend_agrees() -> None:
    def step(x: Tensor, o: Tensor, a: Tensor) -> Tensor:
        return mirror.prox(mirror.project(x * 2, o), o, a, mode="group")

    args = operands((4,), ())
    assert_close(torch.compile(step, fullgraph=True)(*args), step(*args))


def test_export_keeps_the_operators() -> None:
    class Step(torch.nn.Module):
        def forward(self, x: Tensor, o: Tensor) -> Tensor:
            return mirror.project(x, o)

    theta, O, _ = operands((4,), ())
    program = torch.export.export(Step(), (theta, O))
    assert "symfast.mirror_apply" in program.graph_module.code
    assert_close(program.module()(theta, O), mirror.project(theta, O))


@pytest.mark.parametrize("name", CALLS)
def test_fake_tensors_know_shape_dtype_and_strides(name: str, dtype: torch.dtype) -> None:
    for rows, groups in BATCHES:
        args = [x.to(dtype) for x in operands(rows, groups)]
        real = CALLS[name](*args)
        with FakeTensorMode() as mode:
            fake = CALLS[name](*(mode.from_tensor(x) for x in args))
        assert fake.shape == real.shape
        assert fake.dtype == real.dtype
        assert fake.stride() == real.stride()
        meta = CALLS[name](*(x.to("meta") for x in args))
        assert meta.shape == real.shape
