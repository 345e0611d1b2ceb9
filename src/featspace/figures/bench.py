"""The benchmark's plot: what each method reaches for each encoder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from featspace.figures import bench_curve
from featspace.figures.style import GRAY, INK, save, style
from featspace.utils.tables import read_table

COLUMNS = {"encoder": str, "method": str, "evaluations": int, "cosine_median": float}
COLUMNS |= {f"{name}_{end}": float for name in ("judge_cosine", "error") for end in ("mean", "low", "high")}
STYLES = {
    "fast": ("fast", "#b8500f", "o"),
    "paper": ("paper’s update", "#0b4f7d", "s"),
    "paper_even": ("…, no emphasis", "#5aa5d6", "s"),
    "universal": ("universal guidance", "#5b4a9c", "v"),
    "mpgd": ("MPGD", "#00806b", "^"),
    "dsg": ("DSG", "#b5568f", "D"),
    "tfg": ("TFG", "#8a7a1f", "P"),
    "latent_adam": ("latent Adam, no prior", "#4d4d4d", "X"),
    "pixel_adam": ("pixel Adam, no prior", "#8c8c8c", "x"),
    "best_of": ("best of unguided", "#9a9a9a", "*"),
    "autoencoder": ("autoencoder’s reconstruction", "#1a1a1a", "|"),
}
"""Each method's name, color and marker, in the legend's order."""
PANELS = {
    "cosine_median": "cosine of the feature, median",
    "judge_cosine_mean": "cosine to the judge, mean",
    "error_mean": "denoising error / photographs’",
}


def run_bench_figure(tables: Path, out: Path) -> None:
    """Draws bench.png and curve.png, and both as PDF, from the tables of `benchmark.summary.run_bench_summary`."""
    with style():
        save(draw(read_table(tables / "bench.csv", COLUMNS)), out / "bench")
        curve = read_table(tables / "curve.csv", COLUMNS)
        save(bench_curve.draw(curve, PANELS, STYLES["fast"]), out / "curve")


def draw(methods: pd.DataFrame) -> Figure:
    """A panel a measure, in it a lane an encoder, and in that a line a method, with the interval of a mean."""
    encoders = list(methods["encoder"].unique())
    figure = Figure(figsize=(7, 1.2 + 0.75 * len(encoders)), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for axes, column in zip(panels, PANELS, strict=True):
        for y in range(1, len(encoders)):
            axes.axhline(y - 0.5, color="#d9d6cf", linewidth=0.4)
        for place, (method, (name, color, marker)) in enumerate(STYLES.items()):
            part = methods[methods["method"] == method]
            y = part["encoder"].map(encoders.index) + 0.84 * (place / (len(STYLES) - 1) - 0.5)
            if column.endswith("mean"):
                low, high = (part[column.replace("mean", end)] for end in ("low", "high"))
                axes.hlines(y, low, high, color=color, linewidth=0.6)
            if len(part):
                size = 4 if method == "fast" else 3
                axes.plot(part[column], y, marker, color=color, markersize=size, label=name)
        axes.set_xlabel(PANELS[column], color=INK, fontsize=6.5)
        axes.set_yticks(range(len(encoders)), encoders if axes is panels[0] else [], fontsize=7)
        axes.set_ylim(len(encoders) - 0.5, -0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=6.5)
        axes.tick_params(axis="y", length=0)
    panels[-1].axvline(1, color=GRAY, linewidth=0.5, linestyle=":")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=4, fontsize=6.5, frameon=False)
    return figure
