"""The benchmark's second plot: what `fast` gives for its budget."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from featspace.figures.style import GRAY, INK


def draw(curve: pd.DataFrame, measures: Mapping[str, str], style: tuple[str, str, str]) -> Figure:
    """A panel a measure (column: label), the last with a line at 1: against evaluations, a line an encoder.

    Encoders of one budget alone are left out. `style` is the method's name, color and marker.
    """
    name, color, marker = style
    curve = curve[curve.groupby("encoder")["evaluations"].transform("size") > 1].sort_values("evaluations")
    lines = dict(zip(curve["encoder"].unique(), cycle(["-", "--", ":"]), strict=False))
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    panels = figure.subplots(1, len(measures))
    for axes, (column, label) in zip(panels, measures.items(), strict=True):
        for encoder, line in lines.items():
            part = curve[curve["encoder"] == encoder]
            axes.plot(part["evaluations"], part[column], line, color=color, marker=marker, markersize=3, linewidth=0.9)
        axes.set_title(f"{name}, {', '.join(lines)}", color=INK, fontsize=7)
        axes.set_xscale("log")
        axes.set_xticks(sorted(curve["evaluations"].unique()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("guided evaluations", color=INK, fontsize=6.5)
        axes.set_ylabel(label, color=INK, fontsize=6.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=6.5)
    panels[-1].axhline(1, color=GRAY, linewidth=0.5, linestyle=":")
    return figure
