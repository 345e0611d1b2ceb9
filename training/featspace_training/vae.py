"""Trains the autoencoder of the small prior: 64×64 images to 4×16×16 latents and back (AutoencoderKL)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F
from torchvision.transforms import v2

from featspace.utils.devices import choose_device
from featspace.utils.files import atomic_dir
from featspace_training import data
from featspace_training.loop import fit
from featspace_training.recipe import Recipe
from featspace_training.step import mixed_precision
from featspace_training.teacher import Teacher, TeacherRecipe, perceptual_error


class VAERecipe(Recipe):
    """Recipe of the autoencoder, and its diffusers configuration.

    kl: weight of the KL divergence a latent element, beside a squared error a color value in [−1, 1].
    l1: weight of the absolute error a color value.
    teacher: of the perceptual loss, which is taken of every second image of a batch; None: without.
    frozen_encoder: trains the decoder alone, so that a prior of the old latents still fits.
    """

    model: dict
    kl: float = 1e-4
    l1: float = 0.1
    teacher: TeacherRecipe | None = None
    frozen_encoder: bool = False


class _Roundtrip(torch.nn.Module):
    """Encodes images, decodes the posterior's samples by `noise`: one forward, without a wait for the device."""

    def __init__(self, autoencoder: AutoencoderKL):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = self.autoencoder.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        decoded = self.autoencoder.decode(mean + torch.exp(0.5 * logvar) * noise).sample
        return decoded.float(), mean, logvar


def run(recipe: VAERecipe, photographs: Path, checkpoint: Path, curve: Path, out: Path) -> None:
    """Trains on the training split, mirrored half of the time; writes the diffusers folder `out`, float16."""
    where = choose_device()
    train, labels = data.load_split(photographs, "train")
    samples = data.Augmented(train, labels, v2.RandomHorizontalFlip())
    held_out, _ = data.load_split(photographs, "val")
    torch.manual_seed(recipe.seed)
    model = AutoencoderKL(**recipe.model)
    if (start := recipe.first(checkpoint)) is not None:
        model.load_state_dict(AutoencoderKL.from_pretrained(start, dtype=torch.float32).state_dict())
    if recipe.frozen_encoder:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    taught = recipe.teacher
    teacher = None if taught is None else Teacher(taught.network, taught.size, where)
    scale = 2 ** (len(model.config.block_out_channels) - 1)

    def loss(model, batch, generator):
        images = _batch(batch[0])
        shape = len(images), recipe.model["latent_channels"], *(side // scale for side in images.shape[2:])
        decoded, mean, logvar = model(images, torch.randn(shape, generator=generator, device=where))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        error = F.mse_loss(decoded, images) + recipe.l1 * F.l1_loss(decoded, images) + recipe.kl * kl
        if teacher is not None:
            error = error + taught.weight * perceptual_error(teacher, (decoded[::2] + 1) / 2, (images[::2] + 1) / 2)
        return error

    def evaluate(model) -> dict[str, float]:
        return {"psnr": psnr(model.autoencoder, held_out)}

    model = fit(_Roundtrip(model), loss, evaluate, recipe, samples, checkpoint, curve).autoencoder
    latents = encode(model, train[:5000])  # to the same scale where the encoder is frozen
    model.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    with atomic_dir(out) as partial:
        model.half().save_pretrained(partial)


@torch.no_grad()
def psnr(model: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean over images (uint8) of the reconstruction's PSNR in dB, for pixel values in [0, 1]."""
    values = []
    for part in images.split(128):
        part = _batch(part.to(next(model.parameters()).device))
        decoded = model.decode(model.encode(part).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((decoded - part) / 2).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())


@torch.no_grad()
def encode(model: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Posterior means (N, 4, H/4, W/4) float32, unscaled, of uint8 images, on the CPU."""
    where = next(model.parameters()).device
    with mixed_precision(where, model)():
        parts = (model.encode(_batch(part.to(where))).latent_dist.mean for part in images.split(128))
        return torch.cat([part.float().cpu() for part in parts])


def _batch(pixels: torch.Tensor) -> torch.Tensor:
    return (data.to_unit(pixels) * 2 - 1).contiguous(memory_format=torch.channels_last)
