# SPDX-License-Identifier: Apache-2.0
"""A compiled model against itself."""

import torch
from torch import nn
from torch.testing import assert_close


def assert_compiles(model: nn.Module, x: torch.Tensor) -> None:
    """One graph, with the values and the gradients of eager mode."""
    wanted = model(x).square().sum()
    grads = torch.autograd.grad(wanted, list(model.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = compiled(x).square().sum()
    assert_close(got, wanted)
    for a, b in zip(torch.autograd.grad(got, list(model.parameters())), grads, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)
