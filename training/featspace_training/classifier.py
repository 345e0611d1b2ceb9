"""Trains a timm model on the 50 classes: the ViT."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from pydantic import Field
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch.nn import functional as F

from featspace.utils.devices import choose_device
from featspace.utils.files import atomic_dir
from featspace_training import data
from featspace_training.loop import fit
from featspace_training.recipe import Recipe
from featspace_training.teacher import Teacher, TeacherRecipe


class ClassifierRecipe(Recipe):
    """Recipe of a classifier: a timm architecture, its arguments and its augmentation.

    teacher: whose soft labels, over its own classes, a second head learns to give; None: labels alone.
    """

    architecture: str
    model_args: dict = Field(default_factory=dict)
    input_size: int = 64
    min_scale: float = 0.35
    mixup: float = Field(0.2, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    teacher: TeacherRecipe | None = None


class _TwoHeads(torch.nn.Module):
    """A timm classifier with a second head of `classes`, which serves training alone."""

    def __init__(self, model: torch.nn.Module, classes: int):
        super().__init__()
        self.model, self.second = model, torch.nn.Linear(model.head_hidden_size, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return self.model.get_classifier()(features), self.second(features)


def run(recipe: ClassifierRecipe, photographs: Path, checkpoint: Path, curve: Path, out: Path) -> None:
    """Trains and writes the timm folder `out` (config.json, model.safetensors in float16)."""
    where = choose_device()
    samples = data.Augmented(
        *data.load_split(photographs, "train"), data.augmentation(recipe.input_size, recipe.min_scale)
    )
    held_out, held_out_labels = (part.to(where) for part in data.load_split(photographs, "val"))
    names = data.class_names(photographs)
    torch.manual_seed(recipe.seed)
    model = timm.create_model(recipe.architecture, num_classes=len(names), **recipe.model_args)
    if (start := recipe.first(checkpoint)) is not None:
        model.load_state_dict(load_file(start / "model.safetensors"))
    taught = recipe.teacher
    teacher = None if taught is None else Teacher(taught.network, taught.size, where)
    model = _TwoHeads(model, 1 if teacher is None else teacher.encoder.model.num_classes)
    mean, std = data.normalization()
    shift, spread = (torch.tensor(values, device=where).view(1, 3, 1, 1) for values in (mean, std))

    def normalize(images: torch.Tensor) -> torch.Tensor:
        return ((images - shift) / spread).contiguous(memory_format=torch.channels_last)

    def loss(model, batch, generator):
        pixels, labels = batch
        images, target = data.to_unit(pixels), F.one_hot(labels, len(names)).float()
        target = target * (1 - recipe.label_smoothing) + recipe.label_smoothing / len(names)
        if recipe.mixup:  # one mixing weight a sample, partner by rotation of the batch (Zhang et al. 2018)
            keep = torch._sample_dirichlet(torch.full((len(images), 2), recipe.mixup, device=images.device))[:, :1]
            images = images * keep.view(-1, 1, 1, 1) + images.roll(1, 0) * (1 - keep.view(-1, 1, 1, 1))
            target = target * keep + target.roll(1, 0) * (1 - keep)
        logits, imitated = model(normalize(images))
        value = F.cross_entropy(logits.float(), target)
        if teacher is not None:  # of the very same crops and mixtures (Beyer et al. 2022, arXiv 2106.05237)
            wanted = teacher.answers(images)[1].softmax(1)
            value = value + taught.weight * F.cross_entropy(imitated.float(), wanted)
        return value

    @torch.no_grad()
    def evaluate(model) -> dict[str, float]:
        hits = []
        for pixels, label in zip(held_out.split(128), held_out_labels.split(128), strict=True):
            images = data.to_unit(pixels)
            images = F.interpolate(images, recipe.input_size, mode="bicubic", antialias=True).clamp(0, 1)
            hits.append(model.model(normalize(images)).argmax(1) == label)
        return {"top1": float(torch.cat(hits).float().mean())}

    model = fit(model, loss, evaluate, recipe, samples, checkpoint, curve).model
    size = (3, recipe.input_size, recipe.input_size)
    model.pretrained_cfg = model.pretrained_cfg | {
        "input_size": size,
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": mean,
        "std": std,
        "num_classes": len(names),
        "label_names": names,
        "tag": "",
        "license": "research only",
    }
    with atomic_dir(out) as partial:
        save_for_hf(model.half(), partial, model_args=recipe.model_args, safe_serialization=True)
