"""A published network that the small ones learn from: its feature maps say what of an image counts."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from featspace.encoders.encoder import load_encoder

LOCKED = Path("..")
"""Whose lock pins it: trainings run in `training`."""


class TeacherRecipe(BaseModel):
    """Which network teaches, at how many pixels a side, and how much it counts."""

    model_config = ConfigDict(extra="forbid")
    network: str
    size: int = Field(128, ge=32)
    weight: float = Field(ge=0)


class Teacher:
    """A frozen network of timm's, and the maps of its stages.

    Raises UsageError for an unknown network, FeatspaceError for one that cannot be loaded.
    """

    def __init__(self, network: str, size: int, device: torch.device | str = "cpu"):
        self.encoder = load_encoder(network, LOCKED, input_size=size).to(device, memory_format=torch.channels_last)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps (N, C, h, w) after each stage, from fine to coarse, of images (N, 3, H, W) in [0, 1]; float32."""
        with self._precision(images):
            inputs = self.encoder.preprocess(images.float()).contiguous(memory_format=torch.channels_last)
            return [one.float() for one in self.encoder.model.forward_intermediates(inputs, intermediates_only=True)]

    @torch.no_grad()
    def answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (N, D) and logits (N, classes) of images (N, 3, H, W) in [0, 1]; float32."""
        with self._precision(images):
            model = self.encoder.model
            inputs = self.encoder.preprocess(images.float()).contiguous(memory_format=torch.channels_last)
            features = model.forward_head(model.forward_features(inputs), pre_logits=True)
            return features.float(), model.get_classifier()(features).float()

    @staticmethod
    def _precision(images: Tensor) -> torch.autocast:
        """bfloat16 on a GPU, whatever surrounds it."""
        kind = images.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda")


def perceptual_error(teacher: Teacher, images: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of the maps of `images` and `targets` over the targets' squared norm, mean over stages.

    The mean over images (N, 3, H, W) in [0, 1]; only `images` gets a gradient (Johnson et al. 2016, arXiv 1603.08155).
    """
    with torch.no_grad():
        wanted = teacher.maps(targets)
    errors = [
        (found - target).square().sum((1, 2, 3)) / target.square().sum((1, 2, 3)).clamp_min(1e-6)
        for found, target in zip(teacher.maps(images), wanted, strict=True)
    ]
    return torch.stack(errors).mean()
