# SPDX-License-Identifier: Apache-2.0
"""A monitored training is the same training, and its rows survive."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_charges import layer_group, two_layers
from torch import Tensor, nn

import symfast as sf
from symfast import monitor as monitor_function
from symfast.monitor_store import MonitorStore, read_monitor
from symfast.order_parameters import order_parameters
from symfast.symmetry_group import Member, SymmetryGroup


def train(
    model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int, dropout: bool = False
) -> None:
    """Training that draws random numbers, so that a monitor that draws some would show."""
    for _ in range(steps):
        X = torch.randn(8, 3, dtype=torch.float64)
        optimizer.zero_grad()
        (nn.functional.dropout(model(X), 0.1) ** 2).sum().backward()
        optimizer.step()


def run(monitored: bool, out: Path) -> list[Tensor]:
    torch.manual_seed(5)
    model = two_layers(2, nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    group = layer_group(model[0], model[2], ("permutation", "rescale"))
    plan = sf.Plan([(group.units, sf.Swap([0], [1]))])
    if monitored:
        with sf.monitor(optimizer, [group], plan=plan, every=3, out=out):
            train(model, optimizer, 40)
    else:
        train(model, optimizer, 40)
    return [p.detach().clone() for p in model.parameters()] + [torch.rand(3)]


def test_weights_are_bitwise_the_same_with_and_without(tmp_path: Path) -> None:
    for a, b in zip(run(False, tmp_path), run(True, tmp_path), strict=True):
        assert torch.equal(a, b)
    table = read_monitor(tmp_path)
    assert table[table.group == "hidden"].step.tolist() == list(range(0, 41, 3))


def test_rows_say_what_a_direct_computation_says() -> None:
    model = two_layers(1, nn.ReLU())
    with torch.no_grad():
        for p in (model[0].weight, model[0].bias, model[2].weight[0]):
            p[3] = p[1]
        model[2].weight[0, 2] = 40.0
    group = layer_group(model[0], model[2], ("rescale",))
    row = order_parameters(group)
    parts = [model[0].weight, model[0].bias[:, None], model[2].weight.T]
    U = torch.cat(parts, 1).detach()
    s = torch.linalg.svdvals(U)
    assert row["distinct"] == 5
    assert row["to_swap"] < 1e-6
    assert row["rank"] == int((s > 1e-6 * s[0]).sum())
    assert row["unit_norms"] == pytest.approx(U.norm(dim=1).tolist())
    assert row["norm"] == pytest.approx(float(U.norm()))
    assert row["stable_rank"] == pytest.approx(float(s.square().sum() / s[0] ** 2))
    (charge,) = sf.charges(model, [group])
    assert row["charge_min"] == pytest.approx(float(charge.value.min()))
    assert charge.locked is not None
    assert row["sign_locked"] == int(charge.locked.sum()) >= 1


@pytest.mark.parametrize(("m", "n", "pairs"), [(4, 9, 10), (9, 4, 10), (9, 4, 5), (4, 9, 2)])
def test_shapes_and_the_limit_of_pairs(m: int, n: int, pairs: int) -> None:
    U = torch.randn(m, n, dtype=torch.float64)
    row = order_parameters(SymmetryGroup((Member(U, 0, "w", "in"),), ()), pairs_up_to=pairs)
    s = torch.linalg.svdvals(U)
    assert row["to_direction"] == pytest.approx(float(s[-1]) if m <= n else 0.0)
    assert row["effective_rank"] > 1
    nearest = float(torch.pdist(U).min()) / 2**0.5 if m <= pairs else float("nan")
    assert row["to_swap"] == pytest.approx(nearest, nan_ok=True)


def test_a_diverged_training_is_a_row_and_no_crash() -> None:
    w = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    row = order_parameters(SymmetryGroup((Member(w, 0, "w", "in"),), ("scale",)))
    assert row["rank"] != row["rank"]


def test_mirror_norms_of_a_plan_and_a_model_without_optimizer() -> None:
    layer = nn.Linear(3, 4)
    plan = sf.Plan([(layer.weight, sf.Swap([0, 1], [2, 3])), (layer.bias, sf.SignFlip([0]))])
    log = sf.monitor(layer, plan=plan, every=2)
    for _ in range(4):
        log.step()
    wanted = [float(x) for x in plan.norms()]
    assert [row["mirror_norm"] for row in log.rows] == wanted * 3
    assert [row["step"] for row in log.rows] == [0, 0, 2, 2, 4, 4]


def test_closing_takes_the_hook_off() -> None:
    model = two_layers(2, nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with sf.monitor(optimizer, [layer_group(model[0], model[2], ())], every=1) as log:
        train(model, optimizer, 2)
    train(model, optimizer, 2)
    assert log.steps == 2
    assert log.seconds > 0
    assert not optimizer._optimizer_step_post_hooks


def test_a_summary_writer_gets_scalars() -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.seen.append((tag, scalar_value, global_step))

    writer, layer = Writer(), nn.Linear(3, 2)
    group = SymmetryGroup((Member(layer.weight, 0, "w", "in"),), (), where="fc")
    log = sf.monitor(layer, [group, group], out=writer, every=1)
    log.step()
    tags = {tag for tag, _, _ in writer.seen}
    assert {"fc #0/distinct", "fc #1/effective_rank"} <= tags
    assert {step for _, _, step in writer.seen} == {0, 1}


KILLED = """
import os, signal, sys, torch
from symfast import monitor
from symfast import monitor_store
import symfast.monitor as module
from symfast.symmetry_group import Member, SymmetryGroup
sys.modules["symfast.monitor"].PART = 2
layer = torch.nn.Linear(3, 2)
log = monitor(layer, [SymmetryGroup((Member(layer.weight, 0, "w", "in"),), (), where="fc")],
              every=1, out=sys.argv[1], start=int(sys.argv[2]))
