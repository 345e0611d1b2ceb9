"""What the benchmark measures of a saved image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from PIL import Image

from featspace.data.features import feature_and_class, feature_and_classes
from featspace.encoders.encoder import Encoder
from featspace.metrics.similarity import cosine_similarity, squared_distance
from featspace.priors.prior import Prior
from featspace.utils.images import jpeg_copy, to_tensor

NOISES, LEVELS = 4, (50, 200)
"""Naturalness is measured with this many noises at each of these timesteps: low and middle noise."""
JPEG = 75
"""Quality of the target's own JPEG copy, whose distance makes encoders comparable."""


@torch.no_grad()
def denoising_error(prior: Prior, images: torch.Tensor) -> torch.Tensor:
    """How much of the noise the prior misses on encoded images (N, 3, H, W) in [0, 1]: mean square of ε_θ − ε, (N,).

    The larger, the less natural to the prior. The noises are the same for every image.
    """
    generator = torch.Generator().manual_seed(0)
    latents, errors = prior.encode(images * 2 - 1), []
    for t in LEVELS:
        bar = float(prior.alphas_cumprod[t])
        for _ in range(NOISES):
            noise = torch.randn(prior.latent_shape, generator=generator).to(latents)[None]
            seen = prior.predict_noise(bar**0.5 * latents + (1 - bar) ** 0.5 * noise, t)
            errors.append((seen - noise).square().flatten(1).mean(1))
    return torch.stack(errors).mean(0)


class Truth(NamedTuple):
    """Of a target photograph: its feature f*, and what the judge sees in it."""

    feature: torch.Tensor
    jpeg_distance: float
    judged: torch.Tensor
    top5: list[int]


class Measure:
    """Measures images against photographs: by an encoder, by a judge that takes no part, by a prior.

    `usual` is the denoising error of photographs, on average.
    """

    def __init__(self, encoder: Encoder, judge: Encoder, prior: Prior, photographs: list[Image.Image]):
        self.encoder, self.judge, self.prior = encoder, judge, prior
        self.usual = sum(self._error(photograph) for photograph in photographs) / len(photographs)

    def truth(self, photograph: Image.Image) -> Truth:
        feature, _ = feature_and_class(self.encoder, photograph)
        copy, _ = feature_and_class(self.encoder, jpeg_copy(photograph, JPEG))
        return Truth(feature, squared_distance(copy, feature).item(), *feature_and_classes(self.judge, photograph, 5))

    def __call__(self, image: Image.Image, truth: Truth) -> dict[str, float | None]:
        """`cosine` and `distance`, squared, of its feature to f*; `ratio`, that over the JPEG copy's.

        Of the judge: `judge_cosine` to what it makes of the photograph, `judge_top1`, 1 if both are of one class, else
        0, and `judge_top5`, if the photograph's is among its five likeliest; None without a classifier. `error`: the
        `denoising_error`, over that of photographs.
        """
        feature, _ = feature_and_class(self.encoder, image)
        judged, classes = feature_and_classes(self.judge, image, 5)
        distance = squared_distance(feature, truth.feature).item()
        return {
            "cosine": cosine_similarity(feature, truth.feature).item(),
            "distance": distance,
            "ratio": distance / truth.jpeg_distance if truth.jpeg_distance else None,
            "judge_cosine": cosine_similarity(judged, truth.judged).item(),
            "judge_top1": int(classes[0] == truth.top5[0]) if classes else None,
            "judge_top5": int(truth.top5[0] in classes) if classes else None,
            "error": self._error(image) / self.usual,
        }

    def _error(self, image: Image.Image) -> float:
        return denoising_error(self.prior, _batch(image, self.encoder)).item()


def _batch(image: Image.Image, encoder: Encoder) -> torch.Tensor:
    return to_tensor(image)[None].to(next(encoder.parameters()).device)
