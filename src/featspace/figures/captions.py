"""Figure 8: captions beside the images decoded from their text features."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.figure import Figure

from featspace.figures.samples import explain, read_rows
from featspace.figures.style import PALE, frame, sample_grid, write


def draw(targets: Path, decoded: Path, table: Path, references: Path) -> Figure:
    """Each caption in a square, beside its decoded images with their cosine similarity."""
    captions, rows, best = read_rows("caption", targets, decoded, table)
    figure, boxes = sample_grid(rows, "caption", explain(best, references))
    for caption, box in zip(captions, boxes, strict=True):
        frame(figure, box, facecolor=PALE)
        lines = textwrap.fill(f"“{caption.text}”", 16, max_lines=6, placeholder=" …")
        x, y = box.left + box.side / 2, box.top + box.side / 2
        write(figure, x, y, lines, fontsize=8, style="italic", linespacing=1.4)
    return figure
