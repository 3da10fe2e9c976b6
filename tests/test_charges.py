# SPDX-License-Identifier: Apache-2.0
"""Charges: closed forms, conservation by gradient flow, sign-locked neurons."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symfast as sf
from symfast.charges import charge_of
from symfast.symmetry_group import Member, SymmetryGroup

GL = ("permutation", "sign_flip", "rescale", "rotation", "scale")


pytestmark = pytest.mark.usefixtures("one_thread")


def layer_group(
    first: nn.Linear, second: nn.Linear, kinds: tuple[str, ...], activation: str = "relu"
) -> SymmetryGroup:
    members = [Member(first.weight, 0, "0.weight", "in")]
    if first.bias is not None:
        members.append(Member(first.bias, 0, "0.bias", "bias"))
    members.append(Member(second.weight, 1, "2.weight", "out"))
    return SymmetryGroup(tuple(members), kinds, where="hidden", activation=activation)


def two_layers(outputs: int, middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), middle, nn.Linear(6, outputs)).double()


def test_closed_forms() -> None:
    model = two_layers(2, nn.ReLU())
    W, b, V = model[0].weight, model[0].bias, model[2].weight
    (rescale,) = sf.charges(model, [layer_group(model[0], model[2], ("rescale",))])
    wanted = W.square().sum(1) + b.square() - V.square().sum(0)
    torch.testing.assert_close(rescale.value, wanted.detach())
    assert rescale.locked is None  # two outputs: the theorem says nothing
    (matrix,) = sf.charges(model, [layer_group(model[0], model[2], GL, "identity")])
    torch.testing.assert_close(
        matrix.value, (W @ W.T + torch.outer(b, b) - V.T @ V).detach(), rtol=1e-12, atol=1e-12
    )
    (scale,) = sf.charges(model, [layer_group(model[0], model[2], ("scale",))])
    torch.testing.assert_close(scale.value, wanted.detach().sum())
    only = SymmetryGroup((Member(W, 0, "w", "in"),), ("scale",))
    assert float(sf.charges(None, [only])[0].value) == pytest.approx(
        float(W.detach().square().sum())
    )


def test_discrete_symmetries_and_rotation_alone_have_no_charge() -> None:
    model = two_layers(2, nn.Tanh())
    kinds = [("permutation", "sign_flip"), ("rotation",), ()]
    assert sf.charges(model, [layer_group(model[0], model[2], k) for k in kinds]) == []


def drift(
    make: Callable[[], nn.Sequential], kinds: tuple[str, ...], eta: float, time: float = 0.4
) -> tuple[Tensor, float, float]:
    """Change of the charge and of the parameters over a fixed time of gradient descent."""
    torch.manual_seed(3)
    model = make()
    X = torch.randn(20, 3, dtype=torch.float64)
    Y = torch.randn(20, model[2].out_features, dtype=torch.float64)
    group = layer_group(model[0], model[2], kinds)
    start = charge_of(group)
    assert start is not None
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    for _ in range(round(time / eta)):
        optimizer.zero_grad()
        (model(X) - Y).square().sum(1).mean().backward()
        optimizer.step()
    end = charge_of(group)
    assert end is not None
    moved = sum(
        float((p.detach() - q).abs().sum()) for p, q in zip(model.parameters(), before, strict=True)
    )
    return start.value, float((end.value - start.value).abs().max()), moved


@pytest.mark.parametrize(
    ("middle", "kinds"), [(nn.ReLU(), ("rescale",)), (nn.Identity(), GL), (nn.ReLU(), ("scale",))]
)
def test_gradient_flow_conserves_to_first_order(middle: nn.Module, kinds: tuple[str, ...]) -> None:
    """Over a fixed time the drift is O(eta): it halves with eta, while the parameters move."""
    make = lambda: two_layers(2, middle)  # noqa: E731
    coarse, fine = (drift(make, kinds, eta) for eta in (2e-3, 1e-3))
    assert coarse[2] > 0.2
    assert coarse[1] < 2e-2
    assert coarse[1] / fine[1] == pytest.approx(2, rel=0.1)


def test_a_wrong_charge_is_not_conserved() -> None:
    """The control: a tanh layer has no rescaling, and what would be its charge drifts."""
    make = lambda: two_layers(2, nn.Tanh())  # noqa: E731
    coarse, fine = (drift(make, ("rescale",), eta) for eta in (2e-3, 1e-3))
    assert coarse[1] > 1e-2
    assert coarse[1] / fine[1] == pytest.approx(1, rel=0.05)


def test_sign_locked_neurons() -> None:
    model = two_layers(1, nn.ReLU())
    group = layer_group(model[0], model[2], ("permutation", "rescale"))
    with torch.no_grad():
        model[2].weight[0, :3] = 10.0
        model[2].weight[0, 3:] = 1e-3
    (charge,) = sf.charges(model, [group])
    assert charge.locked is not None
    assert charge.locked.tolist() == [True] * 3 + [False] * 3
    assert charge.components == (8, 4)
    tanh = layer_group(model[0], model[2], ("rescale",), "leaky")
    assert sf.charges(model, [tanh])[0].locked is None
    assert sf.charges(model, [tanh])[0].components is None


def test_locked_signs_never_change_and_unlocked_ones_do() -> None:
    """Positive target, all v < 0: locked neurons stay stuck at E[y^2] / 2, unlocked ones do not."""
    X = torch.randn(60, 2, dtype=torch.float64)
    y = torch.relu(X @ torch.tensor([1.0, -0.5], dtype=torch.float64))

    def train(unlock: bool) -> tuple[float, int]:
        w = torch.eye(2, dtype=torch.float64).repeat(2, 1)
        w[2:] *= -1
        v = torch.full((1, 4), -1.5, dtype=torch.float64)
        members = (Member(w, 0, "w", "in"), Member(v, 1, "v", "out"))
        group = SymmetryGroup(members, ("rescale",), activation="relu")
        if unlock:
            sf.balance_(None, [group], "unlock")
        sign = v.sign()
        for _ in range(1500):
            h = torch.relu(X @ w.T)
            r = h @ v[0] - y
            gv, gw = h.T @ r / 60, (r[:, None] * v * (h > 0)).T @ X / 60
            v -= 0.05 * gv
            w -= 0.05 * gw
        return float(0.5 * r.square().mean()), int((v.sign() != sign).sum())

    stuck, flips = train(unlock=False)
    assert flips == 0
    assert stuck == pytest.approx(0.5 * float(y.square().mean()), rel=1e-2)
    free, flips = train(unlock=True)
    assert flips > 0
    assert free < 0.1 * stuck


def test_groups_of_another_model_are_refused() -> None:
    model, other = two_layers(2, nn.ReLU()), two_layers(2, nn.ReLU())
    with pytest.raises(ValueError, match="no parameter of this model"):
        sf.charges(other, [layer_group(model[0], model[2], ("rescale",))])
