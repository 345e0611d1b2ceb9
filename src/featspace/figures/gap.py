"""Figure 9: the gap between CLIP's features of captions and of images."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from featspace.data.targets import read_targets
from featspace.figures.mixtures import image
from featspace.figures.source import Source
from featspace.figures.style import DPI, GAP, GRAY, INK, LINE, MARGIN, PALE, WIDTH, Box, axes_at, frame, write
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import MIXED, read_table

PLOT = 560
COLORS = {"cosine_first": ("caption", "#5b4a9c", "s"), "cosine_second": ("photograph", "#b8500f", "o")}


def draw(source: Source, encoder: str) -> Figure:
    """For each caption and photograph of the same thing: images decoded along the way; similarity of each to both."""
    targets = {target.id: target for target in read_targets(source.targets)}
    table = read_table(source.table(f"mixtures-{encoder}"), MIXED).query("kind == 'between'")
    pairs = [pair for pair in table.groupby(["first", "second"], sort=False) if targets[pair[0][0]].kind == "caption"]
    if not pairs:
        raise FeatspaceError(f"{source.tables}/mixtures-{encoder}.csv: no caption is mixed with a photograph; name one")
    count = pairs[0][1]["share"].nunique() + 2
    side = (WIDTH - 2 * MARGIN - (count - 1) * GAP) // count
    top, block = DPI // 5, side + PLOT + DPI // 2
    note = (
        f"Images decoded from features between a caption’s and a photograph’s of the same thing, encoder “{encoder}”; "
        "0 % is the caption’s own feature, 100 % the photograph’s. Below each: the cosine similarity of its feature to "
        "both. Dotted: that of the caption’s and the photograph’s features to each other, the gap."
    )
    text = textwrap.fill(note, 125)
    height = top + len(pairs) * block - DPI // 5 + (text.count("\n") + 1) * LINE
    figure = Figure(figsize=(WIDTH / DPI, height / DPI))
    for line, ((first, second), own) in enumerate(pairs):
        y, own = top + line * block, own.sort_values("share")
        boxes = [Box(MARGIN + index * (side + GAP), y, side) for index in range(count)]
        heads = ["caption", *(f"{share:.0%}" for share in own["share"]), "photograph"]
        for box, head in zip(boxes, heads, strict=True):
            write(figure, box.left + side / 2, y - DPI / 10, head, color=GRAY)
        frame(figure, boxes[0], facecolor=PALE)
        middle = boxes[0].left + side / 2, y + side / 2
        write(figure, *middle, textwrap.fill(f"“{targets[first].text}”", 13), style="italic", linespacing=1.4)
        for box, row in zip(boxes[1:-1], own.itertuples(), strict=True):
            frame(figure, box, image(source, encoder, row.id, row.share))
        frame(figure, boxes[-1], read_image(source.photo(second)))
        left, right = boxes[1].left, boxes[-2].left + side
        axes = axes_at(figure, left, y + side + GAP, right - left, PLOT)
        x = [(box.left + side / 2 - left) / (right - left) for box in boxes[1:-1]]
        for column, (label, color, marker) in COLORS.items():
            axes.plot(x, own[column], color=color, marker=marker, markersize=3.5, linewidth=0.9, label=label)
        axes.axhline(own["cosine_ends"].iloc[0], color=GRAY, linewidth=0.6, linestyle=":")
        axes.set(xlim=(0, 1), xticks=[])
        axes.set_ylabel("cosine similarity", color=INK, fontsize=6.5)
        axes.tick_params(labelsize=6.5)
        axes.spines[["top", "right"]].set_visible(False)
        if line == 0:
            place = (1.02, 0.5)
            legend = axes.legend(loc="center left", bbox_to_anchor=place, fontsize=6.5, frameon=False, handlelength=1.5)
            legend.set_title("similarity to")
            legend.get_title().set_fontsize(6.5)
    write(figure, MARGIN, top + len(pairs) * block - DPI / 4, text, ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure
