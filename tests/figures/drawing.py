"""Figures of a few files, and what is seen in them."""

from __future__ import annotations

from functools import cache

from featspace.figures import captions, overview, photos
from featspace.figures.style import DPI, WIDTH, style

PHOTOS = ("astronaut", "coffee", "rocket")
CAPTIONS = {"sea": "a lighthouse by the sea at dusk, for $10 or $20, as an oil painting", "cat": "a tabby"}


def draw(name, files):
    """The figure; call it in `style`."""
    given = files / "targets", files / "decoded", files / "similarity.csv"
    if name == "overview":
        return overview.draw(given[0], [given[1]], [given[2]])
    return {"photos": photos, "captions": captions}[name].draw(*given, files / "references.csv")


FIGURES = ("photos", "captions", "overview")


@cache
def drawn(files, name):
    """The figure, its images as {(left, top, right, bottom) in dots: pixels}, its texts as {(x, y): text}."""
    with style():
        figure = draw(name, files)
    height = round(figure.get_figheight() * DPI)
    images = {}
    for axes in figure.axes:
        box = axes.get_window_extent()
        corners = (round(box.x0), round(height - box.y1), round(box.x1), round(height - box.y0))
        images[corners] = axes.images[0].get_array() if axes.images else None
    texts = {(text.get_position()[0] * WIDTH, (1 - text.get_position()[1]) * height): text for text in figure.texts}
    return figure, images, texts


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))
