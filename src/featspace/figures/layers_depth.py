"""What survives by depth: color, layout, edges, texture, identity and class, a panel each."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featspace.figures.layers import name
from featspace.figures.style import DPI, GRAY, INK, WIDTH
from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import LAYERS, read_table

PANELS = {
    "color": ("color", "difference of palettes, ΔE₀₀", ("color",)),
    "layout": ("layout", "correlation of coarse lightness", ("layout",)),
    "edges": ("edges", "correlation of gradients", ("edges",)),
    "texture": ("texture", "overlap of pattern histograms", ("texture",)),
    "identity": ("identity", "cosine of the judge’s features", ("judge_cosine",)),
    "class": ("class", "share of images", ("judge_top5", "judge_top1")),
}
"""Title, axis and measures of each panel."""
COLORS = {"judge_top5": "#c9962f"}
COLOR = "#33658a"
LABELS = {"judge_top1": "top-1", "judge_top5": "top-5"}
NOTE = (
    "Images decoded from each layer against their photographs; up is more alike. Medians, of the class the share whose "
    "photograph’s class is the judge’s first (top-1) or among its first five (top-5), with 95 % intervals bootstrapped "
    "over photographs. Gray: the same images against other photographs, which is chance."
)


def draw(_targets: Path, _decoded: Path, table: Path) -> Figure:
    """A panel an attribute, the layers by depth from left to right. Raises FeatspaceError if the table has none."""
    rows = read_table(table, LAYERS)
    layers = list(dict.fromkeys(rows["layer"]))
    panels = [panel for panel in PANELS.values() if set(panel[2]) & set(rows["measure"])]
    if not panels:
        raise FeatspaceError(f"{table}: no attribute of any layer; write it again with `featspace layers`")
    figure = Figure(figsize=(WIDTH / DPI, 4.6), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 3), 3, squeeze=False, sharex=True).flat
    for axes, (title, unit, measures) in zip(grid, panels, strict=False):
        for shift, measure in zip((-0.12, 0.12) if len(measures) > 1 else (0,), measures, strict=True):
            own = rows[rows["measure"] == measure].set_index("layer").reindex(layers)
            _points(axes, own, COLORS.get(measure, COLOR), shift, LABELS.get(measure))
        axes.set_title(title, color=INK, fontsize=8, loc="left")
        axes.set_ylabel(unit, color=GRAY, fontsize=6.5)
        axes.set_xticks(range(len(layers)), map(name, layers), rotation=45, ha="right", rotation_mode="anchor")
        axes.tick_params(labelsize=6.5, color="#9a9a9a")
        axes.spines[["top", "right"]].set_visible(False)
        if title == "color":
            axes.invert_yaxis()
        if len(measures) > 1:
            place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
            axes.legend(**place, ncols=2, fontsize=6.5, frameon=False, handletextpad=0, columnspacing=0.8)
    first = rows[rows["measure"] == panels[0][2][0]].iloc[0]
    if first["chance"] == first["chance"]:
        figure.axes[0].annotate(
            "chance", (0, first["chance"]), (1, -2), textcoords="offset points", va="top", fontsize=6.5, color=GRAY
        )
    figure.supxlabel(textwrap.fill(NOTE, 125), color=GRAY, fontsize=7.5, x=0.01, ha="left", linespacing=1.35)
    return figure


def _points(axes: Axes, own: pd.DataFrame, color: str, shift: float, label: str | None) -> None:
    x = [index + shift for index in range(len(own))]
    axes.fill_between(x, own["chance_low"], own["chance_high"], color=GRAY, alpha=0.18, linewidth=0)
    axes.plot(x, own["chance"], color=GRAY, linewidth=0.7)
    axes.vlines(x, own["low"], own["high"], color=color, linewidth=1)
    axes.plot(x, own["value"], color=color, linewidth=0.5, alpha=0.6)
    axes.plot(x, own["value"], "o", color=color, markersize=3.5, markeredgewidth=0, label=label)
