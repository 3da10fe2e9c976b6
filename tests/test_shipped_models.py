# SPDX-License-Identifier: Apache-2.0
"""Models nobody here wrote: what is found in them, and that it holds."""

from collections import Counter

import pytest
import torch
from shipped_models import crepe, minilm, silero, silero_scripted

import symfast as sf
from symfast.find.graph import TraceError, make_exact
from symfast.find.proof import Proof

LIMIT = 1e-10
ATTENTION = ("permutation", "sign_flip", "rescale", "rotation", "scale")


def assert_proved(groups: sf.SymmetryGroups) -> None:
    assert groups.notes == []
    for group in groups:
        assert group.kinds
        assert not group.unproved
        assert all(error <= LIMIT for _, error in group.errors)


def test_crepe() -> None:
    model, x = crepe("tiny")
    groups = sf.find_symmetries(model, x)
    assert_proved(groups)
    kinds = Counter(group.kinds for group in groups)
    assert kinds == {("permutation",): 6, ("rescale",): 12}
    fresh = Proof(make_exact(model, torch.randn(3, 1024)), seed=1)
    for group in groups:
        assert fresh.change([(group.of(fresh.exact.model), group.kinds[0])]) <= LIMIT


def test_silero() -> None:
    model, x = silero()
    groups = sf.find_symmetries(model, x)
    assert_proved(groups)
    found = {(group.where, group.m): group.kinds for group in groups}
    both = ("permutation", "rescale")
    assert found["conv1 -> relu -> conv2", 128] == both
    assert found["conv2 -> relu -> conv3", 64] == both
    assert found["conv3 -> relu -> conv4", 64] == both
    assert found["conv4 -> relu -> lstm_cell", 128] == both
    assert found["lstm_cell -> lstm -> relu -> lstm_cell + final_conv", 128] == ("permutation",)
    small, proof = sf.compress(model, x)
    assert proof.max_error <= LIMIT
    assert proof.parameters_after <= proof.parameters_before


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_silero_port_is_the_scripted_model() -> None:
    """The eager module equals the shipped TorchScript file, which cannot be traced."""
    _, x = silero()
    scripted, model = silero_scripted()
    with torch.no_grad():
        wanted = scripted(x, torch.zeros(0))[0]
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(TraceError, match="TorchScript"):
        sf.find_symmetries(scripted, x)


def test_crepe_full() -> None:
    model, x = crepe("full")
    assert_proved(sf.find_symmetries(model, x))


def test_minilm() -> None:
    model, x = minilm()
    groups = sf.find_symmetries(model, x)
    assert_proved(groups)
    kinds = Counter((group.m, group.kinds) for group in groups)
    assert kinds == {
        (32, ATTENTION): 2 * 6 * 12,  # query-key and value-output of every head
        (12, ("permutation",)): 6,
        (1536, ("permutation",)): 6,
    }
    small, proof = sf.compress(model, x)
    assert proof.max_error <= LIMIT
    key = small.encoder.layer[0].attention.self.key  # type: ignore[union-attr, index]
    assert key.bias is None
