"""Trains the small prior: a UNet with cross-attention on the autoencoder's latents, and its text encoder.

The result is a Stable-Diffusion-shaped pipeline folder: the same classes, the same noise schedule, the CLIP
tokenizer. Captions are dropped half of the time, so the empty prompt is the unconditional model.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from featspace.priors.architectures import SCHEDULE
from featspace.utils.devices import choose_device
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_dir, atomic_file
from featspace_training import data
from featspace_training.loop import fit
from featspace_training.measures import noise_error
from featspace_training.recipe import Recipe
from featspace_training.teacher import Teacher, TeacherRecipe
from featspace_training.vae import encode


class PriorRecipe(Recipe):
    """Recipe of the prior: diffusers configuration of the UNet, transformers configuration of the text encoder.

    teacher: whose last map of the clean photograph the UNet's middle block is aligned with; None: without.
    """

    unet: dict
    text: dict
    drop_caption: float = 0.5
    min_snr: float = 5.0
    teacher: TeacherRecipe | None = None


class Denoiser(torch.nn.Module):
    """Noise prediction from latents (N, 4, h, w), timesteps (N,), and which of `captions` (C, L) each sample has.

    With `aligned` channels also what a projection makes of the UNet's middle block, (N, aligned, h', w'), for the
    representation alignment of Yu et al. 2024 (arXiv 2410.06940); it serves training alone.
    """

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel, captions: torch.Tensor, aligned: int = 0):
        super().__init__()
        self.unet, self.text = unet, text
        self.register_buffer("captions", captions, persistent=False)
        self.projection = None
        if aligned:
            middle, width = unet.config.block_out_channels[-1], 256
            layers = torch.nn.Conv2d(middle, width, 1), torch.nn.SiLU(), torch.nn.Conv2d(width, aligned, 1)
            self.projection = torch.nn.Sequential(*layers)
            unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, block: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self._middle = output

    def forward(
        self, latents: torch.Tensor, timesteps: torch.Tensor, which: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        context = self.text(self.captions).last_hidden_state[which]  # a caption is encoded once a batch
        noise = self.unet(latents, timesteps, context).sample
        return noise, None if self.projection is None else self.projection(self._middle)


def run(recipe: PriorRecipe, photographs: Path, vae: Path, checkpoint: Path, curve: Path, out: Path) -> None:
    """Trains on the latents of the training split and their mirror images; writes the pipeline folder `out`."""
    autoencoder = AutoencoderKL.from_pretrained(vae, dtype=torch.float32).eval()
    prepared = _prepare(recipe, autoencoder, photographs, checkpoint)
    where = choose_device()
    latents, held_out = prepared["latents"].to(where), prepared["held_out"]
    maps = prepared["maps"].to(where) if "maps" in prepared else None
    labels = data.load_labels(photographs, "train").repeat(2).to(where)
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
    unet, text = UNet2DConditionModel(**recipe.unet), CLIPTextModel(CLIPTextConfig(**recipe.text, **ids))
    if (start := recipe.first(checkpoint)) is not None:
        first = StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32)
        unet.load_state_dict(first.unet.state_dict())
        text.load_state_dict(first.text_encoder.state_dict())
    model = Denoiser(unet, text, captions, aligned=0 if maps is None else maps.shape[1])
    scheduler = DDIMScheduler(**SCHEDULE)
    training_scheduler = DDIMScheduler(**SCHEDULE)
    training_scheduler.alphas_cumprod = training_scheduler.alphas_cumprod.to(where)  # where a replayed step reads it

    def loss(model, batch, generator):
        (indices,) = batch
        clean, count = latents[indices], len(indices)
        noise = torch.randn(clean.shape, generator=generator, device=where)
        steps = torch.randint(len(scheduler), (count,), generator=generator, device=where)
        drop = torch.rand(count, generator=generator, device=where) < recipe.drop_caption
        which = torch.where(drop, len(names), labels[indices])
        noisy = training_scheduler.add_noise(clean, noise, steps).contiguous(memory_format=torch.channels_last)
        predicted, aligned = model(noisy, steps, which)
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        snr = compute_snr(training_scheduler, steps)
        value = (error * snr.clamp(max=recipe.min_snr) / snr).mean()  # Hang et al. 2023, for noise prediction
        if maps is not None:
            seen = maps[indices % len(maps)].float()
            seen = torch.where((indices < len(maps)).view(-1, 1, 1, 1), seen, seen.flip(-1))
            seen = F.interpolate(seen, aligned.shape[-2:], mode="bilinear")
            value = value + recipe.teacher.weight * (1 - F.cosine_similarity(aligned.float(), seen)).mean()
        return value

    def evaluate(model) -> dict[str, float]:
        def predict(z, t):
            return model(z.to(where), t.to(where), torch.full_like(t, len(names), device=where))[0]

        return {"held_out_error": noise_error(predict, held_out[: len(held_out) // 2], scheduler)}

    model = fit(model, loss, evaluate, recipe, data.Indices(len(latents)), checkpoint, curve)
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
    with atomic_dir(out) as partial:
        pipeline.save_pretrained(partial)


def clip_tokenizer(length: int) -> CLIPTokenizer:
    """OpenAI's CLIP tokenizer, from the merges that open_clip carries; agrees with open_clip's own."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    names = {"<start_of_text>": start, "<end_of_text>": end}  # open_clip's for the same two tokens
    vocabulary = {names.get(token, token): i for token, i in open_clip.SimpleTokenizer().encoder.items()}
    lines = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]  # as open_clip cuts them
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, **special)


def _prepare(recipe: PriorRecipe, vae: AutoencoderKL, photographs: Path, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Scaled latents of the photographs and then of their mirror images, and the teacher's last maps (N, C, 4, 4).

    They take long, so a file beside the checkpoint keeps them for the next start. Raises FeatspaceError if the
    checkpoint is of another autoencoder's latents.
    """
    taught, file = recipe.teacher, checkpoint.with_suffix(".inputs.safetensors")
    weights = hashlib.sha256(b"".join(t.numpy().tobytes() for t in vae.state_dict().values()))
    weights.update(str(vae.config.scaling_factor).encode())
    made_of = {"vae": weights.hexdigest(), "teacher": "" if taught is None else f"{taught.network} {taught.size}"}
    if file.exists():
        with safe_open(file, "pt") as known:
            if known.metadata() == made_of:
                return {name: known.get_tensor(name) for name in known.keys()}  # noqa: SIM118 (not a dict)
            if checkpoint.exists() and known.metadata()["vae"] != made_of["vae"]:
                raise FeatspaceError(f"{checkpoint}: trained on another autoencoder's latents; delete it to start anew")
    where, scale = choose_device(), vae.config.scaling_factor
    vae.to(where, memory_format=torch.channels_last)
    train, _ = data.load_split(photographs, "train")
    held_out, _ = data.load_split(photographs, "val")
    made = {
        "latents": encode(vae, torch.cat([train, train.flip(-1)])) * scale,
        "held_out": encode(vae, torch.cat([held_out, held_out.flip(-1)])) * scale,
    }
    if taught is not None:
        teacher = Teacher(taught.network, taught.size, where)
        with torch.no_grad():
            last = [teacher.maps(data.to_unit(part.to(where)))[-1].half().cpu() for part in train.split(64)]
        made["maps"] = torch.cat(last)
    with atomic_file(file) as partial:
        save_file({name: value.contiguous() for name, value in made.items()}, partial, made_of)
    return made
