"""Figure A2: many images of one feature, and what they share."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from featspace.figures.attributes import HEIGHT, NOTE, draw_attributes
from featspace.figures.samples import labels
from featspace.figures.source import Source
from featspace.figures.style import DPI, GAP, GRAY, LINE, MARGIN, STRIP, WIDTH, Box, frame, write
from featspace.utils.images import read_image
from featspace.utils.tables import AGREED, SIMILARITY, read_table

ACROSS = 6


def draw(source: Source) -> Figure:
    """The photograph and its images, six a line; below, what these share with it and with each other."""
    table = read_table(source.table("spread"), SIMILARITY).query("image == 'best'").sort_values("sample")
    id, encoder = table["id"].iloc[0], table["encoder"].iloc[0]
    cells = [(read_image(source.photo(id)), "target")]
    for row, label in zip(table.itertuples(), labels(table["cosine"]), strict=True):
        cells.append((read_image(source.data / "spread" / f"{id}-{row.sample}.png"), label))
    side = (WIDTH - 2 * MARGIN - (ACROSS - 1) * GAP) // ACROSS
    side -= side % 64
    lines = -(-len(cells) // ACROSS)
    pitch = STRIP + side
    panel = lines * pitch + DPI // 12
    note = (
        f"{len(table)} images of one feature, of “{id}”, encoder “{encoder}”, from different noise. Numbers: cosine "
        f"similarity of the image’s feature to the target’s. {NOTE}"
    )
    text = textwrap.fill(note, 125)
    height = panel + HEIGHT + (text.count("\n") + 1) * LINE + DPI // 12
    figure = Figure(figsize=(WIDTH / DPI, height / DPI))
    step = (WIDTH - 2 * MARGIN - side) // (ACROSS - 1)
    for index, (image, label) in enumerate(cells):
        box = Box(MARGIN + index % ACROSS * step, index // ACROSS * pitch + STRIP, side)
        write(figure, box.left + side / 2, box.top - STRIP / 2, label, color=GRAY if index == 0 else None)
        frame(figure, box, image)
    draw_attributes(figure, panel, read_table(source.table("agreement-summary"), AGREED), "spread")
    write(figure, MARGIN, panel + HEIGHT, text, ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure
