# SPDX-License-Identifier: Apache-2.0
"""Options that are changed between steps."""

import pytest
import torch

import symfast as sf


@pytest.mark.parametrize("number", [0, 1])
def test_momentum_and_noise_may_be_switched_in_one_group(number: int) -> None:
    """Groups that stepped together part when one of them needs a state of its own."""

    def trained(momentum: float, noise: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(2)]
        optimizer = sf.optim.SGD([{"params": [p]} for p in params], lr=0.1)
        for step in range(4):
            if step == 1:
                optimizer.param_groups[number].update(momentum=momentum, noise=noise)
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
        return [p.detach() for p in params]

    plain, heavy, noisy = trained(0, 0), trained(0.9, 0), trained(0, 1.0)
    other = 1 - number
    assert torch.equal(heavy[other], plain[other])
    assert torch.equal(noisy[other], plain[other])
    # momentum starts with the second step: 1 + 1.9 + 2.71 gradients instead of 3
    torch.testing.assert_close(heavy[number], plain[number] - 0.1 * (1 + 1.9 + 2.71 - 3))
    assert not torch.equal(noisy[number], plain[number])


def test_switched_noise_differs_from_step_to_step() -> None:
    params = [torch.nn.Parameter(torch.zeros(5)) for _ in range(2)]
    optimizer = sf.optim.SGD([{"params": [p]} for p in params], lr=1.0)
    moved = []
    for step in range(3):
        if step == 1:
            optimizer.param_groups[1]["noise"] = 1.0
        before = params[1].detach().clone()
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        moved.append(params[1].detach() - before)
    assert not torch.equal(moved[1], moved[2])
