"""Published architectures of diffusion priors, without weights: to plan a run, and to measure speed where none are.

Values are those of the repositories' own configuration files (CompVis/stable-diffusion-v1-4).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

from featspace.priors.prior import Prior
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.texts import parse_json

STABLE_DIFFUSION_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
STABLE_DIFFUSION_VAE = {
    "sample_size": 512,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.18215,
}
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's noise schedule, for diffusers' DDIMScheduler."""
PRIORS = {"diffusers:CompVis/stable-diffusion-v1-4": (STABLE_DIFFUSION_UNET, STABLE_DIFFUSION_VAE)}
"""UNet and VAE."""
TINY_VAES: dict[str, dict] = {"autoencoder:madebyollin/taesd": {}}
"""diffusers' own defaults are TAESD's."""


def configurations(prior: str, root: Path = Path()) -> tuple[dict, dict]:
    """Configurations of a prior's UNet and VAE: of PRIORS, or of a folder in Stable Diffusion's layout.

    Raises FeatspaceError if it is neither.
    """
    if prior in PRIORS:
        return PRIORS[prior]
    return _read(root / prior / "unet", PRIORS), _read(root / prior / "vae", PRIORS)


def _read(folder: Path, known: Iterable[str]) -> dict:
    try:
        return parse_json((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise FeatspaceError(
            f"{folder}: its architecture is not known ({one_line(error)}); name a folder with its config.json, or "
            f"{', '.join(known)}"
        ) from error


def blank_prior(prior: str, root: Path = Path(), dtype: torch.dtype = torch.float32) -> Prior:
    """A prior with random weights in `dtype`, in eval mode, on the default device (`torch.device("meta")` as well).

    Raises FeatspaceError as `configurations` does.
    """
    unet, vae = configurations(prior, root)
    prompt = torch.randn(1, 77, unet["cross_attention_dim"])
    with torch.device("cpu"):  # its numbers are needed
        scheduler = DDIMScheduler(**SCHEDULE)
    blank = Prior(UNet2DConditionModel.from_config(unet), AutoencoderKL.from_config(vae), prompt, scheduler)
    for network in (blank.unet, blank.vae):
        _frozen(network, dtype)
    return blank


def blank_tiny_vae(name: str, root: Path = Path(), dtype: torch.dtype = torch.float32) -> AutoencoderTiny:
    """A small autoencoder with random weights, as `blank_prior`: of TINY_VAES, or of a folder."""
    config = TINY_VAES[name] if name in TINY_VAES else _read(root / name, TINY_VAES)
    return _frozen(AutoencoderTiny.from_config(config), dtype)


def _frozen(network: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    return torch.nn.Module.to(network, dtype).requires_grad_(False).eval()  # diffusers' own warns of each call