for _ in range(8):
    log.step()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_survive_kill_9_and_a_second_run_goes_on(tmp_path: Path) -> None:
    for start in (0, 6):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(start)], timeout=60)
        assert done.returncode == -9
    assert not (tmp_path / "monitor.parquet").exists()
    steps = read_monitor(tmp_path).step.tolist()
    assert steps == list(range(14))  # 0..7, then 6..13: nothing lost but the tail, nothing twice
    MonitorStore(tmp_path).finish()
    assert [path.name for path in tmp_path.iterdir()] == ["monitor.parquet"]
    assert read_monitor(tmp_path).step.tolist() == steps


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    group = SymmetryGroup((Member(layer.weight, 0, "w", "in"),), ())
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match="every is"):
            sf.monitor(layer, [group], every=every)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to measure"):
        sf.monitor(layer)
    with pytest.raises(TypeError, match="wanted a torch optimizer or a module"):
        monitor_function("model", [group])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give a directory"):
        sf.monitor(layer, [group], out=3)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        sf.monitor(layer, [group], out=tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="holds neither"):
        read_monitor(tmp_path)
    with pytest.raises(ValueError, match="no parameter of this model"):
        sf.monitor(nn.Linear(2, 2), [group])


def test_tensorboard_reads_what_a_directory_holds(tmp_path: Path) -> None:
    """Where TensorBoard is installed, the same numbers are in its events and in the table."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    layer = nn.Linear(3, 2)
    group = SymmetryGroup((Member(layer.weight, 0, "weight", "in"),), (), where="fc")
    log = sf.monitor(layer, [group], out=tmp_path, every=1)
    for _ in range(3):
        with torch.no_grad():
            layer.weight.mul_(0.5)
        log.step()
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("fc/norm")]
    table = read_monitor(tmp_path)
    assert [step for step, _ in logged] == table.step.tolist()
    assert [value for _, value in logged] == pytest.approx(table.norm.tolist())
