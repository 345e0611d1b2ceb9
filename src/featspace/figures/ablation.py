"""Figures 11 and 12: the method with each of its parts varied: distance and image."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from featspace.figures.source import Source
from featspace.figures.style import DPI, GRAY, INK, LINE, MARGIN, WIDTH, Box, axes_at, frame, write
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import ABLATION, read_table

SIDE, GAP, LABEL = 384, 20, 900
MOST = 5
"""Targets that are shown."""
TICKS = (0.125, 0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8, 16, 32)
GUIDANCE = {"guidance_weight", "clip_std"}
NAMES = {
    "guidance_weight": "weight w =",
    "clip_std": "clipping κ =",
    "recurrences": "recurrences",
    "emphasis_steps": "emphasis steps",
    "emphasis_recurrences": "recurrences there",
    "steps": "noise levels",
}


def draw(source: Source, part: str) -> Figure:
    """A row a setting: the images of a few targets, and of all the distance over that of the base."""
    table = read_table(source.table("ablation"), {**ABLATION, "changed": str}).query("part in ('base', @part)")
    if table["setting"].nunique() < 2:
        raise FeatspaceError(f"{source.tables}/ablation.csv: no setting of the {part}; name one in params.yaml")
    settings, ids = list(dict.fromkeys(table["setting"])), list(dict.fromkeys(table["id"]))[:MOST]
    top, row = DPI // 4, SIDE + GAP
    targets, images = table["id"].nunique(), len(table[table["setting"] == settings[0]])
    note = (
        "The paper’s method: the first row is the base, each other says what it changes. Right: the squared distance "
        f"to the target’s feature over that of the base, a dot an image ({images} of {targets} targets), a bar the "
        "median; left is nearer. Under each name the guided evaluations an image, 12,960 as published."
    )
    text = textwrap.fill(note, 125)
    height = top + len(settings) * row + DPI // 3 + (text.count("\n") + 1) * LINE
    figure = Figure(figsize=(WIDTH / DPI, height / DPI))
    for line, setting in enumerate(settings):
        own = table[table["setting"] == setting]
        y = top + line * row
        name = f"{_words(own['changed'].iloc[0], part)}\n{own['evaluations'].max()} evaluations"
        write(figure, LABEL - 40, y + SIDE / 2, name, ha="right", fontsize=6, linespacing=1.3)
        for place, id in enumerate(ids):
            image = read_image(source.data / "ablation" / setting / f"{id}-{own['sample'].min()}.png")
            frame(figure, Box(LABEL + place * (SIDE + GAP), y, SIDE), image)
            if line == 0:
                write(figure, LABEL + place * (SIDE + GAP) + SIDE / 2, top / 2, id, color=GRAY, fontsize=6.5)
    left = LABEL + len(ids) * (SIDE + GAP) + 60
    axes = axes_at(figure, left, top, WIDTH - left - 60, len(settings) * row)
    for line, setting in enumerate(settings):
        ratios = table.loc[table["setting"] == setting, "ratio"]
        axes.plot(ratios, [line + 0.5] * len(ratios), "o", color="#33658a", markersize=3, alpha=0.8, markeredgewidth=0)
        axes.vlines(ratios.median(), line + 0.25, line + 0.75, color="#b8500f", linewidth=1.4)
    axes.axvline(1, color=GRAY, linewidth=0.5, linestyle=":")
    axes.set(ylim=(len(settings), 0), yticks=[], xscale="log")
    axes.set_xlabel("distance / base’s", color=INK, fontsize=6.5)
    axes.set_xticks([tick for tick in TICKS if table["ratio"].min() <= tick <= table["ratio"].max()])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=6.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    bottom = height - (text.count("\n") + 1) * LINE
    write(figure, MARGIN, bottom, text, ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure


def _words(changed: str, part: str) -> str:
    """Each change on a line, in words; of what the base says, the part that is varied."""
    pairs = [change.rpartition(" ") for change in changed.split(", ")]
    own = [(name, value) for name, _, value in pairs if (name in GUIDANCE) == (part == "guidance")]
    return "\n".join(f"{NAMES.get(name, name)} {value}" for name, value in own)
