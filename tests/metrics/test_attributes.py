"""Attributes on constructed images: each measure sees a change of its own attribute, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb, rgb2lab

from featspace.metrics.attributes import (
    attributes,
    color_difference,
    edge_similarity,
    layout_similarity,
    texture_similarity,
)
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import square

MEASURES = (color_difference, layout_similarity, edge_similarity, texture_similarity)


def photograph(name, side=64):
    return np.asarray(square(Image.fromarray(getattr(skimage.data, name)()), side)) / 255


def measured(a, b):
    return [measure(attributes(a), attributes(b)) for measure in MEASURES]


def color(a, b):
    return measured(a, b)[0]


def layout(a, b):
    return measured(a, b)[1]


def edges(a, b):
    return measured(a, b)[2]


def texture(a, b):
    return measured(a, b)[3]


def flat(*rgb):
    return np.ones((64, 64, 3)) * rgb


def gray(image):
    """Of the same lightness everywhere."""
    return lab2rgb(rgb2lab(image) * [1, 0, 0])


def shuffled(image, count=4, seed=0):
    """count × count patches in random order."""
    side = len(image) // count
    patches = image.reshape(count, side, count, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    patches = np.random.default_rng(seed).permutation(patches)
    return patches.reshape(count, count, side, side, 3).swapaxes(1, 2).reshape(image.shape)


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_an_image_is_most_like_itself(name, side):
    image = photograph(name, side)
    assert measured(image, image) == pytest.approx([0, 1, 1, 1], abs=1e-9)
    for other in {"astronaut", "chelsea", "coffee"} - {name}:
        found = measured(image, photograph(other, side))
        assert found[0] > 8 and found[1] < 0.7 and found[2] < 0.4 and found[3] < 0.85


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_a_gray_version_has_another_color_and_all_the_rest(name):
    image = photograph(name)
    different, *others = measured(image, gray(image))
    assert different > 4 and others == pytest.approx([1, 1, 1], abs=0.01)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_shuffled_patches_have_color_and_texture_but_neither_layout_nor_edges(name):
    image = photograph(name)
    other = shuffled(image)
    assert color(image, other) == pytest.approx(0, abs=1e-9) and texture(image, other) > 0.85
    assert abs(layout(image, other)) < 0.5 and edges(image, other) < 0.3


def test_a_negative_has_the_edges_and_the_opposite_layout():
    lab = rgb2lab(gray(photograph("chelsea")))
    positive, negative = lab2rgb(lab), lab2rgb(lab * [-1, 1, 1] + [100, 0, 0])
    assert layout(positive, negative) == pytest.approx(-1, abs=1e-3)
    assert edges(positive, negative) == pytest.approx(1, abs=1e-3)


def test_blur_takes_edges_and_texture_and_leaves_color_and_layout():
    image = photograph("chelsea")
    blurred = gaussian_filter(image, (2, 2, 0), mode="nearest")
    assert color(image, blurred) < 2 and layout(image, blurred) > 0.98
    assert edges(image, blurred) < 0.8 and texture(image, blurred) < 0.6
    noisy = np.clip(image + 0.2 * np.random.default_rng(0).standard_normal(image.shape), 0, 1)
    assert texture(image, noisy) < 0.6 and layout(image, noisy) > 0.95


def test_color_is_the_published_difference_of_flat_images():
    """A pair of Sharma, Wu and Dalal 2005, table 1: (50, 2.5, 0) and (56, −27, −3) differ by ΔE₀₀ = 31.9030."""
    first, second = (flat(*lab2rgb(np.array([[lab]]))[0, 0]) for lab in ([50, 2.5, 0.0], [56.0, -27, -3]))
    assert color(first, second) == pytest.approx(31.9030, abs=1e-3)
    assert color(flat(0, 0, 0), flat(1, 1, 1)) == pytest.approx(100, abs=0.1)


def test_color_moves_each_cell_at_most_once():
    """Half black and half white, against a quarter and three quarters: one cell in four has to change."""
    half, quarter = flat(0, 0, 0), flat(0, 0, 0)
    half[32:] = quarter[:, 16:] = 1
    assert color(half, quarter) == pytest.approx(25, abs=0.1)


def test_edges_and_layout_of_a_flat_image_are_none():
    image = photograph("coffee")
    for other in (flat(0.5, 0.5, 0.5), flat(0, 0, 0)):
        assert layout(image, other) == edges(image, other) == 0
    assert edges(flat(0.2, 0.4, 0.6), flat(0.2, 0.4, 0.6)) == 0


def test_layout_is_of_the_means_of_the_cells():
    """Noise without a mean in each cell of 8 × 8 pixels does not change it."""
    image = np.repeat(np.repeat(np.random.default_rng(0).uniform(30, 70, (8, 8)), 8, 0), 8, 1)
    noise = np.tile([[20.0, -20.0], [-20.0, 20.0]], (32, 32))
    smooth, rough = (lab2rgb(np.stack([x, 0 * x, 0 * x], -1)) for x in (image, image + noise))
    assert layout(smooth, rough) == pytest.approx(1, abs=1e-6)
    assert texture(smooth, rough) < 0.1


def test_texture_is_blind_to_direction_and_not_to_contrast():
    image = photograph("chelsea")
    assert texture(image, np.rot90(image)) > 0.98
    lab = rgb2lab(image)
    weak = lab2rgb(lab * [0.25, 1, 1] + [40, 0, 0])
    assert layout(image, weak) > 0.99 and texture(image, weak) < 0.6


def test_texture_looks_at_all_octaves():
    """Only the finest of three octaves is changed: what the others share stays."""
    image = np.kron(photograph("chelsea"), np.ones((4, 4, 1)))
    checks = np.tile(np.array([[0.04, -0.04], [-0.04, 0.04]])[..., None], (128, 128, 1))
    changed = np.clip(image, 0.05, 0.95) + checks
    assert 0.55 < texture(image, changed) < 0.85
    assert texture(image[::4, ::4], np.clip(image, 0.05, 0.95)[::4, ::4]) > 0.95


def test_images_of_other_shapes_are_refused():
    image = photograph("coffee")
    for other in (image[:32], image[..., :1], image[..., 0], image[:20, :20]):
        with pytest.raises(FeatspaceError, match="attributes are of square RGB images, a multiple of 8 wide"):
            attributes(other)
