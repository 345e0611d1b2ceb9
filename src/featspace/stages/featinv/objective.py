"""What a ControlNet learns: to predict the noise in a photograph's latents, given the photograph's feature map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from torch.nn import functional as F

from featspace.encoders.encoder import Encoder
from featspace.pipelines.featinv import controlled
from featspace.priors.prior import Prior


class Objective:
    """The loss of a ControlNet beside the frozen networks of a prior (arXiv 2505.21032, Section 3).

    `prior` has the prompt, `empty` the empty one. `resolution`: pixels a side of what the prior encodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        prior: Prior,
        empty: Tensor,
        scheduler: DDPMScheduler,
        resolution: int,
        min_snr: float | None,
    ):
        self.encoder, self.prior, self.empty, self.scheduler = encoder, prior, empty, scheduler
        self.resolution, self.min_snr = resolution, min_snr

    def loss(self, controlnet: nn.Module, crops: Tensor, noise: Tensor, t: Tensor, dropped: Tensor) -> Tensor:
        """The mean over a batch.

        Of crops (N, 3, S, S) in [0, 1], noise (N, C, h, w) and timesteps t (N,); `dropped`, (N,) bool: without
        conditioning and prompt.
        """
        unet: UNet2DConditionModel = self.prior.unet
        with torch.no_grad():
            conditioning = self.encoder.spatial(crops) * ~dropped.view(-1, 1, 1, 1)
            prompt = torch.where(dropped.view(-1, 1, 1), self.empty, self.prior.prompt)
            images = F.interpolate(crops, self.resolution, mode="bicubic", antialias=True).clamp(0, 1)
            clean = self.prior.encode((images * 2 - 1).contiguous(memory_format=torch.channels_last)).float()
        error = prediction_error(
            lambda z: controlled(unet, controlnet, z, t, conditioning, prompt), self.scheduler, clean, noise, t
        )
        weight = noise_weight(compute_snr(self.scheduler, t), self.min_snr, self.scheduler.config.prediction_type)
        return (error * weight).mean()


def prediction_error(
    predict: Callable[[Tensor], Tensor], scheduler: DDPMScheduler, clean: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """Mean squared error, (N,), of predict(z_t) against the noise, or the velocity if that is what is predicted.

    Of clean latents and noise (N, C, h, w), at timesteps (N,).
    """
    z = scheduler.add_noise(clean, noise, t).contiguous(memory_format=torch.channels_last)
    predicts_v = scheduler.config.prediction_type == "v_prediction"
    wanted = scheduler.get_velocity(clean, noise, t) if predicts_v else noise
    return (predict(z).float() - wanted).square().mean((1, 2, 3))


def noise_weight(snr: Tensor, min_snr: float | None, prediction_type: str) -> Tensor:
    """The weight of each sample's error, (N,), by its SNR ᾱ/(1 − ᾱ), (N,): min(SNR, min_snr)/SNR of the noise.

    Plain errors are largest where there is least noise, and where conditioning helps least (Hang et al. 2023). The
    error of the noise is that of the velocity times ᾱ.
    """
    if min_snr is None:
        return torch.ones_like(snr)
    return snr.clamp(max=min_snr) / (snr + 1 if prediction_type == "v_prediction" else snr)
