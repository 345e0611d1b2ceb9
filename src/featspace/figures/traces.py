"""Figure A3: how near the nearest image is, against the evaluations spent."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from featspace.figures.source import Source
from featspace.figures.style import DPI, GRAY, INK, WIDTH
from featspace.utils.tables import TRACES, read_table

COLORS = ("#5b4a9c", "#b8500f", "#00806b", "#33658a")
LINES = ("--", "-", "-.", ":")


def draw(source: Source) -> Figure:
    """A line an encoder, with its interval, on logarithmic axes."""
    table = read_table(source.table("traces"), TRACES)
    figure = Figure(figsize=(WIDTH / DPI, 3.3), layout="constrained")
    axes = figure.subplots()
    for (encoder, own), color, line in zip(table.groupby("encoder", sort=False), COLORS, LINES, strict=False):
        axes.fill_between(own["evaluation"], own["low"], own["high"], color=color, alpha=0.15, linewidth=0)
        axes.loglog(own["evaluation"], own["ratio"], line, color=color, linewidth=1.2, label=str(encoder))
    axes.axhline(1, color=GRAY, linewidth=0.6, linestyle=":")
    last = table["evaluation"].max()
    axes.text(last, 1, "the nearest other photograph", color=GRAY, fontsize=6.5, ha="right", va="bottom")
    axes.set_xlabel("guided evaluations", color=INK, fontsize=7.5)
    axes.set_ylabel("squared distance / nearest photograph’s", color=INK, fontsize=7.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="lower left")
    counts = table.groupby("encoder", sort=False)[["images", "targets"]].first()
    of = ", ".join(f"{encoder} {row.images} of {row.targets} photographs" for encoder, row in counts.iterrows())
    note = (
        f"The least distance of an image’s feature to the target’s so far, over that of the nearest other photograph; "
        f"medians over images ({of}), shaded 95 % intervals bootstrapped over photographs."
    )
    figure.supxlabel(textwrap.fill(note, 125), color=GRAY, fontsize=7.5, x=0.01, ha="left", linespacing=1.35)
    return figure
