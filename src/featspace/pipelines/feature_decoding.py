"""The guided decoder as a diffusers pipeline: `FeatureDecodingPipeline.from_pretrained(...)(features, encoder)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from featspace.methods import METHODS, evaluations_of
from featspace.methods.problem import Decoded, Evaluation, Method
from featspace.methods.saved import as_saved
from featspace.pipelines.inputs import check_output_type, check_setting, generator_of_each, to_output
from featspace.pipelines.problem import problem_of
from featspace.priors.prior import Prior
from featspace.utils.errors import FeatspaceError, UsageError, memory_errors, suggest
from featspace.utils.images import square, to_tensor


@dataclass
class FeatureDecodingOutput(BaseOutput):
    """Decoded images and how near their features came."""

    images: list[Image.Image] | np.ndarray | Tensor
    """The nearest image of each sample: PIL images, or (N, H, W, 3) NumPy, or (N, 3, H, W) tensor, in [0, 1]; or the
    last latents."""
    distances: Tensor
    """Squared Euclidean distance of each image's feature to its target, (N,)."""
    decoded: Decoded
    """Everything else: the image of the last latent, where the best was seen, the trace."""


class FeatureDecodingPipeline(DiffusionPipeline):
    """Decodes features of any encoder into images, guided by a Stable-Diffusion-shaped prior (arXiv 2509.07936)."""

    model_cpu_offload_seq = "text_encoder"
    _exclude_from_cpu_offload = ["unet", "vae"]  # what is needed backward cannot leave the device meanwhile

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

    @memory_errors()
    @torch.inference_mode(False)
    @torch.enable_grad()
    def __call__(
        self,
        targets: Tensor | Image.Image | list[Image.Image],
        encoder: Callable[[Tensor], Tensor],
        method: str | Method = "fast",
        num_inference_steps: int | None = None,
        *,
        prompt: str = "",
        copies: bool = True,
        tiny_vae: AutoencoderTiny | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[FeatureDecodingPipeline, int, int, dict], dict | None] | None = None,
        **settings: Any,
    ) -> FeatureDecodingOutput | tuple:
        """Decodes features, one image each; for several images of a feature repeat its row.

        `targets`: features (N, D), or an image or images, whose features are decoded: their centered square, at the
        prior's size. `encoder` maps images (N, 3, H, W) in [0, 1] to (N, D), differentiably.

        `method`: one of `methods.METHODS`, such as "fast" (noise optimization) or "paper" (self-recurrence, by default
        the published 12,960 evaluations), or such a function; `settings` are its own, such as `stop_at`.
        `num_inference_steps`: the guided evaluations of an image, of "paper" the noise levels. `tiny_vae`, a small
        autoencoder of the same latents, is guided through while noise is high; `copies`: whether a random copy of each
        image has to match, too, unlike for a map, which says where things are.

        `generator`: one a sample makes an image independent of its batch. After each guided evaluation
        `callback_on_step_end(pipeline, index, timestep, {"latents", "estimates", "distance_before", "distance_after",
        "guided"})` is called, "estimates" being x̂, (N, 3, H, W) in [0, 1], where the method decodes it;
        "latents" of the dict that it returns, if any, take the place of those given. `output_type` is "pil", "np", "pt"
        or "latent", the last latents (N, C, h, w). Under `torch.no_grad()` or in inference mode it guides as well.

        Raises UsageError for features of another shape and for a method, setting or output type that there is not or
        that is out of range, FeatspaceError for features that are not finite, or an encoder whose own are of another
        shape or without a gradient; MemoryError on a CPU, and torch.OutOfMemoryError on a GPU, whose memory is short.
        """
        check_output_type(output_type)
        if not callable(encoder):
            raise UsageError(f"encoder is {encoder!r}: it must be a function of images, as load_encoder gives")
        prior, device = self.prior(prompt), self._execution_device
        features = self.features(targets, encoder)
        generators = generator_of_each(generator, len(features))
        decode, settings = self._method(method, num_inference_steps, settings)
        for module in (self.unet, self.vae, self.text_encoder, *([tiny_vae] if tiny_vae is not None else [])):
            module.requires_grad_(False).eval()
        features = features.detach().to(device, copy=True)
        problem = problem_of(prior, _checked(encoder, features.shape[1]), features, generators, copies, tiny_vae)

        def observe(step: Evaluation) -> Tensor | None:
            bar.update()
            if callback_on_step_end is None:
                return None
            seen = {key: getattr(step, key) for key in ("distance_before", "distance_after", "guided")}
            seen["latents"] = step.next_latents
            seen["estimates"] = None if step.images is None else as_saved(step.images)
            returned = callback_on_step_end(self, step.index, step.timestep, seen)
            latents = (returned or {}).get("latents")
            if latents is not None and latents.shape != step.latents.shape:
                shapes = f"{list(latents.shape)}, not {list(step.latents.shape)}"
                raise UsageError(f"the callback returned latents of shape {shapes}: return as many")
            return latents

        with self.progress_bar(total=evaluations_of(decode, prior.alphas_cumprod, settings)) as bar:
            decoded = decode(problem, callback=observe, **settings)
        images = decoded.latents if output_type == "latent" else to_output(as_saved(decoded.images), output_type)
        if not return_dict:
            return images, decoded.distances, decoded
        return FeatureDecodingOutput(images, decoded.distances, decoded)

    @torch.no_grad()
    def features(self, targets: Any, encoder: Callable[[Tensor], Tensor]) -> Tensor:
        """The features (N, D) of images, of their centered squares at the prior's size; features stay as they are.

        Raises UsageError for what is neither, FeatspaceError for features that are not finite.
        """
        if not isinstance(targets, Tensor):
            images = targets if isinstance(targets, list) else [targets]
            if not images or not all(isinstance(image, Image.Image) for image in images):
                raise UsageError("targets are neither a tensor of features nor PIL images: give one of them")
            side = self.prior().image_size
            batch = torch.stack([to_tensor(square(image.convert("RGB"), side)) for image in images])
            targets = encoder(batch.to(self._execution_device))
        if targets.ndim != 2 or not targets.numel():
            shape = list(targets.shape)
            raise UsageError(
                f"features of shape {shape}: it must be (N, D), a row an image; for one take features[None]"
            )
        if not targets.is_floating_point():
            raise UsageError(f"features of {targets.dtype}: they must be floats; take features.float()")
        if not torch.isfinite(targets).all():
            raise FeatspaceError("the target feature holds NaN or infinity: extract it anew")
        return targets

    @staticmethod
    def _method(method: str | Method, steps: int | None, settings: dict[str, Any]) -> tuple[Method, dict[str, Any]]:
        """The method, and its settings, checked against what it takes."""
        if isinstance(method, str):
            if method not in METHODS:
                raise UsageError(f"no method {method!r}{suggest(method, METHODS)}; there are: {', '.join(METHODS)}")
            method = METHODS[method]
        if not callable(method):
            raise UsageError(f"method is {method!r}: it must be a name or a function; there are: {', '.join(METHODS)}")
        parameters = inspect.signature(method).parameters
        known = parameters.keys() - {"problem", "callback"}
        if steps is not None:
            settings = settings | {"evaluations" if "evaluations" in known else "steps": steps}
        if unknown := sorted(settings.keys() - known):
            there = f"it takes {', '.join(sorted(known))}"
            raise UsageError(f"{unknown[0]} is no setting of this method{suggest(unknown[0], known)}; {there}")
        for name, value in settings.items():
            check_setting(name, value, parameters[name].default)
        return method, settings


def _checked(encoder: Callable[[Tensor], Tensor], width: int) -> Callable[[Tensor], Tensor]:
    """The encoder, which refuses features that cannot be guided to ones of `width` numbers."""

    def encode(images: Tensor) -> Tensor:
        found = encoder(images)
        if not isinstance(found, Tensor):
            raise FeatspaceError(f"the encoder gives a {type(found).__name__}, not a tensor (N, D); take that of it")
        if found.shape != (len(images), width):
            given = f"{list(found.shape)} for {len(images)} images, but the targets have {width} numbers each"
            raise FeatspaceError(f"the encoder's features are of shape {given}; decode features of this encoder")
        if images.requires_grad and not found.requires_grad:
            raise FeatspaceError("the encoder's features have no gradient; encode without no_grad and detach")
        return found

    return encode
