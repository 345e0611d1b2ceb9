"""Figures 4 and 6: decoded images beside the photographs that are nearest to the target in feature space."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from featspace.figures.attributes import HEIGHT, NOTE, draw_attributes
from featspace.figures.samples import first_of, labels, read_rows
from featspace.figures.source import Source
from featspace.figures.style import DPI, GRAY, LINE, NAME, PALE, WIDTH, Box, frame, write
from featspace.utils.images import read_image
from featspace.utils.tables import AGREED, NEIGHBORS, read_table

SIDE, GAP, APART = 256, 36, 90
STRIP, ROW = 96, 96 + 256 + 40
MOST = 2
"""Images of a target that are shown."""


def draw(source: Source, encoder: str) -> Figure:
    """Two targets a line: the photograph, images decoded from its feature, the three most similar other photographs."""
    photos, rows, best = read_rows(
        "photo", source.targets, source.decoded(encoder), source.table(f"similarity-{encoder}")
    )
    near = read_table(source.table("neighbors"), NEIGHBORS).query("encoder == @encoder")
    near = near.assign(label=labels(near["cosine"])).set_index("id")
    top, lines = DPI // 5, -(-len(photos) // 2)
    panel = top + lines * ROW + DPI // 12
    note = (
        "Each line: a photograph, images decoded from its feature, and the other photographs whose features are most "
        "similar to it: held-out ones, of which the class is written, as they may not be shown, and other targets. "
        f"Numbers: cosine similarity to the target’s feature, encoder “{encoder}”. {NOTE} "
        f"{first_of(best['id'].nunique())}"
    )
    text = textwrap.fill(note, 120)
    height = panel + HEIGHT + (text.count("\n") + 1) * LINE + DPI // 12
    figure = Figure(figsize=(WIDTH / DPI, height / DPI))
    for index, (photo, row) in enumerate(zip(photos, rows, strict=True)):
        samples = row.samples[:MOST]
        cells = [(read_image(source.photo(photo.id)), ""), *samples]
        for other in near.loc[[photo.id]].itertuples():
            shown = read_image(source.photo(other.name)) if other.kind == "target" else other.name.replace("_", "\n")
            cells.append((shown, other.label))
        block = NAME + len(cells) * SIDE + (len(cells) - 1) * GAP + 2 * APART
        x, y = index % 2 * (WIDTH - block) + NAME, top + index // 2 * ROW
        write(figure, x - NAME / 2, y + STRIP + SIDE / 2, photo.id, rotation=90, color=GRAY, fontsize=6.5)
        for place, (cell, label) in enumerate(cells):
            groups = (place > 0) + (place > len(samples))
            box = Box(x + place * (SIDE + GAP) + groups * (APART - GAP), y + STRIP, SIDE)
            write(figure, box.left + SIDE / 2, y + STRIP / 2, label, fontsize=6.5)
            if isinstance(cell, str):
                frame(figure, box, facecolor=PALE)
                write(figure, box.left + SIDE / 2, box.top + SIDE / 2, cell, fontsize=5.5, style="italic", color=GRAY)
            else:
                frame(figure, box, cell)
            if index < 2 and place in (0, 1, len(samples) + 1):
                heads = {0: ("target", 1), 1: ("decoded", len(samples))}
                head, across = heads.get(place, ("most similar photographs", 3))
                write(figure, box.left + (across * (SIDE + GAP) - GAP) / 2, top / 2, head, color=GRAY, fontsize=7)
    draw_attributes(figure, panel, read_table(source.table("agreement-summary"), AGREED), encoder)
    write(figure, NAME, panel + HEIGHT, text, ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure
