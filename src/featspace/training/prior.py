"""Trains the small prior: a UNet with cross-attention on the autoencoder's latents, and its text encoder.

The result is a Stable-Diffusion-shaped pipeline folder: the same classes, the same noise schedule, the CLIP
tokenizer. Captions are dropped half of the time, so the empty prompt is the unconditional model.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from featspace.architectures import SCHEDULE
from featspace.devices import choose_device
from featspace.files import atomic_dir
from featspace.training import data
from featspace.training.loop import Recipe, fit
from featspace.training.measures import noise_error
from featspace.training.vae import encode


class PriorRecipe(Recipe):
    """Recipe of the prior: diffusers configuration of the UNet, transformers configuration of the text encoder."""

    unet: dict
    text: dict
    drop_caption: float = 0.5
    min_snr: float = 5.0


class Denoiser(torch.nn.Module):
    """Noise prediction from latents (N, 4, h, w), timesteps (N,), and which of `captions` (C, L) each sample has."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel, captions: torch.Tensor):
        super().__init__()
        self.unet, self.text = unet, text
        self.register_buffer("captions", captions, persistent=False)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        used, position = which.unique(return_inverse=True)  # a caption is encoded once a batch
        context = self.text(self.captions[used]).last_hidden_state[position]
        return self.unet(latents, timesteps, context).sample


def run(recipe: PriorRecipe, photographs: Path, vae: Path, checkpoint: Path, curve: Path, out: Path) -> None:
    """Trains on the latents of the training split and their mirror images; writes the pipeline folder `out`."""
    autoencoder = AutoencoderKL.from_pretrained(vae, dtype=torch.float32).eval()
    scale = autoencoder.config.scaling_factor
    latents, labels = _latents(autoencoder, photographs, "train", scale)
    held_out, _ = _latents(autoencoder, photographs, "val", scale)
    names = data.class_names(photographs)
    tokenizer = clip_tokenizer(recipe.text["max_position_embeddings"])
    texts = [data.TEMPLATES[0].format(name) for name in names] + [""]
    captions = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.manual_seed(recipe.seed)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": len(tokenizer),
    }
    model = Denoiser(UNet2DConditionModel(**recipe.unet), CLIPTextModel(CLIPTextConfig(**recipe.text, **ids)), captions)
    scheduler = DDIMScheduler(**SCHEDULE)
    alphas = scheduler.alphas_cumprod

    def noised(clean, steps, noise):
        keep = alphas.to(clean.device)[steps].view(-1, 1, 1, 1)
        return (keep.sqrt() * clean + (1 - keep).sqrt() * noise).contiguous(memory_format=torch.channels_last)

    def loss(model, indices, generator):
        where, count = indices.device, len(indices)
        clean = latents[indices.cpu()].to(where)
        noise = torch.randn(clean.shape, generator=generator, device=where)
        steps = torch.randint(len(alphas), (count,), generator=generator, device=where)
        drop = torch.rand(count, generator=generator, device=where) < recipe.drop_caption
        which = torch.where(drop, len(names), labels[indices.cpu()].to(where))
        error = (model(noised(clean, steps, noise), steps, which).float() - noise).square().mean((1, 2, 3))
        snr = (alphas / (1 - alphas)).to(where)[steps]
        return (error * snr.clamp(max=recipe.min_snr) / snr).mean()  # Hang et al. 2023, for noise prediction

    def evaluate(model) -> dict[str, float]:
        where = next(model.parameters()).device

        def predict(z, t):
            return model(z.to(where), t.to(where), torch.full_like(t, len(names), device=where))

        return {"held_out_error": noise_error(predict, held_out[: len(held_out) // 2], alphas)}

    model = fit(model, loss, evaluate, recipe, len(latents), checkpoint, curve)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=model.text.half(),
        tokenizer=tokenizer,
        unet=model.unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with atomic_dir(out) as aside:
        pipeline.save_pretrained(aside)


def clip_tokenizer(length: int) -> CLIPTokenizer:
    """OpenAI's CLIP tokenizer, from the merges that open_clip carries; agrees with open_clip's own."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    names = {"<start_of_text>": start, "<end_of_text>": end}  # open_clip's for the same two tokens
    vocabulary = {names.get(token, token): i for token, i in open_clip.SimpleTokenizer().encoder.items()}
    lines = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]  # as open_clip cuts them
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, **special)


def _latents(vae: AutoencoderKL, photographs: Path, split: str, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = data.load_split(photographs, split)
    where = choose_device()
    both = torch.cat([images, images.flip(-1)])
    return encode(vae.to(where, memory_format=torch.channels_last), both) * scale, torch.cat([labels, labels])
