"""What methods look at: images as a file will hold them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def encode_as_saved(encoder: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f(x), (N, D) float32, of images in [−1, 1], by an encoder of images in [0, 1], as from a saved file.

    Images are clamped and rounded to 8 bits first; gradients pass straight through the rounding.
    """
    return lambda images: encoder(as_saved(images)).float()


def as_saved(images: Tensor) -> Tensor:
    """Images in [−1, 1] to [0, 1] on the 256 levels of an 8-bit file, with a straight-through gradient."""
    unit = (images.float() / 2 + 0.5).clamp(0, 1)
    return unit + ((unit * 255).round() / 255 - unit).detach()
