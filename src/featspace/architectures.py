"""Published architectures of diffusion priors, without weights: to plan a run, and to measure speed where none are.

Values are those of the repositories' own configuration files (CompVis/stable-diffusion-v1-4, madebyollin/taesd).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

from featspace.prior import Prior

STABLE_DIFFUSION_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
STABLE_DIFFUSION_VAE = {
    "sample_size": 512,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.18215,
}
SMALL_UNET = STABLE_DIFFUSION_UNET | {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": [32, 64, 64, 64],
    "cross_attention_dim": 64,
}
SMALL_VAE = STABLE_DIFFUSION_VAE | {"sample_size": 128, "layers_per_block": 1, "block_out_channels": [32, 32, 64, 64]}
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's noise schedule, for diffusers' DDIMScheduler."""
PRIORS = {
    "stable-diffusion-v1-4": (STABLE_DIFFUSION_UNET, STABLE_DIFFUSION_VAE),
    "small": (SMALL_UNET, SMALL_VAE),
}
"""UNet and VAE; `small` has Stable Diffusion's blocks in a size for CPUs, 128 pixels."""


def blank_prior(name: str, dtype: torch.dtype = torch.float32, tiny_vae: bool = False) -> Prior:
    """A prior of PRIORS with random weights in `dtype`, on the default device (`torch.device("meta")` as well).

    `tiny_vae` puts TAESD in the VAE's place.
    """
    unet, vae = PRIORS[name]
    prompt = torch.randn(1, 77, unet["cross_attention_dim"])
    autoencoder = AutoencoderTiny() if tiny_vae else AutoencoderKL(**vae)
    prior = Prior(UNet2DConditionModel(**unet), autoencoder, prompt, DDIMScheduler(**SCHEDULE))
    for network in (prior.unet, prior.vae):
        torch.nn.Module.to(network, dtype).requires_grad_(False).eval()  # diffusers' own warns of each call
    return prior
