"""The guided decoder as a diffusers pipeline: `FeatureDecodingPipeline.from_pretrained(...)(features, encoder)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from featspace.hub import is_published, resolve
from featspace.hub.sources import PRIORS
from featspace.methods.copies import RandomCopies
from featspace.methods.distance import FeatureDistance, as_saved
from featspace.methods.noise_optimization import fast_decode
from featspace.methods.self_recurrence import Decoded, Evaluation, Schedule, guided_decode
from featspace.priors.prior import Prior
from featspace.utils.errors import FeatspaceError, UsageError, explained

SAFELY = {"use_safetensors": True, "local_files_only": True}


@dataclass
class FeatureDecodingOutput(BaseOutput):
    """Decoded images and how near their features came."""

    images: list[Image.Image] | np.ndarray | torch.Tensor
    """The nearest image of each sample: PIL images, or (N, H, W, 3) NumPy, or (N, 3, H, W) tensor, in [0, 1]."""
    distances: torch.Tensor
    """Squared Euclidean distance of each image's feature to its target, (N,)."""
    decoded: Decoded
    """Everything else: the image of the last latent, where the best was seen, the trace."""


class FeatureDecodingPipeline(DiffusionPipeline):
    """Decodes features of any encoder into images, guided by a Stable-Diffusion-shaped prior (arXiv 2509.07936)."""

    model_cpu_offload_seq = None  # what is needed backward cannot leave the device meanwhile

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
    ):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def prior(self, prompt: str = "") -> Prior:
        """The prior under a prompt; the empty one is the unconditional model."""
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        context = self.text_encoder(tokens.input_ids.to(self._execution_device))[0]
        return Prior(self.unet, self.vae, context, self.scheduler)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def __call__(
        self,
        features: torch.Tensor,
        encoder: Callable[[torch.Tensor], torch.Tensor],
        *,
        prompt: str = "",
        preset: str = "fast",
        evaluations: int = 128,
        stop_at: float | None = None,
        tiny_vae: AutoencoderTiny | None = None,
        copies: bool = True,
        steps: int = 1000,
        recurrences: int = 8,
        emphasis_steps: int = 5,
        emphasis_recurrences: int = 1000,
        guidance_weight: float = 4.0,
        clip_std: float | None = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback_on_step_end: Callable[[FeatureDecodingPipeline, int, int, dict], None] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> FeatureDecodingOutput | tuple:
        """Decodes `features` (N, D), one image each; for several images of a feature repeat its row.

        `encoder` maps images (N, 3, H, W) in [0, 1] to (N, D), differentiably. `preset` is "fast" (`fast.fast_decode`:
        `evaluations`, `stop_at`; `tiny_vae`, a small autoencoder of the same latents to guide through while noise is
        high; `copies`, whether a random copy of each image has to match, too, unlike for a map, which says where things
        are) or "paper" (`guidance.guided_decode`: `steps` to `clip_std`, by default the published 12,960 evaluations).

        `generator`: one a sample makes an image independent of its batch. After each guided evaluation
        `callback_on_step_end(pipeline, index, timestep, {"latents", "distance_before", "distance_after", "guided"})` is
        called. `output_type` is "pil", "np" or "pt". Under `torch.no_grad()` or in inference mode it guides as well.

        Raises UsageError for features of another shape and for a preset, budget, schedule, weight or output type out
        of range, FeatspaceError for features that are not finite, or an encoder whose own are of another shape or
        without a gradient.
        """
        if preset not in ("fast", "paper"):
            raise UsageError(f"preset is {preset!r}: it must be fast or paper")
        if output_type not in ("pil", "np", "pt"):
            raise UsageError(f"output_type is {output_type!r}: it must be pil, np or pt")
        if not 0 <= guidance_weight < math.inf:
            raise UsageError(f"guidance_weight is {guidance_weight}: it must be a number and at least 0")
        if stop_at is not None and math.isnan(stop_at):
            raise UsageError("stop_at is NaN: it must be a number, a squared distance")
        if features.ndim != 2:
            shape = list(features.shape)
            raise UsageError(
                f"features of shape {shape}: it must be (N, D), a row an image; for one take features[None]"
            )
        if not torch.isfinite(features).all():
            raise FeatspaceError("the target feature holds NaN or infinity: extract it anew")
        generators = generator if isinstance(generator, list) else [generator] * len(features)
        if len(generators) != len(features):
            raise UsageError(f"{len(generators)} generators for {len(features)} features: give one, or one a feature")
        prior, device, width = self.prior(prompt), self._execution_device, features.shape[1]

        def draw_noise() -> torch.Tensor:
            rows = [torch.randn(prior.latent_shape, generator=g, device=g.device if g else "cpu") for g in generators]
            return torch.stack([row.to(device) for row in rows])

        def encode(images: torch.Tensor) -> torch.Tensor:
            found = encoder(images)
            if found.shape != (len(images), width):
                given = f"{list(found.shape)} for {len(images)} images, but the targets have {width} numbers each"
                raise FeatspaceError(f"the encoder's features are of shape {given}; decode features of this encoder")
            if images.requires_grad and not found.requires_grad:
                raise FeatspaceError("the encoder's features have no gradient; encode without no_grad and detach")
            return found

        def observe(step: Evaluation) -> None:
            seen = {key: getattr(step, key) for key in ("latents", "distance_before", "distance_after", "guided")}
            callback_on_step_end(self, step.index, step.timestep, seen)

        for module in (self.unet, self.vae, self.text_encoder):
            module.requires_grad_(False).eval()
        distance = FeatureDistance(encode, features.detach().to(device, copy=True))
        callback = observe if callback_on_step_end else None
        if preset == "fast":
            preview = None if tiny_vae is None else prior.through(tiny_vae.requires_grad_(False).eval()).decode
            decoded = fast_decode(
                prior.predict_noise,
                prior.decode,
                distance.encode,
                distance.targets,
                draw_noise,
                prior.alpha_bars,
                evaluations,
                RandomCopies(generators) if copies else None,
                stop_at,
                callback,
                preview,
            )
        else:
            networks = prior.predict_noise, prior.decode, distance, draw_noise
            schedule = Schedule.spaced(prior.alpha_bars, steps, recurrences, emphasis_steps, emphasis_recurrences)
            decoded = guided_decode(*networks, schedule, guidance_weight, clip_std, callback)
        images = as_saved(decoded.images)
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        if not return_dict:
            return images, decoded.distances, decoded
        return FeatureDecodingOutput(images, decoded.distances, decoded)


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


def _whole(kind: type, folder: Path, source: str, dtype: torch.dtype, **options):
    network, loaded = kind.from_pretrained(folder, output_loading_info=True, dtype=dtype, **options, **SAFELY)
    if loaded["missing_keys"]:  # the libraries would go on with random numbers in their place
        missing = "/".join([*options.values(), min(loaded["missing_keys"])])
        raise FeatspaceError(f"{source}: its weights lack {missing}; get them again")
    return network
