"""How much one image has of another's color, layout, edges and texture: pure functions of arrays.

Each measure looks at one attribute, as far as it can without the others: color does not look at where it is; layout,
edges and texture are of the lightness L* of CIELAB alone; edges are blind to the sign and the amount of contrast,
texture to place and direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.feature import local_binary_pattern

from featspace.utils.errors import FeatspaceError

Array = NDArray[np.floating]

CELLS = 8
"""A side of the grid of square cells whose means are an image's low-pass version."""


class Attributes(NamedTuple):
    """What the measures compare of an image."""

    cells: Array  # (CELLS, CELLS, 3) mean colors in CIELAB
    gradient: Array  # (H, H) magnitudes of the gradient of L*
    textures: Array  # (octaves, 10, 7) histograms


def attributes(image: Array) -> Attributes:
    """The attributes of a square RGB image (H, H, 3) in [0, 1], H a multiple of CELLS.

    Gradients are of the Gaussian's derivatives with σ = H/64 pixels (Canny 1986). Histograms are those of
    `texture_similarity`, of the image at H pixels, H/2, … as long as these are 64 or more. Raises FeatspaceError for an
    image of another shape.
    """
    side = len(image)
    if image.shape != (side, side, 3) or side % CELLS:
        found = "×".join(map(str, image.shape))
        raise FeatspaceError(f"an image of {found}: attributes are of square RGB images, a multiple of {CELLS} wide")
    lab = rgb2lab(image)
    lightness = lab[..., 0]
    return Attributes(
        cells=lab.reshape(CELLS, side // CELLS, CELLS, side // CELLS, 3).mean((1, 3)),
        gradient=gaussian_gradient_magnitude(lightness, side / 64, mode="nearest"),
        textures=np.stack([_pattern_histogram(octave) for octave in _octaves(lightness)]),
    )


def color_difference(a: Attributes, b: Attributes) -> float:
    """Difference of palettes: the earth mover's distance (Rubner et al. 2000) in CIEDE2000.

    The mean colors of one image's 64 cells are assigned to those of the other so that the mean of their differences
    ΔE₀₀ is least. 0 for the same colors, wherever they are; about 1 is just visible, 100 is black against white.
    """
    differences = deltaE_ciede2000(a.cells.reshape(-1, 1, 3), b.cells.reshape(1, -1, 3))
    return float(differences[linear_sum_assignment(differences)].mean())


def layout_similarity(a: Attributes, b: Attributes) -> float:
    """Pearson's correlation of the cells' mean lightnesses, in [−1, 1]; 0 if an image has no contrast."""
    return _correlation(a.cells[..., 0], b.cells[..., 0])


def edge_similarity(a: Attributes, b: Attributes) -> float:
    """Pearson's correlation of the gradients' magnitudes, of images of one size, in [−1, 1]; 0 if an image has none."""
    return _correlation(a.gradient, b.gradient)


def texture_similarity(a: Attributes, b: Attributes) -> float:
    """Intersection, in [0, 1], of the histograms of local binary pattern and local contrast (Ojala et al. 2002).

    Rotation-invariant uniform LBP of the 8 neighbors at 1 pixel, jointly with their standard deviation in octaves;
    averaged over the scales at which the images, of one size, are 64, 128, … H pixels large.
    """
    return float(np.minimum(a.textures, b.textures).sum((1, 2)).mean())


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm > 1e-6 * a.size else 0.0


def _octaves(image: Array) -> Iterator[Array]:
    """The image, and halved as long as it keeps 64 pixels."""
    yield image
    while len(image) >= 128 and len(image) % 2 == 0:
        image = image.reshape(len(image) // 2, 2, len(image) // 2, 2).mean((1, 3))
        yield image


def _pattern_histogram(lightness: Array) -> Array:
    """Shares (10, 7) of pixels by pattern, and by local contrast: below ½, 1, 2, 4, 8, 16 units of L*, and above."""
    levels = np.round(2.55 * lightness).astype(np.uint8)  # patterns of exact numbers would be of rounding
    pattern = local_binary_pattern(levels, P=8, R=1, method="uniform").astype(int)
    variance = np.nan_to_num(local_binary_pattern(levels, P=8, R=1, method="var"))
    contrast = np.digitize(np.sqrt(variance) / 2.55, [0.5, 1, 2, 4, 8, 16])
    histogram = np.zeros((10, 7))
    np.add.at(histogram, (pattern, contrast), 1 / pattern.size)
    return histogram
