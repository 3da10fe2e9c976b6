# SPDX-License-Identifier: Apache-2.0
"""Two figures of a results file: the roofline, and cost over work.

python benchmarks/figures.py benchmarks/results/<processor>.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def merged(results: dict[str, Any], kind: str) -> dict[str, Any]:
    """The points of every benchmark file, by name."""
    return {name: x for file in results["files"].values() for name, x in file[kind].items()}


def roofline(results: dict[str, Any]) -> Figure:
    """Operations per second over operations per byte, below memory and arithmetic.

    A colour is a benchmark file; its point farthest below the roof carries its name.
    """
    machine, files = results["machine"], results["files"]
    stream = 1e9 * machine["stream_gigabytes_per_second"]["in place"]
    peak = machine["fma_peak_flops"]["float32"]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    every = [p["flops"] / p["bytes"] for p in merged(results, "roofline").values()]
    x = np.geomspace(min(*every, 0.1) / 2, max(*every, peak / stream) * 2, 200)
    axes.loglog(x, np.minimum(x * stream, peak) / 1e9, color="black")
    axes.text(x[3], x[8] * stream / 1e9, f"stream in place {stream / 1e9:.0f} GB/s", ha="left")
    axes.text(x[-1], peak / 1e9 * 1.1, f"FMA peak {peak / 1e9:.0f} GFLOP/s", ha="right")
    for stem, record in sorted(files.items()):
        points = record["roofline"]
        if not points:
            continue
        intensity = np.array([p["flops"] / p["bytes"] for p in points.values()])
        speed = np.array([p["flops"] / p["seconds"] for p in points.values()])
        drawn = axes.plot(intensity, speed / 1e9, "o", label=f"{stem} ({len(points)})", alpha=0.7)
        lowest = int(np.argmin(speed / np.minimum(intensity * stream, peak)))
        axes.annotate(
            list(points)[lowest], (intensity[lowest], speed[lowest] / 1e9), fontsize=8,
            textcoords="offset points", xytext=(5, -9), color=drawn[0].get_color(),
        )  # fmt: skip
    axes.set(xlabel="operations per byte that must move", ylabel="GFLOP/s")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def scaling(results: dict[str, Any]) -> Figure:
    """Seconds over work for every curve, beside a straight line."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    curves = merged(results, "scaling")
    units = sorted({curve["unit"] for curve in curves.values()})
    for axes, unit in zip(np.ravel(figure.subplots(1, len(units))), units, strict=True):
        for name, curve in curves.items():
            if curve["unit"] == unit:
                work, seconds = np.array(sorted(curve["points"])).T
                line = axes.loglog(work, seconds, "o-", label=name)[0]
                axes.loglog(work, seconds[-1] * work / work[-1], ":", color=line.get_color())
        axes.set(xlabel=unit, ylabel="seconds")
        axes.legend(title="dotted: proportional to work", fontsize=8)
    return figure


def draw(path: Path) -> list[Path]:
    """Write the figures beside the results; those without points are left out."""
    results, written = json.loads(path.read_text()), []
    for kind, make in (("roofline", roofline), ("scaling", scaling)):
        if merged(results, kind):
            written.append(path.with_name(f"{path.stem}-{kind}.png"))
            make(results).savefig(written[-1], dpi=110)
    return written


if __name__ == "__main__":
    for figure_path in draw(Path(sys.argv[1])):
        print(f"written: {figure_path}")
