"""What the model card says of the shipped weights, measured on photographs that were held out of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional as F

from featspace.encoders.encoder import Encoder, load_encoder
from featspace.metrics.frechet import frechet_distance
from featspace_training import data, vae
from featspace_training.teacher import LOCKED

ENCODER = "package:efficientnet_lite0"
"""An ImageNet classifier that no small model learned from."""


class Measured(NamedTuple):
    """One number of the card."""

    model: str
    measure: str
    value: float


class Neighbors(NamedTuple):
    """Distances to the nearest training photograph, of samples and of as many held-out photographs."""

    measure: str
    samples: Tensor
    held_out: Tensor


def nearest_distance(queries: Tensor, pool: Tensor) -> Tensor:
    """Euclidean distance of each row of `queries` (N, D) to the nearest of `pool` (M, D), (N,)."""
    return torch.cat([torch.cdist(part, pool).min(1).values for part in queries.split(256)])


@torch.no_grad()
def features(encoder: Encoder, images: Tensor) -> Tensor:
    """Features (N, D) of uint8 images (N, 3, H, W)."""
    return torch.cat([encoder(data.to_unit(part)) for part in images.split(64)])


@torch.no_grad()
def top1(encoder: Encoder, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 images that the network's classifier puts into their class."""
    logits = torch.cat([encoder.classify(data.to_unit(part)) for part in images.split(64)])
    return float((logits.argmax(1) == labels).float().mean())


def zero_shot_top1(encoder: Encoder, images: Tensor, labels: Tensor, names: Sequence[str]) -> float:
    """Share of images nearest in direction to the caption of their class, averaged over `data.TEMPLATES`."""
    texts = torch.stack(
        [F.normalize(encoder.encode_text([t.format(name) for t in data.TEMPLATES]), dim=1).mean(0) for name in names]
    )
    scores = F.normalize(features(encoder, images), dim=1) @ F.normalize(texts, dim=1).T
    return float((scores.argmax(1) == labels).float().mean())


@torch.no_grad()
def noise_error(predict: Callable[[Tensor, Tensor], Tensor], latents: Tensor, scheduler: DDIMScheduler) -> float:
    """Mean squared error of predict(z_t, t) against the noise in z_t, t uniform; one draw a latent, always the same.

    latents: scaled, (N, C, h, w), on the CPU, where noise is added, too.
    """
    generator, errors = torch.Generator().manual_seed(0), []
    for clean in latents.split(125):
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(len(scheduler), (len(clean),), generator=generator)
        z = scheduler.add_noise(clean, noise, t).contiguous(memory_format=torch.channels_last)
        errors.append((predict(z, t).float().cpu() - noise).square().mean((1, 2, 3)))
    return float(torch.cat(errors).mean())


@torch.no_grad()
def confidence(encoder: Encoder, images: Tensor) -> float:
    """Mean over uint8 images of the probability that the network's classifier gives its first class."""
    logits = torch.cat([encoder.classify(data.to_unit(part)) for part in images.split(64)])
    return float(logits.softmax(1).max(1).values.mean())


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images (N, 3, H, W) after encoding (posterior mean) and decoding."""
    parts = []
    for part in images.split(64):
        decoded = autoencoder.decode(autoencoder.encode(data.to_unit(part) * 2 - 1).latent_dist.mean).sample
        parts.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts)


def kept(encoder: Encoder, images: Tensor, reconstructions: Tensor) -> float:
    """Median cosine of the features of uint8 images and of their reconstructions."""
    cosines = F.cosine_similarity(features(encoder, images), features(encoder, reconstructions))
    return float(cosines.median())


def measure(models: Path, judge: Encoder, photographs: Path, samples: Tensor) -> tuple[list[Measured], list[Neighbors]]:
    """Every number of the card from the weights in `models`; `samples` are of the prior, (N, 3, H, W) uint8.

    Of the samples as many are compared with the training photographs as there are held-out ones: a Fréchet distance
    depends on their number.
    """
    train, _ = data.load_split(photographs, "train")
    held_out, labels = data.load_split(photographs, "val")
    names = data.class_names(photographs)
    rows = [Measured("vit", "top1", top1(load_encoder(str(models / "vit")), held_out, labels))]
    clip = load_encoder(str(models / "clip"))
    rows.append(Measured("clip", "zero_shot_top1", zero_shot_top1(clip, held_out, labels, names)))

    prior = StableDiffusionPipeline.from_pretrained(models / "prior", dtype=torch.float32)
    rows.append(Measured("prior", "psnr", vae.psnr(prior.vae, held_out)))
    reconstructions = reconstruct(prior.vae, held_out)
    for name, encoder in (("encoder", load_encoder(ENCODER, LOCKED)), ("judge", judge)):
        rows.append(Measured("prior", f"kept_{name}", kept(encoder, held_out, reconstructions)))
    latents = vae.encode(prior.vae, held_out) * prior.vae.config.scaling_factor
    prompt, _ = prior.encode_prompt("", "cpu", 1, False)
    error = noise_error(lambda z, t: prior.unet(z, t, prompt.expand(len(z), -1, -1)).sample, latents, prior.scheduler)
    rows.append(Measured("prior", "noise_error", error))

    samples = samples[: len(held_out)]
    for name, images in (("samples", samples), ("held_out", held_out)):
        rows.append(Measured("prior", f"confidence_{name}", confidence(judge, images)))
    seen = {"train": features(judge, train), "held_out": features(judge, held_out), "samples": features(judge, samples)}
    rows += [
        Measured("prior", "frechet_samples", frechet_distance(seen["samples"], seen["train"])),
        Measured("prior", "frechet_held_out", frechet_distance(seen["held_out"], seen["train"])),
    ]
    near = [nearest_distance(seen[name], seen["train"]) for name in ("samples", "held_out")]
    neighbors = [Neighbors("distance in the judge’s features", *near)]
    # A mirror image has nearly the same features, but not the same pixels.
    pool, scale = torch.cat([train, train.flip(-1)]).flatten(1).float(), train[0].numel() ** 0.5
    near = [nearest_distance(x.flatten(1).float(), pool) / scale for x in (samples, held_out)]
    neighbors.append(Neighbors("distance in pixels (root mean square, of 255)", *near))
    for measure, distances in zip(("near_features", "near_pixels"), neighbors, strict=True):
        share = (distances.samples < distances.held_out.quantile(0.01)).float().mean()
        rows.append(Measured("prior", measure, float(share)))
    return rows, neighbors
