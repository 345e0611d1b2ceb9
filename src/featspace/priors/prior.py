"""The latent diffusion prior: a Stable-Diffusion-shaped pipeline folder as four functions."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from featspace.utils.errors import UsageError


class Prior:
    """Noise prediction, image decoding and encoding of a latent diffusion model, with one prompt.

    Latents are scaled as the UNet takes them: (N, C, h, w), roughly of unit variance. Images are in [−1, 1]. Both are
    float32 (or float64) outside; the networks compute in the precision of their weights.
    """

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL, prompt: torch.Tensor, scheduler):
        """`prompt` is the text encoder's last hidden state of the prompt, (1, L, D); `scheduler` any of diffusers'."""
        self.unet, self.vae, self.prompt = unet, vae, prompt
        self.prediction_type = scheduler.config.prediction_type
        betas = scheduler.betas.double()
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        """ᾱ of each training timestep, (T,) float64."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    @property
    def image_size(self) -> int:
        """Side of its images in pixels."""
        return self.latent_shape[-1] * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def check_resolution(self, resolution: int) -> None:
        """Raises UsageError if `resolution` is not the side of its images, which targets must have, too."""
        if resolution != self.image_size:
            made = f"the prior makes images of {self.image_size} pixels"
            raise UsageError(f"resolution is {resolution}, but {made}: set it to that, or name another prior")

    def with_vae(self, vae: AutoencoderKL | AutoencoderTiny) -> Prior:
        """This prior with another autoencoder of the same latents."""
        other = copy.copy(self)
        other.vae = vae
        return other

    def predict_noise(self, z: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        """ε_θ(z_t, t, c), from whatever the UNet was trained to predict (ε or v)."""
        prompt = self.prompt.to(self.unet.dtype).expand(len(z), -1, -1)
        out = self.unet(z.to(self.unet.dtype), t, prompt).sample.to(z.dtype)
        if self.prediction_type == "v_prediction":
            alpha = float(self.alphas_cumprod[t])
            return alpha**0.5 * out + (1 - alpha) ** 0.5 * z
        return out

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in about [−1, 1] of scaled latents."""
        return self.vae.decode((z / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.to(z.dtype)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents (posterior means) of images (N, 3, H, W) in [−1, 1]."""
        mean = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean.to(images.dtype)
        return mean * self.vae.config.scaling_factor
