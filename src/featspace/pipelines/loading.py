"""Priors and small autoencoders, verified and loaded as pipelines."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, UNet2DConditionModel
from transformers import CLIPTextModel, PreTrainedModel

from featspace.hub import is_published, resolve
from featspace.hub.sources import PRIORS
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.utils.errors import FeatspaceError, explained

SAFELY = {"use_safetensors": True, "local_files_only": True}


def load_pipeline(
    prior: str, root: Path = Path(), precision: str = "float32", device: torch.device | str = "cpu"
) -> FeatureDecodingPipeline:
    """A prior's pipeline, verified first.

    `prior` is a folder in Stable Diffusion's layout, or `diffusers:<repo>` (`hub.resolve`); `precision`, float32 or
    bfloat16, that of the UNet and the VAE. Raises FeatspaceError if it or a file of it is missing, altered, a pickle,
    or not such a pipeline.
    """
    folder = resolve(prior, root, {"diffusers": PRIORS["diffusers"]})
    source = prior if is_published(prior, root, PRIORS) else str(folder)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    with explained(source):
        networks = {}
        for part, kind in kinds.items():
            dtype = torch.float32 if part == "text_encoder" else getattr(torch, precision)
            networks[part] = _whole(kind, folder, source, dtype, subfolder=part)
        pipeline = FeatureDecodingPipeline.from_pretrained(folder, **networks, **SAFELY)
    try:
        pipeline.prior()
    except FeatspaceError as error:
        raise FeatspaceError(f"{source}: {error}") from error
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)  # the faster layout for convolutions
    return pipeline.to(device)


def load_tiny_vae(
    name: str, root: Path = Path(), precision: str = "float32", device: torch.device | str = "cpu"
) -> AutoencoderTiny:
    """A small autoencoder of a prior's latents, such as TAESD: a folder, or `autoencoder:<repo>` (`hub.resolve`).

    Raises FeatspaceError as `load_pipeline`.
    """
    folder = resolve(name, root, {"autoencoder": PRIORS["autoencoder"]})
    with explained(name):
        vae = _whole(AutoencoderTiny, folder, name, getattr(torch, precision))
    return vae.to(device, memory_format=torch.channels_last)


def _whole(kind: type[ModelMixin | PreTrainedModel], folder: Path, source: str, dtype: torch.dtype, **options):
    network, loaded = kind.from_pretrained(folder, output_loading_info=True, dtype=dtype, **options, **SAFELY)
    if loaded["missing_keys"]:  # the libraries would go on with random numbers in their place
        missing = "/".join([*options.values(), min(loaded["missing_keys"])])
        raise FeatspaceError(f"{source}: its weights lack {missing}; get them again")
    return network
