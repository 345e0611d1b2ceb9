"""Figures 3, 5 and 7: photographs beside the images decoded from their features."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from featspace.figures.samples import explain, read_rows
from featspace.figures.style import frame, sample_grid
from featspace.utils.images import read_image


def draw(targets: Path, decoded: Path, table: Path, references: Path) -> Figure:
    """Each photograph large, beside its decoded images with their cosine similarity."""
    photos, rows, best = read_rows("photo", targets, decoded, table)
    figure, boxes = sample_grid(rows, "target", explain(best, references))
    for photo, box in zip(photos, boxes, strict=True):
        frame(figure, box, read_image(Path(targets) / f"{photo.id}.png"))
    return figure
