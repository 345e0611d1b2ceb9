"""What the number of GPUs and of shards does to the time that many encoders and targets take."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featspace.figures.style import DPI, GRAY, INK, WIDTH, save, style
from featspace.utils.tables import read_table

COLUMNS = {"case": str, "gpus": int, "shards": int, "jobs": int, "days": float, "ideal_days": float}
LINES = {1: ("#b8500f", "o"), 10: ("#5b4a9c", "s"), 100: ("#33658a", "^")}
"""Shards an encoder: color and marker."""
CASES = {
    "even": ("jobs of equal length", "#00806b", ":"),
    "stragglers": ("jobs of lognormal length", "#33658a", "--"),
    "node lost": ("…, and a node lost halfway", "#b8500f", "-"),
}
GPUS = 1024
"""Of the panel on the right."""
NOTE = (
    "A simulation of equal work split into jobs, one a shard of an encoder’s targets, which free GPUs take in order. "
    "Left: with lognormal lengths and a node of 8 GPUs lost halfway; dotted, work over GPUs. Right: on "
    f"{GPUS:,} GPUs, how much longer it takes than that; few shards wait for the slowest, many pay for their starts. "
    "Medians of five draws."
)


def run_schedule_figure(table: Path, out: Path) -> None:
    """Writes <out>.png and <out>.pdf of the table of `run_schedule`. Raises FeatspaceError if it cannot be read."""
    with style():
        save(draw(read_table(table, COLUMNS)), out)


def draw(table: pd.DataFrame) -> Figure:
    """Left the days against the GPUs, a line a number of shards; right what is lost against the shards, by case."""
    figure = Figure(figsize=(WIDTH / DPI, 3.2), layout="constrained")
    days, lost = figure.subplots(1, 2)
    worst = table[table["case"] == "node lost"]
    for shards, (color, marker) in LINES.items():
        own = worst[worst["shards"] == shards]
        days.loglog(own["gpus"], own["days"], color=color, marker=marker, markersize=3.5, linewidth=1, label=shards)
    ideal = worst.drop_duplicates("gpus")
    days.loglog(ideal["gpus"], ideal["ideal_days"], ":", color=GRAY, linewidth=0.8)
    days.set_xticks(ideal["gpus"], ideal["gpus"])
    days.legend(title="shards an encoder", title_fontsize=6.5, fontsize=6.5, frameon=False)
    _label(days, "GPUs", "days until all is decoded", [1, 2, 5, 10, 20, 50, 100])
    for case, (name, color, line) in CASES.items():
        own = table[(table["case"] == case) & (table["gpus"] == GPUS)]
        more = 100 * (own["days"] / own["ideal_days"] - 1)
        lost.loglog(own["shards"], more, line, color=color, marker="o", markersize=2.5, linewidth=1, label=name)
    lost.legend(fontsize=6.5, frameon=False)
    lost.set_xticks(own["shards"], own["shards"])
    _label(lost, "shards an encoder", "longer than work over GPUs (%)", [2, 5, 10, 20, 50, 100])
    figure.supxlabel(textwrap.fill(NOTE, 125), color=GRAY, fontsize=7.5, x=0.01, ha="left", linespacing=1.35)
    return figure


def _label(axes: Axes, x: str, y: str, ticks: list[int]) -> None:
    axes.set_yticks(ticks)
    axes.set_xlabel(x, color=INK, fontsize=7)
    axes.set_ylabel(y, color=INK, fontsize=7)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(labelsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
