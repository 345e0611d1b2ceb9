"""Training photographs (parquet of encoded images and labels), captions, and batched augmentation."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F

from featspace.utils.errors import FeatspaceError

TEMPLATES = (
    "a photo of a {}",
    "a photo of the {}",
    "a small photo of a {}",
    "a close-up photo of a {}",
    "a bright photo of a {}",
    "a picture of a {}",
    "{}",
)
"""The first is the prior's caption; CLIP is trained on all, and its zero-shot classifier averages them."""


def load_split(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 64, 64) uint8 and labels (N,) int64 of `<folder>/<split>.parquet` (columns image, label)."""
    encoded = _read(folder, split, "image")["image"].combine_chunks().field("bytes").to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), load_labels(folder, split)


def load_labels(folder: Path, split: str) -> torch.Tensor:
    """Labels (N,) int64, in the order of `load_split`."""
    return torch.tensor(_read(folder, split, "label")["label"].to_pylist())


def _read(folder: Path, split: str, column: str) -> pa.Table:
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise FeatspaceError(f"{path}: no training photographs there; training/README.md says how to get them")
    return pq.read_table(path, columns=[column])


def class_names(folder: Path) -> list[str]:
    """First name of each class in label order, from `<folder>/classes.json`."""
    rows = json.loads((folder / "classes.json").read_text())
    rows = rows if isinstance(rows, list) else rows["classes"]
    return [row["name"].split(",")[0].strip() for row in sorted(rows, key=lambda row: row["label"])]


def imagenet_captions() -> list[list[str]]:
    """Four wordings of each of ImageNet's 1000 classes, in label order, from WordNet's lemmas and definitions.

    The first name in two templates, the last name, and the definition.
    """
    from timm.data import ImageNetInfo

    info, captions = ImageNetInfo(), []
    for index in range(info.num_classes()):
        names, _, definition = info.index_to_description(index, detailed=True).partition(": ")
        names = [name.strip() for name in names.split(",")]
        captions.append([TEMPLATES[0].format(names[0]), TEMPLATES[5].format(names[0]), names[-1], definition])
    return captions


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to float32 in [0, 1]."""
    return pixels.float() / 255


def augment(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    *,
    min_scale: float = 0.35,
    jitter: float = 0.3,
) -> torch.Tensor:
    """Random resized crop, flip and color jitter, a draw a sample: (N, 3, H, W) in [0, 1] to (N, 3, size, size).

    Crop area is uniform in [min_scale, 1] and its aspect log-uniform in [3/4, 4/3], as in torchvision's
    RandomResizedCrop; brightness, contrast and saturation factors are uniform in 1 ± jitter.
    """
    count, device = len(images), images.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator, device=device) * (high - low) + low

    area, aspect = uniform(min_scale, 1), torch.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 2], theta[:, 1, 2] = width * flip, height, left, top
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if jitter:
        factor = [uniform(1 - jitter, 1 + jitter).view(-1, 1, 1, 1) for _ in range(3)]
        out = out * factor[0]
        out = (out - out.mean((1, 2, 3), keepdim=True)) * factor[1] + out.mean((1, 2, 3), keepdim=True)
        out = (out - out.mean(1, keepdim=True)) * factor[2] + out.mean(1, keepdim=True)
    return out.clamp(0, 1)


def normalization() -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel that the encoders' inputs are normalized with (ImageNet's, from timm)."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
