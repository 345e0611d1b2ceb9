"""The overview: photographs above what every encoder's feature of them decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from featspace.data.targets import Target
from featspace.figures.samples import first_of, read_rows
from featspace.figures.style import Row, matrix
from featspace.utils.errors import UsageError
from featspace.utils.images import read_image

NOTE = (
    "Each row shows what one encoder’s features decode to: of its images of a target, the one nearest to the feature.\n"
    "Numbers: cosine similarity of the saved image’s feature to the target’s."
)


ACROSS = 8
"""Photographs side by side, so that their names fit."""


def draw(targets: Path, decoded: Sequence[Path], tables: Sequence[Path]) -> Figure:
    """A column a photograph, the first of them, and below it a row an encoder.

    Raises UsageError if there are not as many tables as folders of decoded images.
    """
    if len(decoded) != len(tables):
        raise UsageError(f"{len(decoded)} folders of decoded images, {len(tables)} tables: give one of each an encoder")
    photos: list[Target] = []
    rows = []
    for folder, table in zip(decoded, tables, strict=True):
        photos, found, best = read_rows("photo", targets, folder, table)
        nearest = []
        for row in found:
            distances = best[best["id"] == row.name].sort_values("sample")["distance"]
            nearest.append(row.samples[int(distances.argmin())])
        rows.append(Row(best["encoder"].iloc[0], nearest))
    shown = Row("target", [(read_image(Path(targets) / f"{photo.id}.png"), "") for photo in photos])
    note = "\n".join(filter(None, [NOTE, first_of(best["id"].nunique())]))
    return matrix([shown, *rows], [photo.id for photo in photos], note, ACROSS)
