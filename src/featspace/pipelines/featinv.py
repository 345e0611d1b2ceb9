"""FeatInv's decoder as a diffusers pipeline: `FeatInvPipeline(...)(hints)`."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from featspace.methods.distance import as_saved
from featspace.pipelines.controlnet import FeatureControlNet
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.utils.errors import FeatspaceError, UsageError

PROMPT = "a high-quality, detailed, and professional image"
"""The published one."""
OUTPUT_TYPES = "pil", "pt", "np", "latent"


class FeatInvPipeline(DiffusionPipeline):
    """Decodes feature maps into images by a ControlNet beside a frozen prior (arXiv 2505.21032, Section 3)."""

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: FeatureControlNet,
        scheduler: SchedulerMixin,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
        )

    prior = FeatureDecodingPipeline.prior

    @torch.no_grad()
    def __call__(
        self,
        hints: Tensor,
        prompt: str = PROMPT,
        guidance_scale: float = 1.75,
        steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
    ):
        """Images of feature maps `hints` (N, C, h, w), or of pooled features (N, D, 1, 1), by `steps` steps of DDIM.

        The noise prediction is ε_θ(z, hint, "") + s·(ε_θ(z, hint, prompt) − ε_θ(z, hint, "")), with s =
        `guidance_scale`; for s = 1 or an empty prompt one prediction a step. `generator`: one a sample makes an image
        independent of its batch. `output_type`: "pil" for images, "pt" for a tensor (N, 3, H, W) and "np" for an array
        (N, H, W, 3) in [0, 1], on the levels of an 8-bit file, or "latent" for the latents (N, C, h, w). Raises
        UsageError for another one, FeatspaceError for hints of another number of channels, or not finite.
        """
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}: it must be one of {', '.join(OUTPUT_TYPES)}")
        channels = self.controlnet.config.conditioning_channels
        if hints.ndim != 4 or hints.shape[1] != channels:
            raise FeatspaceError(f"a hint of shape {list(hints.shape[1:])}: this ControlNet takes {channels} channels")
        if not torch.isfinite(hints).all():
            raise FeatspaceError("a hint holds NaN or infinity: extract it anew")
        generators = generator if isinstance(generator, list) else [generator] * len(hints)
        if len(generators) != len(hints):
            raise UsageError(f"{len(generators)} generators for {len(hints)} hints: give one, or one a hint")
        conditional, empty = self.prior(prompt), self.prior("")
        noise = [torch.randn(empty.latent_shape, generator=g, device=g.device if g else "cpu") for g in generators]
        device = self._execution_device
        z, hints = torch.stack([each.to(device) for each in noise]), hints.to(device)
        scheduler = DDIMScheduler.from_config(self.scheduler.config, clip_sample=False)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps.tolist():
            out = self.predict(z, t, hints, conditional.prompt)
            if guidance_scale != 1 and prompt:
                plain = self.predict(z, t, hints, empty.prompt)
                out = plain + guidance_scale * (out - plain)
            z = scheduler.step(out, t, z).prev_sample
        if output_type == "latent":
            return z
        images = as_saved(empty.decode(z))
        if output_type == "pt":
            return images
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        return pixels if output_type == "np" else self.numpy_to_pil(pixels)

    def predict(self, z: Tensor, t: int | Tensor, hints: Tensor, context: Tensor) -> Tensor:
        """The UNet's output (N, C, h, w) for latents z at timestep t, with the ControlNet's residuals added.

        `context` is a text's last hidden state, (1 or N, L, D).
        """
        return controlled(self.unet, self.controlnet, z, t, hints, context)


def controlled(unet, controlnet, z: Tensor, t: int | Tensor, hints: Tensor, context: Tensor) -> Tensor:
    """The output of `unet` with the residuals of `controlnet`, in the precision of z."""
    context = context.expand(len(z), -1, -1)
    inner = getattr(controlnet, "module", controlnet)  # of a wrapper for several GPUs
    down, middle = controlnet(z.to(inner.dtype), t, context.to(inner.dtype), hints.to(inner.dtype), return_dict=False)
    dtype = unet.dtype
    out = unet(
        z.to(dtype),
        t,
        context.to(dtype),
        down_block_additional_residuals=tuple(each.to(dtype) for each in down),
        mid_block_additional_residual=middle.to(dtype),
        return_dict=False,
    )[0]
    return out.to(z.dtype)
