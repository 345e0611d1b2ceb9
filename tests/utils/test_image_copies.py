"""Copies of photographs that differ a little."""

from __future__ import annotations

import numpy as np
from PIL import Image

from featspace.utils.images import jpeg_copy, shifted


def test_shift_and_jpeg_copies():
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    moved = np.asarray(shifted(Image.fromarray(pixels)))
    assert (moved[:, 1:] == pixels[:, :-1]).all() and (moved[:, 0] == pixels[:, 0]).all()
    gray = Image.new("RGB", (16, 16), (128, 128, 128))
    assert np.array_equal(jpeg_copy(gray, 50), gray)
