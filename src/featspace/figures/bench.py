"""The benchmark's two plots: distance against evaluations, and naturalness against distance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from featspace.baselines import PUBLISHED
from featspace.plotting import GRAY, INK, save, style
from featspace.tables import read_table

COLUMNS = {"method": str, "evaluations": int, "weight": float, "ratio": float, "error": float}
STYLES = {
    "fast": ("fast", "#b8500f", "o"),
    "paper": ("paper", "#0b4f7d", "s"),
    "paper_even": ("paper, no emphasis", "#5aa5d6", "s"),
    "universal": ("universal guidance", "#5b4a9c", "v"),
    "mpgd": ("MPGD", "#00806b", "^"),
    "dsg": ("DSG", "#b5568f", "D"),
    "tfg": ("TFG", "#8a7a1f", "P"),
    "latent_adam": ("no prior (latent Adam)", "#4d4d4d", "X"),
    "best_of": ("best of unguided", "#9a9a9a", "*"),
}
"""Each method's name, color and marker, in the legend's order."""
DISTANCE = "squared distance, over that of the target’s JPEG copy (quality 75)"


def run_bench_figure(table: Path, out: Path) -> None:
    """Draws <out>.png and <out>.pdf from the table that `bench_summary.run_bench_summary` wrote."""
    rows = read_table(table, COLUMNS)
    with style():
        save(draw(rows), out)


def draw(rows: pd.DataFrame) -> Figure:
    """Left: `ratio` against evaluations, a line a method. Right: `error` against `ratio`, the frontier."""
    figure = Figure(figsize=(7, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, (name, color, marker) in STYLES.items():
        part = rows[rows["method"] == method].sort_values("evaluations")
        for axes, x, y in ((left, "evaluations", "ratio"), (right, "ratio", "error")):
            shape = {"marker": marker, "markersize": 4, "markeredgewidth": 0, "linewidth": 0.9}
            if len(part):
                axes.plot(part[x], part[y], color=color, label=name, **shape)
        for row in part.itertuples():  # of the others the left plot tells the budgets
            if method == "fast" or row.evaluations == PUBLISHED:
                # The largest budgets lie close together: theirs is above its point, where nothing else is.
                place = (0, 4) if row.evaluations == part["evaluations"].max() else (-2, -8)
                text = {"xytext": place, "textcoords": "offset points", "ha": "right", "fontsize": 6, "color": color}
                right.annotate(f"{row.evaluations:,}", (row.ratio, row.error), **text)
    _scale(left, "guided evaluations an image", DISTANCE, sorted(rows["evaluations"].unique()), None)
    _scale(right, DISTANCE, "the prior’s denoising error, over that of photographs", None, [0.7, 0.8, 0.9, 1, 1.5, 2])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.1, y=0.1)
        axes.axhline(1, color=GRAY, linewidth=0.5, linestyle=":")
    right.axvline(1, color=GRAY, linewidth=0.5, linestyle=":")
    lines, names = left.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=5, fontsize=6.5, frameon=False)
    return figure


def _scale(axes: Axes, x: str, y: str, xticks: list | None, yticks: list | None) -> None:
    """Both axes logarithmic, with plain numbers."""
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(x, color=INK, fontsize=6.5)
    axes.set_ylabel(y, color=INK, fontsize=6.5)
    for axis, ticks in ((axes.xaxis, xticks), (axes.yaxis, yticks)):
        if ticks is not None:
            axis.set_ticks(ticks)
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=6.5)
