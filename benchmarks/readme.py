# SPDX-License-Identifier: Apache-2.0
"""Puts the newest results file, as tables and figures, at the end of README.md.

python benchmarks/readme.py
"""

import json
from pathlib import Path
from typing import Any

from figures import draw

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def table_of(title: str, table: dict[str, Any]) -> list[str]:
    """One table in Markdown."""
    width = max(len(row) for row in table["rows"])
    columns = table["columns"] + [""] * (width - len(table["columns"]))
    rows = [columns, ["---"] * width, *(row + [""] * (width - len(row)) for row in table["rows"])]
    return [f"**{title}**", "", *("| " + " | ".join(row) + " |" for row in rows), ""]


def section(path: Path) -> str:
    """What a results file says."""
    results = json.loads(path.read_text())
    machine = results["machine"]
    streams = machine["stream_gigabytes_per_second"]
    peaks = machine["fma_peak_flops"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, {machine['instructions']}, torch "
        f"{machine['torch']}. Streams in GB/s: "
        + ", ".join(f"{name} {speed:.1f}" for name, speed in streams.items())
        + ". FMA peak in GFLOP/s: "
        + ", ".join(f"{name} {flops / 1e9:.0f}" for name, flops in peaks.items())
        + ".",
        "",
    ]
    for figure in draw(path):
        lines += [f"![{figure.stem}](results/{figure.name})", ""]
    for stem, record in sorted(results["files"].items()):
        if record["tables"]:
            lines += [f"### {stem}", "", f"`.venv/bin/pytest -s benchmarks/{stem}.py`, "
                      f"{record['measured'][:10]}", ""]  # fmt: skip
        for title, table in record["tables"].items():
            lines += table_of(title, table)
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the marks."""
    found = sorted((HERE / "results").glob("*.json"), key=lambda path: path.stat().st_mtime)
    found = [path for path in found if "files" in json.loads(path.read_text())]
    if not found:
        raise SystemExit("there are no results: run `make bench` first")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{section(found[-1])}{END}{after}")
    print(f"written: {readme}, from {found[-1].name}")


if __name__ == "__main__":
    main()
