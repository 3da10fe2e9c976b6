# SPDX-License-Identifier: Apache-2.0
"""The figure of sparsify.py: accuracy over size, a panel for every model."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

plt.switch_backend("Agg")


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Mean over seeds with the range of seeds as bars; the dense model as a line."""
    table = pd.DataFrame(rows)
    names = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(1, len(names), figsize=(5.2 * len(names), 3.8), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        here = table[table["model"] == name]
        full = here[here["strength"] == 0]["accuracy"].mean()
        axis.axhline(full, color="gray", linestyle="--", linewidth=1, label="dense")
        for method, part in here[here["strength"] != 0].groupby("method", sort=False):
            by = part.groupby("strength")
            x, y = by["share"].mean(), by["accuracy"].mean()
            bars = [y - by["accuracy"].min(), by["accuracy"].max() - y]
            axis.errorbar(x, y, yerr=bars, marker="o", capsize=2, label=str(method))
        axis.set(xscale="log", xlabel="share of weights that are not zero", title=name)
        axis.set_ylim(max(0.5, axis.get_ylim()[0]), 1.0)
    axes[0][0].set_ylabel("test accuracy")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
