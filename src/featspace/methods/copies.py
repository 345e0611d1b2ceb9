"""Random copies of images: a little smaller crops, mirrored half of the time, as differentiable functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 0.85
"""Side of the smallest crop, as a share of the image's."""


class RandomCopies:
    """Copies of images, each sample's drawn by a generator of its own, so that none depends on its batch."""

    def __init__(self, generators: Sequence[torch.Generator | None]):
        self.generators = generators

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Copies (n, 3, H, W) of images (n, 3, H, W) of the samples `rows` (n,): a square crop of a side uniform in
        [`SMALLEST`, 1] anywhere in the image, mirrored or not, brought back to H×W by bilinear interpolation."""
        chosen = [self.generators[row] for row in rows.tolist()]
        side, left, top, mirrored = (
            torch.stack([torch.rand(4, generator=g, device=g.device if g else "cpu").cpu() for g in chosen])
            .to(images)
            .unbind(1)
        )
        side = SMALLEST + (1 - SMALLEST) * side
        affine = images.new_zeros(len(images), 2, 3)
        affine[:, 0, 0] = torch.where(mirrored < 0.5, -side, side)
        affine[:, 1, 1] = side
        affine[:, 0, 2], affine[:, 1, 2] = (2 * left - 1) * (1 - side), (2 * top - 1) * (1 - side)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
