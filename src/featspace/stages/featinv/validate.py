"""What a training is measured by as it goes: held-out photographs, their noise error and their reconstructions."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from featspace.config.featinv import FeatInvParams
from featspace.data.photographs import Photographs
from featspace.encoders.encoder import Encoder
from featspace.metrics.similarity import cosine_similarity, map_cosine
from featspace.pipelines.featinv import FeatInvPipeline
from featspace.utils.files import atomic_file
from featspace.utils.images import square, to_pil, to_tensor

RECONSTRUCTED, PREDICTED = 16, 64
"""Photographs that are decoded, and such whose noise is predicted."""


class Validation:
    """The same held-out photographs, noise and timesteps each time."""

    def __init__(
        self,
        photographs: Photographs,
        encoder: Encoder,
        pipeline: FeatInvPipeline,
        settings: FeatInvParams,
        resolution: int,
    ):
        self.encoder, self.pipeline, self.settings = encoder, pipeline, settings
        chosen = photographs.choose(1)
        chosen = chosen[:: max(1, len(chosen) // PREDICTED)][:PREDICTED]
        self.images = torch.stack([to_tensor(square(photographs[i], resolution)) for i in chosen])

    @torch.no_grad()
    def measure(self, grid: Path) -> dict[str, float]:
        """Mean squared error of the noise, and mean cosine similarities of original and reconstruction.

        Of maps (each position's channels compared, then averaged), of pooled features, and of maps with the
        reconstruction of another photograph (`shuffled_cosine`), without which the others mean nothing. Writes `grid`:
        the photographs, and their reconstructions below each row of them.
        """
        controlnet = self.pipeline.controlnet.eval()
        device = self.pipeline.device
        shown = self.images[:RECONSTRUCTED]
        seeds = [torch.Generator().manual_seed(i) for i in range(len(shown))]
        options = self.settings.prompt, self.settings.guidance_scale, self.settings.steps
        decoded = self.pipeline(self._maps(shown), *options, seeds, output_type="pt").float().cpu()
        maps = [self._maps(images) for images in (shown, decoded)]
        pooled = [self.encoder.pooled(images.to(device)) for images in (shown, decoded)]
        measured = {
            "held_out_error": self._noise_error(),
            "map_cosine": float(map_cosine(*maps).mean()),
            "pooled_cosine": float(cosine_similarity(*pooled).mean()),
            "shuffled_cosine": float(map_cosine(maps[0], maps[1].roll(1, 0)).mean()),
        }
        controlnet.train()
        with atomic_file(grid) as aside:
            tiles(shown, decoded).save(aside, format="PNG")
        return measured

    def _maps(self, images: Tensor) -> Tensor:
        return self.encoder.spatial(images.to(self.pipeline.device))

    def _noise_error(self) -> float:
        prior, generator, errors = self.pipeline.prior(self.settings.prompt), torch.Generator().manual_seed(0), []
        for images in self.images.split(RECONSTRUCTED):
            clean = prior.encode(images.to(self.pipeline.device) * 2 - 1).float()
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            t = torch.randint(len(prior.alpha_bars), (len(clean),), generator=generator)
            keep = prior.alpha_bars[t].float().view(-1, 1, 1, 1).to(clean)
            z = keep.sqrt() * clean + (1 - keep).sqrt() * noise
            out = self.pipeline.predict(z, t.to(z.device), self._maps(images), prior.prompt).float()
            out = keep.sqrt() * out + (1 - keep).sqrt() * z if prior.prediction_type == "v_prediction" else out
            errors.append((out - noise).square().mean((1, 2, 3)))
        return float(torch.cat(errors).mean())


def tiles(originals: Tensor, decoded: Tensor, across: int = 8) -> Image.Image:
    """Images (N, 3, S, S) in [0, 1] in rows of `across`, each row of originals above that of their reconstructions."""
    side = originals.shape[-1]
    rows = [row for pair in zip(originals.split(across), decoded.split(across), strict=True) for row in pair]
    sheet = Image.new("RGB", (side * min(across, len(originals)), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(to_pil(image), (x * side, y * side))
    return sheet
