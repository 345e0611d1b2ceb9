"""Trains the small CLIP (open_clip): a ResNet and a text transformer, on photographs and class captions."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from featspace.utils.devices import choose_device
from featspace.utils.files import atomic_dir
from featspace_training import data
from featspace_training.loop import fit
from featspace_training.recipe import Recipe
from featspace_training.teacher import Teacher, TeacherRecipe


class CLIPRecipe(Recipe):
    """Recipe of the CLIP model: its open_clip configuration and its augmentation.

    teacher: an ImageNet classifier. Image features learn to hold its features, and captions of its 1000 classes, in
        WordNet's words, to match an image as it finds the classes likely. None: without.
    """

    model: dict
    min_scale: float = 0.35
    teacher: TeacherRecipe | None = None


class _Contrast(torch.nn.Module):
    """Image and text features in one forward, without a wait for the device; `regress` serves training alone."""

    def __init__(self, clip: open_clip.CLIP, taught: int):
        super().__init__()
        self.clip = clip
        self.regress = torch.nn.Linear(clip.visual.output_dim, taught)

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.clip.encode_image(images), self.clip.encode_text(tokens)


def run(recipe: CLIPRecipe, photographs: Path, checkpoint: Path, curve: Path, out: Path) -> None:
    """Trains and writes the open_clip folder `out` (open_clip_config.json, open_clip_model.safetensors)."""
    where = choose_device()
    held_out, held_out_labels = (part.to(where) for part in data.load_split(photographs, "val"))
    names = data.class_names(photographs)
    mean, std = data.normalization()
    shift, spread = (torch.tensor(values, device=where).view(1, 3, 1, 1) for values in (mean, std))
    size, context = recipe.model["vision_cfg"]["image_size"], recipe.model["text_cfg"]["context_length"]
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    tokens = [tokenizer([template.format(name) for name in names]) for template in data.TEMPLATES]
    tokens = torch.stack(tokens, 1).to(where)  # class, template, token
    samples = data.Augmented(*data.load_split(photographs, "train"), data.augmentation(size, recipe.min_scale))
    torch.manual_seed(recipe.seed)
    clip = open_clip.CLIP(**recipe.model)
    if (start := recipe.first(checkpoint)) is not None:
        clip.load_state_dict(load_file(start / "open_clip_model.safetensors"))
    taught, teacher, wider = recipe.teacher, None, torch.empty(0)
    if taught is not None:
        teacher = Teacher(taught.network, taught.size, where)
        wider = torch.stack([tokenizer(wordings) for wordings in data.imagenet_captions()]).to(where)
    model = _Contrast(clip, 1 if teacher is None else teacher.encoder.dim)

    def normalize(images: torch.Tensor) -> torch.Tensor:
        return ((images - shift) / spread).contiguous(memory_format=torch.channels_last)

    def loss(model, batch, generator):
        pixels, label = batch
        images = data.to_unit(pixels)
        template = torch.randint(len(data.TEMPLATES), (len(names),), generator=generator, device=label.device)
        caption = tokens[torch.arange(len(names), device=label.device), template]
        if teacher is not None:
            wording = torch.randint(wider.shape[1], (len(wider),), generator=generator, device=label.device)
            more = wider[torch.arange(len(wider), device=label.device), wording]
            caption = torch.cat([caption, more])
        image, text = model(normalize(images), caption)
        raw, image, text = image.float(), F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
        text, more = text[: len(names)], text[len(names) :]
        scale = model.clip.logit_scale.exp().clamp(max=100)
        logits = scale * image @ text.T
        # Captions are class captions, so a batch would hold many copies of one: each distinct caption stands
        # once, and from text to image every photograph of the class is a positive (UniCL, Yang et al. 2022).
        positive = F.one_hot(label, len(names)).float().T
        many = positive.sum(1)  # no shape may depend on them: a step must not wait for the device
        to_image = -(logits.T.log_softmax(1) * positive).sum(1) / many.clamp_min(1)
        value = 0.5 * (F.cross_entropy(logits, label) + to_image.sum() / (many > 0).sum())
        if teacher is not None:
            features, likely = teacher.answers(images)
            distance = 1 - F.cosine_similarity(model.regress(raw), features)
            value = value + taught.weight * (
                distance.mean() + F.cross_entropy(scale * image @ more.T, likely.softmax(1))
            )
        return value

    @torch.no_grad()
    def evaluate(model) -> dict[str, float]:
        text = F.normalize(model.clip.encode_text(tokens.flatten(0, 1)), dim=1)
        text = F.normalize(text.unflatten(0, tokens.shape[:2]).mean(1), dim=1)
        hits = []
        for pixels, label in zip(held_out.split(128), held_out_labels.split(128), strict=True):
            images = F.interpolate(data.to_unit(pixels), size, mode="bicubic", antialias=True).clamp(0, 1)
            hits.append((model.clip.encode_image(normalize(images)) @ text.T).argmax(1) == label)
        return {"zero_shot_top1": float(torch.cat(hits).float().mean())}

    clip = fit(model, loss, evaluate, recipe, samples, checkpoint, curve).clip
    _balance(clip, normalize(data.to_unit(held_out[:256])), tokens[:, 0])
    preprocess = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    with atomic_dir(out) as partial:
        save_file(
            {k: v.half().contiguous() if v.is_floating_point() else v for k, v in clip.state_dict().items()},
            partial / "open_clip_model.safetensors",
        )
        config = {"model_cfg": recipe.model, "preprocess_cfg": preprocess}
        (partial / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def _balance(clip: open_clip.CLIP, images: torch.Tensor, tokens: torch.Tensor) -> None:
    """Scales the text projection so that text features are as long as image features on average.

    The contrast only sees directions, so the scale is free; a decoder that is given a text feature as its target
    compares raw features, and would spend itself on the length.
    """
    where = next(clip.parameters()).device
    image, text = clip.encode_image(images.to(where)), clip.encode_text(tokens.to(where))
    clip.text_projection *= image.norm(dim=1).mean() / text.norm(dim=1).mean()
