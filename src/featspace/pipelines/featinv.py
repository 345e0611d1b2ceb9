"""FeatInv's decoder as a diffusers pipeline: `FeatInvPipeline.from_pretrained(...)(maps)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from featspace.methods.saved import as_saved
from featspace.pipelines.controlnet import FeatureControlNet
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.pipelines.inputs import check_output_type, generator_of_each, to_output
from featspace.utils.errors import FeatspaceError

PROMPT = "a high-quality, detailed, and professional image"
"""The published one."""


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
        conditioning: Tensor,
        prompt: str = PROMPT,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.75,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[FeatInvPipeline, int, int, dict], dict | None] | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Images of feature maps `conditioning` (N, C, h, w), or of pooled features (N, D, 1, 1), by DDIM.

        The noise prediction is ε_θ(z, c, "") + s·(ε_θ(z, c, prompt) − ε_θ(z, c, "")), with c the conditioning and s =
        `guidance_scale`; for s = 1 or an empty prompt one prediction a step. `generator`: one a sample makes an image
        independent of its batch. `output_type`: "pil" for images, "pt" for a tensor (N, 3, H, W) and "np" for an array
        (N, H, W, 3) in [0, 1], on the levels of an 8-bit file, or "latent" for the latents (N, C, h, w).
        `callback_on_step_end(pipeline, index, timestep, {"latents"})`: "latents" of the dict that it returns, if any,
        take the place of those given. Raises UsageError for another output type, FeatspaceError for conditioning of
        another number of channels, or not finite.
        """
        check_output_type(output_type)
        channels = self.controlnet.config.conditioning_channels
        if conditioning.ndim != 4 or conditioning.shape[1] != channels:
            given = f"conditioning of shape {list(conditioning.shape[1:])}"
            raise FeatspaceError(f"{given}: this ControlNet takes {channels} channels")
        if not torch.isfinite(conditioning).all():
            raise FeatspaceError("the conditioning holds NaN or infinity: extract it anew")
        generators = generator_of_each(generator, len(conditioning))
        conditional, empty = self.prior(prompt), self.prior("")
        noise = [torch.randn(empty.latent_shape, generator=g, device=g.device if g else "cpu") for g in generators]
        device = self._execution_device
        z, conditioning = torch.stack([each.to(device) for each in noise]), conditioning.to(device)
        scheduler = DDIMScheduler.from_config(self.scheduler.config, clip_sample=False)
        scheduler.set_timesteps(num_inference_steps)
        for index, t in enumerate(self.progress_bar(scheduler.timesteps.tolist())):
            out = self.predict(z, t, conditioning, conditional.prompt)
            if guidance_scale != 1 and prompt:
                plain = self.predict(z, t, conditioning, empty.prompt)
                out = plain + guidance_scale * (out - plain)
            z = scheduler.step(out, t, z).prev_sample
            if callback_on_step_end is not None:
                z = (callback_on_step_end(self, index, t, {"latents": z}) or {}).get("latents", z)
        images = z if output_type == "latent" else to_output(as_saved(empty.decode(z)), output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    def predict(self, z: Tensor, t: int | Tensor, conditioning: Tensor, context: Tensor) -> Tensor:
        """The UNet's output (N, C, h, w) for latents z at timestep t, with the ControlNet's residuals added.

        `context` is a text's last hidden state, (1 or N, L, D).
        """
        return controlled(self.unet, self.controlnet, z, t, conditioning, context)


def controlled(unet, controlnet, z: Tensor, t: int | Tensor, conditioning: Tensor, context: Tensor) -> Tensor:
    """The output of `unet` with the residuals of `controlnet`, in the precision of z."""
    context = context.expand(len(z), -1, -1)
    inner = getattr(controlnet, "module", controlnet)  # of a wrapper for several GPUs
    down, middle = controlnet(
        z.to(inner.dtype), t, context.to(inner.dtype), conditioning.to(inner.dtype), return_dict=False
    )
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
