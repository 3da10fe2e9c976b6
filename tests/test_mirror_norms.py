# SPDX-License-Identifier: Apache-2.0
"""The norm of every mirror as columns of a sweep and of its time series."""

from pathlib import Path
from typing import Any

import pytest
import torch

import symfast as sf
from symfast.problems import Factorized, TwoLayer, order_parameters
from symfast.sweep import engine
from symfast.sweep.grid import grid_of
from symfast.sweep.train import Trainer


def test_of_hidden_units(tmp_path: Path) -> None:
    """Swap and sign flip by definition; zero where projected; in the store and over time."""
    X = torch.randn(40, 3)
    mirrors = [sf.Swap([0, 1], [2, 3]), sf.SignFlip([4])]
    problem = TwoLayer(X, X[:, :1] * X[:, 1:2], 5, "tanh", mirrors=mirrors, mirror_norms=True)
    result = sf.sweep(
        problem, constraint=["none", "project"], steps=60, every=20, out=tmp_path, seeds=2, chunk=3
    )
    table, names = result.table, ["mirror_0", "mirror_1", "mirror_2"]
    theta = torch.tensor(result.weights)
    W1, b1, W2 = theta[:, :15].unflatten(1, (5, 3)), theta[:, 15:20], theta[:, 20:25]
    u = torch.cat([W1, b1[:, :, None], W2[:, :, None]], 2)
    pairs = [(u[:, a] - u[:, b]).norm(dim=1) / 2**0.5 for a, b in ((0, 2), (1, 3))]
    want = torch.stack([*pairs, u[:, 4].norm(dim=1)], 1)
    got = torch.tensor(table[names].to_numpy())
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        torch.tensor(table.violation.to_numpy()), want.norm(dim=1), atol=1e-12, rtol=0
    )
    held = table.constraint == "project"
    assert table[held][names].to_numpy().max() < 1e-12 < table[~held][names].to_numpy().min()
    last = result.series[result.series.step == 60].reset_index(drop=True)
    assert last[names].equals(table[names])


def test_of_factors() -> None:
    """Groups of gates, coordinates of a frame, or single weights."""
    X, y = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    grid: dict[str, Any] = {"weight_decay": [0.01, 0.1], "steps": 300}
    plain = sf.sweep(Factorized(X, y, mirror_norms=True), **grid)
    assert (plain.table[[f"mirror_{i}" for i in range(6)]] == abs(plain.weights)).all(axis=None)
    groups = sf.sweep(Factorized(X, y, per=[0, 0, 1, 1, 1, 2], mirror_norms=True), **grid)
    w = torch.tensor(groups.weights)
    want = torch.stack([w[:, :2].norm(dim=1), w[:, 2:5].norm(dim=1), w[:, 5].abs()], 1)
    got = torch.tensor(groups.table[["mirror_0", "mirror_1", "mirror_2"]].to_numpy())
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    frame = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0]
    framed = sf.sweep(Factorized(X, y, frame=frame, mirror_norms=True), **grid)
    want = (torch.tensor(framed.weights) @ frame).abs()
    got = torch.tensor(framed.table[["mirror_0", "mirror_1"]].to_numpy())
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def test_only_where_asked_for_and_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    X = torch.eye(3)
    assert "mirror_0" not in sf.sweep(Factorized(X, X[0]), steps=5).table
    assert "mirror_norms" not in Factorized(X, X[0]).describe()
    assert Factorized(X, X[0], mirror_norms=True).describe()["mirror_norms"] is True
    with pytest.raises(ValueError, match="1 to 4096 mirrors, this TwoLayer has 0"):
        TwoLayer(X, X[0], 4, mirror_norms=True)
    monkeypatch.setattr(order_parameters, "MOST_MIRRORS", 2)
    with pytest.raises(ValueError, match="1 to 2 mirrors, this Factorized has 3"):
        Factorized(X, X[0], mirror_norms=True)


def test_a_chunk_shrinks_with_its_series() -> None:
    """1 GB bounds what is measured over time, too: 6 + 10 columns of 10^5 rows a replica."""
    problem = Factorized(torch.eye(3), torch.ones(3))
    grid = grid_of(problem.axes, {}, 1)
    place = torch.device("cpu")
    sizes = [
        engine._chunk_size(Trainer(problem, grid, 10**5, every, {}, torch.float64, place, False))
        for every in (None, 10**5, 1)
    ]
    assert sizes[0] == sizes[1] == engine.CHUNK["cpu"]
    assert 30 <= sizes[2] <= engine.CHUNK_BYTES / (8 * 16 * 10**5)
