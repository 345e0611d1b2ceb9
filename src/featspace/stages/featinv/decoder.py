"""An encoder with its ControlNet, opened as a profile describes them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from featspace.config.featinv import ControlNetParams
from featspace.config.params import Params, Profile
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.pipelines.controlnet import Pairing, load_controlnet
from featspace.pipelines.featinv import FeatInvPipeline
from featspace.pipelines.loading import load_pipeline
from featspace.priors.prior import Prior
from featspace.utils.errors import UsageError, enough_memory


class FeatInv:
    """An encoder with its ControlNet, as a profile describes them: photographs or maps in, images out."""

    def __init__(self, params: Params, profile: Profile, name: str, device: torch.device, folder: Path | None = None):
        """`name` is one of `profile.featinv.controlnets`; `folder` stands in for the one that is named there.

        Raises UsageError for another name, FeatspaceError if networks are missing or do not belong together.
        """
        self.settings, self.name = profile.featinv, name
        self.own = controlnet_params(profile, name)
        self.encoder = open_encoder(params, self.own).to(device)
        prior, self.resolution = prior_of(profile)
        base = load_pipeline(prior, params.root, self.settings.precision, device)
        for part in (base.unet, base.vae, base.text_encoder):
            part.requires_grad_(False).eval()
        wanted = Pairing.of(prior, base.unet, self.own.network, self.encoder)
        controlnet, _ = load_controlnet(folder or params.root / self.own.folder, wanted)
        torch.nn.Module.to(controlnet, device, base.unet.dtype)
        self.pipeline = FeatInvPipeline(**base.components, controlnet=controlnet.to(memory_format=torch.channels_last))
        self.pipeline.set_progress_bar_config(disable=True)  # its batches have one
        self.device = device

    @property
    def prior(self) -> Prior:
        return self.pipeline.prior()

    def decode(self, conditioning: Tensor, seeds: list[int]) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the CPU, of conditioning (N, C, h, w); image i has seed i in any batch.

        Raises FeatspaceError, which names the batch, where memory is short.
        """
        parts = []
        indices = torch.arange(len(conditioning)).split(self.settings.batch)
        for part in tqdm(indices, desc=f"featinv {self.name}", unit="batch", disable=len(indices) < 2):
            many = f"on {self.device} with {len(part)} images at once, of {self.resolution}x{self.resolution} pixels"
            with enough_memory(many, f"lower featinv.batch, which is {self.settings.batch}"):
                (images,) = self.pipeline(
                    conditioning[part],
                    self.settings.prompt,
                    self.settings.steps,
                    self.settings.guidance_scale,
                    generator=[torch.Generator().manual_seed(seeds[i]) for i in part.tolist()],
                    output_type="pt",
                    return_dict=False,
                )
            parts.append(images.cpu())
        return torch.cat(parts)


def controlnet_params(profile: Profile, name: str) -> ControlNetParams:
    """Raises UsageError, which lists the profile's ControlNets, if there is none of that name."""
    known = profile.featinv.controlnets
    if name not in known:
        there = f"there are {', '.join(known)}" if known else "featinv.controlnets is empty"
        raise UsageError(f"ControlNet {name!r} is not in the profile; {there}")
    return known[name]


def open_encoder(params: Params, own: ControlNetParams) -> Encoder:
    """The encoder whose maps a ControlNet takes, on the CPU."""
    return load_encoder(own.network, params.root, layer=own.layer, input_size=own.input_size)


def prior_of(profile: Profile) -> tuple[str, int]:
    """The prior's name and the images' pixels a side."""
    return profile.featinv.prior or profile.prior, profile.featinv.resolution or profile.resolution
