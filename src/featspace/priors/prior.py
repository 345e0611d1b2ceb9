"""The latent diffusion prior: a Stable-Diffusion-shaped pipeline folder as four functions."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from featspace.utils.errors import FeatspaceError, UsageError

PREDICTIONS = "epsilon", "v_prediction", "sample"
"""What a UNet may have been trained to predict, in diffusers' names."""


class Prior:
    """Noise prediction, image decoding and encoding of a latent diffusion model, with one prompt.

    Latents are scaled as the UNet takes them: (N, C, h, w), roughly of unit variance. Images are in [−1, 1]. Both are
    float32 (or float64) outside; the networks compute in the precision of their weights.
    """

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL, prompt: torch.Tensor, scheduler):
        """`prompt` is the text encoder's last hidden state of the prompt, (1, L, D); `scheduler` any of diffusers' that
        has betas.

        Raises FeatspaceError for a prior of another kind: of flows, of other inputs than latents and a text, of
        images that are not square, or whose schedule ends in noise alone.
        """
        self.unet, self.vae, self.prompt = unet, vae, prompt
        self.prediction_type = scheduler.config.get("prediction_type")
        if self.prediction_type not in PREDICTIONS or not hasattr(scheduler, "betas"):
            kind = f"{type(scheduler).__name__}, which predicts {self.prediction_type or 'a flow'}"
            raise FeatspaceError(f"its scheduler is {kind}; take a prior that predicts {' or '.join(PREDICTIONS)}")
        self.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
        """ᾱ of each training timestep, (T,) float64."""
        if not (self.alphas_cumprod > 0).all():
            raise FeatspaceError(
                "its schedule ends in noise alone (zero terminal SNR), from which no image can be told"
            )
        self._check_inputs()

    def _check_inputs(self) -> None:
        takes, latents = self.unet.config.in_channels, self.vae.config.latent_channels
        if takes != latents:
            raise FeatspaceError(f"its UNet takes {takes} channels, but latents have {latents}: is it for inpainting?")
        for option in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
            if (kind := self.unet.config.get(option)) is not None:
                raise FeatspaceError(f"its UNet takes more than a text ({option} is {kind!r}), as SDXL's; name another")
        if not isinstance(side := self.unet.config.sample_size, int):
            raise FeatspaceError(f"its UNet's sample_size is {side}: it must be one number, as images are square")
        if not (scale := self.vae.config.scaling_factor) > 0:
            raise FeatspaceError(f"its VAE's scaling_factor is {scale}: it must be greater than 0; get it again")
        wide, width = self.unet.config.cross_attention_dim, self.prompt.shape[-1]
        if isinstance(wide, int) and wide != width:
            raise FeatspaceError(f"its text encoder gives {width} numbers a token, but its UNet takes {wide}")

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
        """ε_θ(z_t, t, c), from whatever the UNet was trained to predict (ε, v or the sample)."""
        prompt = self.prompt.to(self.unet.dtype).expand(len(z), -1, -1)
        out = self.unet(z.to(self.unet.dtype), t, prompt).sample.to(z.dtype)
        alpha = float(self.alphas_cumprod[t])
        if self.prediction_type == "v_prediction":
            return alpha**0.5 * out + (1 - alpha) ** 0.5 * z
        if self.prediction_type == "sample":
            return (z - alpha**0.5 * out) / (1 - alpha) ** 0.5
        return out

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in about [−1, 1] of scaled latents."""
        latents = z / self.vae.config.scaling_factor
        if shift := self.vae.config.get("shift_factor"):
            latents = latents + shift
        return self.vae.decode(latents.to(self.vae.dtype)).sample.to(z.dtype)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents (posterior means) of images (N, 3, H, W) in [−1, 1]."""
        mean = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean.to(images.dtype)
        return (mean - (self.vae.config.get("shift_factor") or 0)) * self.vae.config.scaling_factor
