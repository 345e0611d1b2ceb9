"""What a training is measured by as it goes: held-out photographs, their noise error and their reconstructions."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torchvision.utils import make_grid

from featspace.config.featinv import FeatInvParams
from featspace.data.photographs import Photographs
from featspace.encoders.encoder import Encoder
from featspace.metrics.similarity import cosine_similarity, map_cosine
from featspace.pipelines.featinv import FeatInvPipeline
from featspace.stages.featinv.objective import prediction_error
from featspace.utils.files import atomic_file
from featspace.utils.images import save_png, square, to_tensor

RECONSTRUCTED, PREDICTED = 16, 64
"""Photographs that are decoded, and such whose noise is predicted."""


class Validation:
    """The same held-out photographs, noise and timesteps each time."""

    def __init__(
        self,
        photographs: Photographs,
        encoder: Encoder,
        pipeline: FeatInvPipeline,
        scheduler: DDPMScheduler,
        settings: FeatInvParams,
        resolution: int,
    ):
        self.encoder, self.pipeline, self.scheduler, self.settings = encoder, pipeline, scheduler, settings
        pipeline.set_progress_bar_config(disable=True)  # the training has one
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
        (images,) = self.pipeline(
            self._maps(shown),
            self.settings.prompt,
            num_inference_steps=self.settings.steps,
            guidance_scale=self.settings.guidance_scale,
            generator=seeds,
            output_type="pt",
            return_dict=False,
        )
        decoded = images.cpu()
        maps = [self._maps(images) for images in (shown, decoded)]
        pooled = [self.encoder.pooled(images.to(device)) for images in (shown, decoded)]
        measured = {
            "held_out_error": self._noise_error(),
            "map_cosine": float(map_cosine(*maps).mean()),
            "pooled_cosine": float(cosine_similarity(*pooled).mean()),
            "shuffled_cosine": float(map_cosine(maps[0], maps[1].roll(1, 0)).mean()),
        }
        controlnet.train()
        with atomic_file(grid) as partial:
            save_png(partial, tile(shown, decoded))
        return measured

    def _maps(self, images: Tensor) -> Tensor:
        return self.encoder.spatial(images.to(self.pipeline.device))

    def _noise_error(self) -> float:
        prior, generator, errors = self.pipeline.prior(self.settings.prompt), torch.Generator().manual_seed(0), []
        for images in self.images.split(RECONSTRUCTED):
            clean = prior.encode(images.to(self.pipeline.device) * 2 - 1).float()
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            t = torch.randint(len(self.scheduler), (len(clean),), generator=generator).to(clean.device)
            predict = functools.partial(
                self.pipeline.predict, t=t, conditioning=self._maps(images), context=prior.prompt
            )
            error = prediction_error(predict, self.scheduler, clean, noise, t)
            if self.scheduler.config.prediction_type == "v_prediction":  # of the noise: √ᾱ times as far off
                error = error * self.scheduler.alphas_cumprod[t]
            errors.append(error)
        return float(torch.cat(errors).mean())


def tile(originals: Tensor, decoded: Tensor, across: int = 8) -> Tensor:
    """Images (N, 3, S, S) in rows of `across`, each row of originals above that of their reconstructions."""
    return make_grid(torch.cat([originals, decoded], dim=2), across, padding=0, pad_value=1.0)
