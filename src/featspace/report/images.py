"""Images inside the page, as data URIs, lighter where the page would grow too large."""

from __future__ import annotations

import base64
import hashlib
import io
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from featspace.utils.images import read_image

WIDEST_WEBP = 16383
"""Pixels a side that WebP can hold."""


class Level(NamedTuple):
    """How light the images are: sides in pixels, at most, and qualities of WebP, 1 to 100."""

    width: int  # of a figure
    figure: int  # its quality
    side: int  # of an image of the viewer
    frame: int  # of an estimate, a frame of a strip; 0: estimates are left out
    quality: int | None  # of the viewer's images; None: without loss, but for the estimates


LEVELS = (
    Level(1600, 85, 64, 64, None),
    Level(1600, 85, 512, 128, 85),
    Level(1600, 80, 384, 128, 80),
    Level(1600, 80, 256, 96, 75),
    Level(1600, 75, 192, 64, 70),
    Level(1200, 70, 128, 48, 60),
    Level(1000, 60, 96, 32, 50),
    Level(1000, 60, 64, 32, 50),
    Level(1000, 60, 64, 0, 50),
)
"""The first at which the page is small enough is taken; the first of all is of images of at most 64 pixels alone."""
ESTIMATE_QUALITY = 85
"""Of the estimates where the other images are without loss."""


class Picture(NamedTuple):
    uri: str
    width: int
    height: int


PROBED = 100
"""Of more images so many tell whether all will fit."""


class Gallery:
    """Images of the viewer, each once however often it is shown: their files, which are read as they are needed."""

    def __init__(self) -> None:
        self.images: list[tuple[Path, bool]] = []  # and whether it is a strip
        self.sizes: list[tuple[int, int]] = []  # as saved
        self._known: dict[tuple[str, bool], int] = {}

    def add(self, path: Path, strip: bool = False) -> int:
        """An image's index. Raises FeatspaceError as `read_image` does."""
        image = read_image(path)
        key = hashlib.sha256(image.tobytes()).hexdigest(), strip
        if key not in self._known:
            self._known[key] = len(self.images)
            self.sizes.append(image.size)
            self.images.append((path, strip))
        return self._known[key]

    def embed(self, level: Level, budget: int, used: Collection[int] | None = None) -> list[str] | None:
        """A data URI of each image, by index; None if they have more than `budget` characters, or too large a side.

        `used`: of these alone, by default of all; in place of the others there are empty texts.
        """
        used = sorted(range(len(self.images)) if used is None else used)
        if level.quality is None and any(max(self.sizes[i]) > level.side for i in used if not self.images[i][1]):
            return None
        if len(used) > PROBED:
            probed = sum(len(self._uri(index, level)) for index in random.Random(0).sample(used, PROBED))
            if probed / PROBED * len(used) > 1.2 * budget:
                return None
        uris = [""] * len(self.images)
        for index in used:
            uris[index] = self._uri(index, level)
            if (budget := budget - len(uris[index])) < 0:
                return None
        return uris

    def _uri(self, index: int, level: Level) -> str:
        path, strip = self.images[index]
        image, longest = read_image(path), level.frame if strip else level.side
        quality = level.quality or (ESTIMATE_QUALITY if strip else None)
        return data_uri(_shrunk(image, longest / min(image.size)), quality)


def figure_picture(path: Path, level: Level) -> Picture:
    """A figure, scaled down to the level's width, as WebP, or as PNG where that is smaller."""
    image = read_image(path)
    small = _shrunk(image, level.width / image.width)
    return Picture(min(data_uri(small, level.figure), data_uri(small, None, "PNG"), key=len), *small.size)


def data_uri(image: Image.Image, quality: int | None, kind: str = "WEBP") -> str:
    """An image as a data URI; quality None: without loss."""
    if max(image.size) > WIDEST_WEBP:
        kind = "PNG"
    buffer = io.BytesIO()
    options = {} if kind == "PNG" else {"lossless": True} if quality is None else {"quality": quality, "method": 4}
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _shrunk(image: Image.Image, scale: float) -> Image.Image:
    """Scaled down by a factor below one, else as it is."""
    if scale >= 1:
        return image
    size: Sequence[int] = [max(1, round(side * scale)) for side in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
