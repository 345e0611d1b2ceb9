"""Preprocessing against the transforms of timm and open_clip, and its gradient."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from PIL import Image
from tiny_networks import tensor

from featspace.encoders.preprocessing import Preprocess, from_open_clip, from_timm


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("mode", "crop_pct", "size"),
    [
        ("center", 0.875, (3, 224, 224)),
        ("center", 1.0, (3, 64, 64)),
        ("center", 1.15, (3, 64, 64)),
        ("center", 0.9, (3, 96, 128)),
        ("squash", 0.9, (3, 96, 96)),
        ("border", 0.95, (3, 160, 160)),
    ],
)
def test_timm_transforms(
    photos: list[Image.Image], mode: str, crop_pct: float, size: tuple[int, int, int], interpolation: str
) -> None:
    config = {"input_size": size, "interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": mode}
    config |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    preprocess, transform = from_timm(config), timm.data.create_transform(**config)
    for image in photos:
        difference = (preprocess(tensor(image)) - transform(image)[None]).mul(preprocess.std).abs()
        assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [224, 64, (64, 96)])
def test_open_clip_transforms(photos: list[Image.Image], mode: str, size: int | tuple[int, int]) -> None:
    config = open_clip.transform.PreprocessCfg(size=size, resize_mode=mode, fill_color=9)
    preprocess = from_open_clip(vars(config))
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    for image in photos:
        difference = (preprocess(tensor(image)) - transform(image)[None]).mul(preprocess.std).abs()
        assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255


@pytest.mark.parametrize("fit", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(9, 14), (5, 4), (6, 6)])
def test_gradient_of_preprocessing(fit: str, shape: tuple[int, int]) -> None:
    preprocess = Preprocess((6, 6), (5, 7), fit, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    images = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert preprocess(images).shape == (2, 3, 5, 7)
    assert torch.autograd.gradcheck(preprocess, images.requires_grad_())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [5, 40])
def test_images_that_want_a_gradient_are_scaled_to_the_same(interpolation: str, side: int) -> None:
    preprocess = Preprocess((side, side), (side, side), "squash", interpolation, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    images = torch.rand(2, 3, 11, 17, generator=torch.Generator().manual_seed(0))
    wanted = images.clone().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        scaled = preprocess(wanted)
        scaled.sum().backward()
    assert not any("aa_backward" in event.key for event in profile.key_averages())  # which no GPU repeats
    torch.testing.assert_close(scaled, preprocess(images), rtol=0, atol=2e-6)
