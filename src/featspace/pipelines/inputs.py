"""What the pipelines take and give back alike."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from featspace.utils.errors import UsageError

OUTPUT_TYPES = "pil", "np", "pt", "latent"


def check_output_type(output_type: str) -> None:
    """Raises UsageError for another than `OUTPUT_TYPES`."""
    if output_type not in OUTPUT_TYPES:
        raise UsageError(f"output_type is {output_type!r}: it must be one of {', '.join(OUTPUT_TYPES)}")


def check_setting(name: str, value: object, default: object) -> None:
    """Raises UsageError for a setting that is NaN, or no number where its default is one."""
    if isinstance(value, float) and math.isnan(value):
        raise UsageError(f"{name} is NaN: it must be a number")
    if type(default) is int and not isinstance(value, Integral):
        raise UsageError(f"{name} is {value!r}: it must be a whole number")
    if type(default) is float and value is not None and not isinstance(value, Real):
        raise UsageError(f"{name} is {value!r}: it must be a number")


def generator_of_each(
    generator: torch.Generator | list[torch.Generator] | None, count: int
) -> list[torch.Generator | None]:
    """A generator a sample, the same one for all if there is one.

    Raises UsageError for a list of another length, and for what is no generator.
    """
    generators: list[torch.Generator | None] = [*generator] if isinstance(generator, list) else [generator] * count
    if len(generators) != count:
        raise UsageError(f"{len(generators)} generators for {count} samples: give one, or one a sample")
    for each in generators:
        if not isinstance(each, torch.Generator | None):
            raise UsageError(f"generator is {each!r}: it must be a torch.Generator, or a list of one a sample")
    return generators


def to_output(images: Tensor, output_type: str) -> Tensor | np.ndarray | list[Image.Image]:
    """Images (N, 3, H, W) in [0, 1] as they are for "pt", as (N, H, W, 3) for "np", as PIL images for "pil"."""
    if output_type == "pt":
        return images
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    return pixels if output_type == "np" else DiffusionPipeline.numpy_to_pil(pixels)
