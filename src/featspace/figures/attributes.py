"""A panel an attribute: what decoded images share with their target, with each other, and by chance."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from featspace.figures.style import DPI, GRAY, INK, NAME, WIDTH, axes_at

PANELS = {
    "color": ("color", "difference ΔE₀₀"),
    "layout": ("layout", "correlation"),
    "edges": ("edges", "correlation"),
    "texture": ("texture", "overlap"),
    "judge_cosine": ("identity", "judge’s cosine"),
}
"""By measure: title and axis."""
AGAINST = {
    "target": ("with the target", "#b8500f", "o"),
    "samples": ("with each other", "#33658a", "s"),
    "chance": ("with other photographs", GRAY, "D"),
}
NOTE = (
    "Below, what these images share, medians, with 95 % intervals bootstrapped over photographs where there are "
    "several; up is more alike. What samples share with the target more than with other photographs is in the feature."
)


HEIGHT = 850
"""Dots that the panels and their legend take."""


def draw_attributes(figure: Figure, top: float, summary: pd.DataFrame, images: str) -> None:
    """Draws the rows of the table `summary` (tables.AGREED) of a folder of images, `top` dots below the page's top."""
    own = summary[summary["images"] == images].set_index(["measure", "against"])
    step = (WIDTH - NAME) / len(PANELS)
    for place, (measure, (title, unit)) in enumerate(PANELS.items()):
        axes = axes_at(figure, NAME + 150 + place * step, top + 90, step - 260, HEIGHT - 240)
        for x, (against, (label, color, marker)) in enumerate(AGAINST.items()):
            if (measure, against) in own.index:
                row = own.loc[(measure, against)]
                axes.vlines(x, row["low"], row["high"], color=color, linewidth=1)
                axes.plot(x, row["value"], marker, color=color, markersize=4, label=label)
        axes.set_title(title, color=INK, fontsize=7.5, loc="left")
        axes.set_ylabel(unit, color=GRAY, fontsize=6.5, labelpad=1)
        axes.set(xticks=[], xlim=(-0.6, len(AGAINST) - 0.4))
        axes.margins(y=0.15)
        axes.tick_params(labelsize=6.5, pad=1)
        axes.spines[["top", "right"]].set_visible(False)
        if measure == "color":
            axes.invert_yaxis()
        if place == 0:
            anchor = 0.5, 1 - (top + HEIGHT - 150) / (figure.get_figheight() * DPI)
            names = axes.get_legend_handles_labels()
            figure.legend(*names, loc="upper center", bbox_to_anchor=anchor, ncols=3, fontsize=6.5, frameon=False)
