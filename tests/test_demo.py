# SPDX-License-Identifier: Apache-2.0
"""The demo does its whole job, and says so when a claim fails."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from symfast import demo, ops
from symfast.demo import Check


@pytest.mark.skipif(
    not ops.has_kernels(), reason="no compiled kernels: the demo would take minutes"
)
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.parquet").write_text("left over")
    assert demo.run(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"manifest.json", "sweep.parquet", "sweep.png", "threshold.png", "report.html"}
    assert pq.read_metadata(tmp_path / "sweep.parquet").num_rows == 24 * demo.SEEDS * 3
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 2
    printed = capsys.readouterr().out
    assert "FAILS" not in printed
    assert "torch loop" in printed


def test_a_failing_claim_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    demo._print_checks(Console(), [Check("two is three", "3", "2", holds=False)])
    assert "FAILS" in capsys.readouterr().out
