"""Training photographs (parquet of encoded images and labels), how they are drawn, and captions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from featspace.data.photographs import random_crop, seeded
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


def augmentation(size: int, min_scale: float, jitter: float = 0.3) -> v2.Transform:
    """Random resized crop to `size` pixels a side, mirror and color jitter of uint8 images; it draws inside `seeded`.

    Brightness, contrast and saturation factors are uniform in 1 ± jitter.
    """
    return v2.Compose([random_crop(size, min_scale), v2.ColorJitter(jitter, jitter, jitter)])


class Augmented(Dataset):
    """Photographs, each transformed at random, and their labels: the item of (index, seed).

    images: (N, 3, H, W) uint8, on the CPU. labels: (N,) int64.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: v2.Transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        index, seed = item
        with seeded(seed):
            return self.transform(self.images[index]), self.labels[index]


class Indices(Dataset):
    """For samples that lie on the device already: the item of (index, seed) is (index,)."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: tuple[int, int]) -> tuple[int]:
        return (item[0],)


def normalization() -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel that the encoders' inputs are normalized with (ImageNet's, from timm)."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
