"""Image preprocessing of a vision network: on tensors, differentiable, as the network's own metadata says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featspace.utils.errors import FeatspaceError


class Preprocess(nn.Module):
    """Antialiased resize, crop or padding at the center, then minus the mean and over the standard deviation.

    Agrees with the transforms of timm, open_clip, torchvision and transformers on 8-bit photographs to at
    most 2/255 a pixel, and 0.5/255 on average, before normalisation: they round to 8 bits after each pass.

    Args:
        resize: (height, width) that the image is scaled to, as `fit` says.
        crop: (height, width) of the result.
        fit: "shortest" scales until the image covers `resize`, "longest" until it lies inside (both keep the
            aspect ratio); "squash" scales to exactly `resize`.
        interpolation: "bicubic" or "bilinear".
        mean, std: three channels, in units of [0, 1] images.
        fill: color of the border where the scaled image is smaller than `crop`, three channels in [0, 1].
        margin: what rounds the crop's top and left margin, `round` (torchvision) or `floor` (transformers).

    Raises FeatspaceError for another interpolation, fit or number of channels, and a std that is not above 0.
    """

    mean: Tensor
    std: Tensor
    fill: Tensor

    def __init__(
        self,
        resize: tuple[int, int],
        crop: tuple[int, int],
        fit: str,
        interpolation: str,
        mean: Sequence[float],
        std: Sequence[float],
        fill: Sequence[float] = (0.0, 0.0, 0.0),
        margin: Callable[[float], int] = round,
    ) -> None:
        super().__init__()
        if interpolation not in ("bicubic", "bilinear"):
            raise FeatspaceError(f"cannot preprocess by {interpolation} interpolation, only bicubic, bilinear")
        if fit not in ("shortest", "longest", "squash"):
            raise FeatspaceError(f"cannot preprocess by {fit} resize, only shortest, longest, squash")
        self.resize, self.crop, self.fit = resize, crop, fit
        self.interpolation, self.margin = interpolation, margin
        if sizes := {len(mean), len(std)} - {3}:
            raise other_channels(min(sizes))
        if not all(value > 0 for value in std):
            raise FeatspaceError(f"its std is {list(std)}: images are divided by it, so it must be greater than 0")
        for name, value in (("mean", mean), ("std", std), ("fill", fill)):
            self.register_buffer(name, torch.tensor(list(value)).reshape(1, 3, 1, 1), persistent=False)

    def whole(self, side: int) -> Preprocess:
        """The same, but for the whole of a square image at `side` pixels."""
        changed = copy.copy(self)
        changed.resize = changed.crop = (side, side)
        changed.fit = "shortest"
        return changed

    def forward(self, images: Tensor) -> Tensor:
        """Network input (N, 3, *crop) of images (N, 3, H, W) in [0, 1], in the images' own precision."""
        view = self.view(images)
        return (view - self.mean.to(view)) / self.std.to(view)

    def view(self, images: Tensor) -> Tensor:
        """The same before normalisation: the part of the images that the network sees, in [0, 1]."""
        height, width = self._scaled_size(*images.shape[-2:])
        # PIL scales the width first, then the height. Bicubic overshoots at edges, where 8-bit images
        # saturate after each of the two passes; without the clamps, PIL's result is missed by up to 34/255.
        for axis, side in ((-1, width), (-2, height)):
            if side != images.shape[axis]:
                images = self._scale(images, axis, side)
                images = images.clamp(0, 1) if self.interpolation == "bicubic" else images
        return self._center(images)

    def _scale(self, images: Tensor, axis: int, side: int) -> Tensor:
        """Images of `side` pixels along `axis`, -1 or -2, the other left as it is.

        Where a gradient is wanted, as a product with the weights: the gradient of PyTorch's own takes several times as
        long on a CPU, and on a GPU adds up in any order, so that no two runs agree.
        """
        if not (images.requires_grad and torch.is_grad_enabled()):
            size = (images.shape[-2], side) if axis == -1 else (side, images.shape[-1])
            return F.interpolate(images, size, mode=self.interpolation, antialias=True)
        pixels = images.shape[axis]
        each = torch.eye(pixels, dtype=images.dtype, device=images.device)[None, None]
        weights = F.interpolate(each, (pixels, side), mode=self.interpolation, antialias=True)[0, 0]
        return images @ weights if axis == -1 else weights.T @ images

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Size after scaling, rounded as by torchvision's Resize (square) or timm's ResizeKeepRatio."""
        if self.fit == "squash":
            return self.resize
        if self.fit == "shortest" and self.resize[0] == self.resize[1]:
            short, side = min(height, width), self.resize[0]
            return side * height // short, side * width // short
        ratios = height / self.resize[0], width / self.resize[1]
        ratio = min(ratios) if self.fit == "shortest" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _center(self, images: Tensor) -> Tensor:
        """Crop or pad to the input size; an odd padding is divided as by torchvision's center_crop."""
        height, width = images.shape[-2:]
        down, right = max(0, self.crop[0] - height), max(0, self.crop[1] - width)
        if down or right:
            fill = self.fill.to(images)
            images = F.pad(images - fill, (right // 2, (right + 1) // 2, down // 2, (down + 1) // 2)) + fill
        top = self.margin((images.shape[-2] - self.crop[0]) / 2)
        left = self.margin((images.shape[-1] - self.crop[1]) / 2)
        return images[..., top : top + self.crop[0], left : left + self.crop[1]]


def other_channels(count: int) -> FeatspaceError:
    """Of a network that takes images of `count` channels."""
    many = "1 channel" if count == 1 else f"{count} channels"
    return FeatspaceError(f"takes images of {many}, not of 3; name a network of RGB images")


def from_timm(config: dict[str, Any]) -> Preprocess:
    """Preprocessing of a timm model: `config` is timm.data.resolve_model_data_config(model)."""
    height, width = config["input_size"][1:]
    fit = {"center": "shortest", "border": "longest"}.get(config["crop_mode"], config["crop_mode"])
    # timm fills the border with the mean color, rounded to 8 bits.
    fill = [round(255 * value) / 255 for value in config["mean"]] if fit == "longest" else [0.0] * 3
    resize = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    mean, std = config["mean"], config["std"]
    return Preprocess(resize, (height, width), fit, config["interpolation"], mean, std, fill)


def from_open_clip(config: dict[str, Any]) -> Preprocess:
    """Preprocessing of an open_clip model: `config` is model.visual.preprocess_cfg."""
    size = config["size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    fill = [config["fill_color"] / 255] * 3
    mean, std = config["mean"], config["std"]
    return Preprocess(size, size, config["resize_mode"], config["interpolation"], mean, std, fill)


def from_torchvision(transforms: Any) -> Preprocess:
    """Preprocessing of torchvision weights: `transforms` is weights.transforms()."""
    resize, crop = transforms.resize_size[0], transforms.crop_size[0]
    mode, mean, std = transforms.interpolation.value, transforms.mean, transforms.std
    return Preprocess((resize, resize), (crop, crop), "shortest", mode, mean, std)


def from_transformers(processor: Any) -> Preprocess:
    """Preprocessing of a transformers model: `processor` is its image processor (CLIP, SigLIP, BiT)."""
    size = dict(processor.size)
    if size.get("shortest_edge"):
        resize, fit = (size["shortest_edge"], size["shortest_edge"]), "shortest"
    elif size.get("height") and size.get("width"):
        resize, fit = (size["height"], size["width"]), "squash"
    else:
        raise FeatspaceError(f"cannot preprocess to size {size}, only to shortest_edge, or height and width")
    crop = resize
    if getattr(processor, "do_center_crop", None):
        crop = (processor.crop_size["height"], processor.crop_size["width"])
    mode = {2: "bilinear", 3: "bicubic"}.get(int(processor.resample), str(processor.resample))
    return Preprocess(resize, crop, fit, mode, processor.image_mean, processor.image_std, margin=math.floor)
