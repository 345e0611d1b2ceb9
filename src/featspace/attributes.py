"""How much one image has of another's color, layout, edges and texture: pure functions of two images.

Each takes two square RGB images of the same size, (H, H, 3) float in [0, 1], H a multiple of 8, and looks at one
attribute in CIELAB, as far as it can without the others: color does not look at where it is; layout, edges and texture
are of the lightness L* alone; edges are blind to the sign and the amount of contrast, texture to place and direction.
Raises FeatspaceError for images of other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.feature import local_binary_pattern

from featspace.errors import FeatspaceError

Array = NDArray[np.floating]

CELLS = 8
"""A side of the grid of square cells whose means are an image's low-pass version."""


def color_difference(a: Array, b: Array) -> float:
    """Difference of palettes: the earth mover's distance (Rubner et al. 2000) in CIEDE2000.

    The mean colors of one image's 64 cells are assigned to those of the other so that the mean of their differences
    ΔE₀₀ is least. 0 for the same colors, wherever they are; about 1 is just visible, 100 is black against white.
    """
    a, b = _lab(a, b)
    a, b = _coarse(a).reshape(-1, 1, 3), _coarse(b).reshape(1, -1, 3)
    differences = deltaE_ciede2000(a, b)
    return float(differences[linear_sum_assignment(differences)].mean())


def layout_similarity(a: Array, b: Array) -> float:
    """Pearson's correlation of the mean lightnesses of the 8 × 8 cells, in [−1, 1]; 0 if an image has no contrast."""
    return _correlation(*(_coarse(image[..., 0]) for image in _lab(a, b)))


def edge_similarity(a: Array, b: Array) -> float:
    """Pearson's correlation of the gradient's magnitude, in [−1, 1]; 0 if an image has none.

    Derivatives of a Gaussian of σ = H/64 pixels (Canny 1986).
    """
    sigma = len(a) / 64
    magnitudes = (gaussian_gradient_magnitude(image[..., 0], sigma, mode="nearest") for image in _lab(a, b))
    return _correlation(*magnitudes)


def texture_similarity(a: Array, b: Array) -> float:
    """Intersection, in [0, 1], of the histograms of local binary pattern and local contrast (Ojala et al. 2002).

    Rotation-invariant uniform LBP of the 8 neighbors at 1 pixel, jointly with their standard deviation in octaves;
    averaged over the scales at which the image is 64, 128, … H pixels large.
    """
    octaves = [map(_pattern_histogram, _octaves(image[..., 0])) for image in _lab(a, b)]
    return float(np.mean([np.minimum(*pair).sum() for pair in zip(*octaves, strict=True)]))


def _lab(*images: Array) -> list[Array]:
    shapes = {image.shape for image in images}
    height, width = images[0].shape[:2]
    if len(shapes) > 1 or images[0].shape != (height, width, 3) or height != width or height % CELLS:
        found = " and ".join("×".join(map(str, image.shape)) for image in images)
        raise FeatspaceError(f"cannot compare images of {found}: both must be square RGB, a multiple of {CELLS} wide")
    return [rgb2lab(image) for image in images]


def _coarse(image: Array) -> Array:
    """The means of the cells of (H, H, …), as (CELLS, CELLS, …)."""
    side = len(image) // CELLS
    return image.reshape(CELLS, side, CELLS, side, *image.shape[2:]).mean((1, 3))


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
