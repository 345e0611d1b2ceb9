"""The distance that methods bring down, of images as a file will hold them."""

from __future__ import annotations

from collections.abc import Callable

import torch


class FeatureDistance:
    """ℓ(x) = ‖f(x) − f*‖² of images in [−1, 1] that are clamped and rounded to 8 bits first, as a saved file is.

    The rounding passes gradients straight through. `targets` is f*, (N, D), of each image.
    """

    def __init__(self, encoder: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor):
        self.encoder, self.targets = encoder, targets

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (self.encode(images) - self.targets).square().sum(1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """f(x), (N, D) float32."""
        return self.encoder(as_saved(images)).float()


def as_saved(images: torch.Tensor) -> torch.Tensor:
    """Images in [−1, 1] to [0, 1] on the 256 levels of an 8-bit file, with a straight-through gradient."""
    unit = (images.float() / 2 + 0.5).clamp(0, 1)
    return unit + ((unit * 255).round() / 255 - unit).detach()
