"""Partly whitened distances: the directions in which features of photographs differ most count less while guiding.

Features vary far more along a few directions than along all others: ten of 256 hold nine tenths of the variance of the
small CLIP's embeddings. ℓ is then a long, narrow valley: gradients follow those few directions, and a descent hardly
moves along the rest. With C the covariance of the features of photographs, the distance

    ℓ̃(x) = rᵀ (C + εI)^(−¼) r · ε^¼,   r = f(x) − f*,

lies between ℓ (power 0) and Mahalanobis's (power −1), and is zero where ℓ is. Any photographs do: these are crops of
those that scikit-image brings along, so that every network is whitened alike, and nothing has to be at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from featspace.images import read_image, to_tensor
from featspace.targets import locate_image

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "clock_motion", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "ihc", "moon", "motorcycle_left", "page", "retina", "rocket", "text"),
)
"""Of scikit-image's package."""
COUNT = 512
"""Crops of them."""
SMALLEST = 0.3
"""Side of the smallest crop, as a share of its photograph's shorter side."""
POWER = 0.25
"""Of 1/(C + εI): without whitening all three small networks come less near, with half CLIP and ResNet (`fast`)."""
FLOOR = 0.01
"""ε, as a share of the mean variance."""


class Whitening(NamedTuple):
    """The weights of ℓ̃: (k,), in (0, 1), along the orthonormal columns of `directions` (D, k); 1 across them."""

    directions: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Whitening:
        """From features (n, D); rows that are not finite are left out. Features that do not differ weigh all alike."""
        device, features = features.device, features.detach()[features.isfinite().all(1)].cpu().double()
        if len(features) < 2:
            return cls(*(torch.zeros(size, device=device) for size in ((features.shape[1], 0), (0,))))
        _, deviations, directions = torch.linalg.svd(features - features.mean(0), full_matrices=False)
        kept = deviations > 1e-6 * deviations[0]
        variances = deviations[kept].square() / (len(features) - 1)
        floor = FLOOR * variances.mean()
        weights = (floor / (variances + floor)) ** POWER
        return cls(directions[kept].T.float().to(device), weights.float().to(device))

    def distance(self, residuals: torch.Tensor) -> torch.Tensor:
        """ℓ̃ of residuals r (N, D), (N,)."""
        directions = self.directions.to(residuals.dtype)
        along = residuals @ directions
        rest = residuals - along @ directions.T
        return rest.square().sum(1) + (along.square() * self.weights.to(residuals.dtype)).sum(1)


def crops(size: int, count: int = COUNT) -> Iterator[torch.Tensor]:
    """Square crops of `PHOTOGRAPHS`, some mirrored, each (3, size, size) in [0, 1]; always the same."""
    photographs = [read_image(locate_image(f"skimage:{name}")) for name in PHOTOGRAPHS]
    random = np.random.default_rng(0)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = int(min(photograph.size) * random.uniform(SMALLEST, 1))
        left, top = (int(random.integers(0, length - side + 1)) for length in photograph.size)
        crop = photograph.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        mirrored = random.random() < 0.5
        yield to_tensor(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else crop)


@torch.no_grad()
def whitening_of(
    encoder: Callable[[torch.Tensor], torch.Tensor], size: int, batch: int = 8, device: torch.device | str = "cpu"
) -> Whitening:
    """The whitening of `encoder`, images (N, 3, H, W) in [0, 1] to (N, D), from crops of `size` pixels."""
    cut, features = crops(size), []
    while part := list(islice(cut, batch)):
        features.append(encoder(torch.stack(part).to(device)))
    return Whitening.of(torch.cat(features))
