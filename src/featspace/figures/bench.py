"""The benchmark's two plots: distance against evaluations, and naturalness against distance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from featspace.plotting import GRAY, INK, save, style
from featspace.tables import read_table

COLUMNS = {"method": str, "evaluations": int, "weight": float, "ratio": float, "error": float}
OWN, OTHER = "#b8500f", "#33658a"
NAMES = {
    "paper_even": "paper, no emphasis",
    "latent_adam": "no prior (latent Adam)",
    "best_of": "best of unguided",
    "universal": "universal guidance",
    "mpgd": "MPGD",
    "dsg": "DSG",
    "tfg": "TFG",
}
LABEL = {"textcoords": "offset points", "fontsize": 6}
DISTANCE = "squared distance, over that of the target’s JPEG copy (quality 75)"


def run_bench_figure(table: Path, out: Path) -> None:
    """Draws <out>.png and <out>.pdf from the table that `bench_summary.run_bench_summary` wrote."""
    rows = read_table(table, COLUMNS)
    with style():
        save(draw(rows), out)


def draw(rows: pd.DataFrame) -> Figure:
    """Left: `ratio` against evaluations, a line a method. Right: `error` against `ratio`, the frontier."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    others = rows[rows["method"] != "fast"]
    sides = {row.method: -1 if _crowded(row, others) else 1 for row in others.itertuples()}
    below = 0.0  # the last label's place
    for row in others.sort_values("ratio").itertuples():  # labels on the left keep a line's distance
        below = max(row.ratio, 1.25 * below)
        left.annotate(NAMES.get(row.method, row.method), (row.evaluations, below), (5, -2), **LABEL, color=OTHER)
    for method, part in rows.groupby("method", sort=True):
        own, color = part.sort_values("evaluations"), OWN if method == "fast" else OTHER
        for axes, x, y in ((left, "evaluations", "ratio"), (right, "ratio", "error")):
            axes.plot(own[x], own[y], color=color, marker="o", markersize=3.5, linewidth=0.9)
        for row in own.itertuples():
            side = sides.get(method, 1)
            text = f"{row.evaluations:,}" if method == "fast" else NAMES.get(method, method)
            if method == "fast" and row.evaluations == own["evaluations"].max():
                text = f"fast, {text}"
            elif method != "fast" and len(own) > 1:
                text = f"{text}, {row.evaluations:,}"
            options = LABEL | {"ha": "left" if side > 0 else "right", "color": color}
            offset = 4 * side, -2 if side > 0 else 2
            if method == "fast":  # below the line, and its name above it
                offset, options["ha"] = (0, 5 if "fast" in text else -9), "center"
            right.annotate(text, (row.ratio, row.error), offset, **options)
        if method == "fast":
            left.annotate(method, (own["evaluations"].iloc[-1], own["ratio"].iloc[-1]), (5, -2), **LABEL, color=color)
    _scale(left, "guided evaluations an image", DISTANCE, sorted(rows["evaluations"].unique()), None)
    _scale(right, DISTANCE, "the prior’s denoising error, over that of photographs", None, [0.7, 1, 1.5, 2])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.22, y=0.08)
    left.axhline(1, color=GRAY, linewidth=0.5, linestyle=":")
    right.axhline(1, color=GRAY, linewidth=0.5, linestyle=":")
    right.axvline(1, color=GRAY, linewidth=0.5, linestyle=":")
    return figure


def _crowded(row, others: pd.DataFrame) -> bool:
    """Whether a label to the right of the method's point would run into another's."""
    beside = others[(others["error"] / row.error).between(0.96, 1.04) & (others["ratio"] > row.ratio)]
    return bool((beside["method"] != row.method).any())


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
