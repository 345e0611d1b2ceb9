"""The one style of all figures: page, type, colors, crisp images, and files with stable bytes.

Positions and sizes are in dots of the printed page, 600 to the inch, from its top left corner, so that each
pixel of a 64×64 image can be given a whole number of dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file

DPI = 600
WIDTH = 7 * DPI  # the text width of a two-column page
MARGIN = 6  # keeps the outermost frames whole
INK, GRAY, PALE = "#1a1a1a", "#6b6b6b", "#f3f2ef"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7.5,
    "text.color": INK,
    "text.parse_math": False,  # a caption may hold a dollar sign
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.35,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,  # TrueType: text stays text
}
GAP = 36  # between the images of a target
STRIP = 128  # the line above a decoded image, for its label
LINE = 86  # the distance of two lines of the note
NAME = 96  # the column left of a target, for its name


class Box(NamedTuple):
    left: int
    top: int
    side: int


class Row(NamedTuple):
    """One target: its name, and its decoded images with a label each."""

    name: str
    samples: list[tuple[Image.Image, str]]


def style() -> AbstractContextManager:
    """The settings to draw and to save in; they do not depend on a user's matplotlibrc."""
    return matplotlib.style.context(["default", STYLE])


def write(figure: Figure, x: float, y: float, text: str, **options) -> None:
    """Writes text at (x, y), centered unless `options` (of matplotlib's Text) say otherwise."""
    options = {"ha": "center", "va": "center"} | options
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, text, **options)


def frame(figure: Figure, box: Box, image: Image.Image | None = None, **options) -> None:
    """Draws a thinly framed square, and in it an image: pixel by pixel if small, antialiased if large."""
    width, height = figure.get_size_inches() * DPI
    position = (box.left / width, 1 - (box.top + box.side) / height, box.side / width, box.side / height)
    axes = figure.add_axes(position, xticks=[], yticks=[], **options)
    if image is not None:
        axes.imshow(image, interpolation="auto", aspect="auto")
        axes.set(xticks=[], yticks=[])


def axes_at(figure: Figure, left: float, top: float, wide: float, high: float) -> Axes:
    """Axes for a plot in the rectangle that is so many dots wide and high."""
    width, height = figure.get_size_inches() * DPI
    return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))


def sample_grid(rows: Sequence[Row], head: str, note: str) -> tuple[Figure, list[Box]]:
    """Draws decoded images with their labels, two targets side by side (three of one image each), and a note below.

    Returns the figure and for each row the square to its left, which the caller fills with the target. It is
    larger than the decoded images by their label's line. Raises FeatspaceError for more images than fit.
    """
    count = max(len(row.samples) for row in rows)
    across = 3 if count == 1 else 2  # 512 dots then: a pixel of Stable Diffusion's images each
    side = ((WIDTH // across - NAME - STRIP - DPI // 8) - count * GAP) // (count + 1)
    side -= side % 64  # whole dots for the pixels of 64×64 images
    if side < 64:
        raise FeatspaceError(f"{count} decoded images of a target do not fit a page's width; draw fewer")
    large = side + STRIP
    block = NAME + large + count * (GAP + side) + MARGIN
    top, pitch = DPI // 5, large + DPI // 7
    bottom = top + -(-len(rows) // across) * pitch
    height = bottom + (note.count("\n") + 1) * LINE + GAP
    eighths = -(-height * 8 // DPI)  # of an inch: exact as floats, so that no dot is lost by rounding
    figure = Figure(figsize=(WIDTH / DPI, eighths / 8))
    boxes = []
    for index, row in enumerate(rows):
        box = Box(index % across * (WIDTH - block) // (across - 1) + NAME, top + index // across * pitch, large)
        boxes.append(box)
        write(figure, box.left - NAME / 2, box.top + large / 2, row.name, rotation=90, color=GRAY)
        if index < across:
            write(figure, box.left + large / 2, top / 2, head, color=GRAY)
            middle = box.left + large + (GAP + count * (GAP + side)) / 2
            write(figure, middle, top / 2, "decoded from its feature" if count > 1 else "decoded", color=GRAY)
        for sample, (image, label) in enumerate(row.samples):
            left = box.left + large + GAP + sample * (side + GAP)
            frame(figure, Box(left, box.top + STRIP, side), image)
            write(figure, left + side / 2, box.top + 0.55 * STRIP, label)
    write(figure, NAME, bottom, note, ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure, boxes


def matrix(
    rows: Sequence[Row], heads: Sequence[str] = (), note: str = "", across: int = 12, apart: float = 0
) -> Figure:
    """Draws rows of equally many images over the width of the page: heads above the columns, names left of the rows.

    The first column stands `apart` by so many gaps more. More than `across` columns go on in further bands below. A row
    whose labels are all empty takes no room for them.
    """
    count = len(rows[0].samples)
    bands = -(-count // across)
    columns = -(-count // bands)
    left = NAME if any(row.name for row in rows) else MARGIN
    side = (WIDTH - left - MARGIN - (columns - 1) * GAP) // columns
    side -= side % 64  # whole dots for the pixels of 64×64 images
    gap = (WIDTH - left - MARGIN - columns * side) / max(1, columns - 1 + apart)
    strips = [STRIP if any(label for _, label in row.samples) else 0 for row in rows]
    top = DPI // 5 + max(head.count("\n") for head in heads) * LINE if heads else MARGIN
    pitch = top + sum(strips) + len(rows) * (side + GAP)
    bottom = bands * pitch
    height = bottom + (note.count("\n") + 1) * LINE + GAP if note else bottom
    figure = Figure(figsize=(WIDTH / DPI, -(-height * 8 // DPI) / 8))
    lefts = [round(left + index * (side + gap) + min(index, 1) * apart * gap) for index in range(columns)]
    for band in range(bands):
        shown = slice(band * columns, (band + 1) * columns)
        for x, head in zip(lefts, heads[shown], strict=False):  # the last band may have fewer
            write(figure, x + side / 2, band * pitch + top / 2, head, color=GRAY, linespacing=1.35)
        y = band * pitch + top
        for row, strip in zip(rows, strips, strict=True):
            write(figure, left / 2, y + strip + side / 2, row.name, rotation=90, color=GRAY)
            for x, (image, label) in zip(lefts, row.samples[shown], strict=False):
                write(figure, x + side / 2, y + 0.55 * strip, label)
                frame(figure, Box(x, y + strip, side), image)
            y += strip + side + GAP
    write(figure, left, bottom, note, ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure


def save(figure: Figure, stem: Path, suffixes: Sequence[str] = (".png", ".pdf"), dpi: int | None = None) -> None:
    """Writes <stem>.png and <stem>.pdf, without dates and versions: the same figure gives the same bytes.

    `dpi`: dots an inch of the PNG, by default DPI.
    """
    unwanted = {".png": ["Software"], ".pdf": ["Creator", "Producer", "CreationDate"]}
    for suffix in suffixes:
        keys = unwanted[suffix]
        with atomic_file(Path(f"{stem}{suffix}")) as path:
            figure.savefig(path, format=suffix[1:], metadata=dict.fromkeys(keys), dpi=dpi or DPI)
