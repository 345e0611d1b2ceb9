"""Unconditional samples of the shipped prior, for its card: `python -m featspace_training.samples PRIOR COUNT OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from featspace.utils.devices import choose_device
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file
from featspace_training.step import mixed_precision

STEPS = 50
"""Of DDIM."""
BATCH = 100


def run(prior: Path, count: int, out: Path) -> None:
    """Writes `count` samples of the empty prompt as a .npy file, (count, H, W, 3) uint8; sample i has seed i.

    They are drawn as the prior was trained, in bfloat16 where the device multiplies in it.
    """
    where = choose_device()
    pipeline = StableDiffusionPipeline.from_pretrained(prior, dtype=torch.float32).to(where)
    precision = mixed_precision(where, pipeline.unet)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in tqdm(range(0, count, BATCH), desc="samples", unit="batch"):
        seeds = range(start, min(start + BATCH, count))
        with precision():
            images = pipeline(
                [""] * len(seeds),
                num_inference_steps=STEPS,
                guidance_scale=1.0,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="np",
            ).images
        parts.append((images * 255).round().astype(np.uint8))
    with atomic_file(out) as partial, open(partial, "wb") as file:
        np.save(file, np.concatenate(parts))


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")
