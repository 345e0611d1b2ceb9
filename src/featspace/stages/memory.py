"""What a guided evaluation takes, in operations and memory, and how to do with less memory."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from featspace.encoders.encoder import Encoder
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.priors.prior import Prior
from featspace.utils.devices import GIB, free_memory
from featspace.utils.errors import FeatspaceError, one_line

T = 500
"""A timestep: what an evaluation costs is the same at each."""

USABLE = 0.85
"""Share of the free memory that kept activations may take; the rest is for what is there for a moment."""


@dataclass(frozen=True)
class Cost:
    """Of one guided evaluation of one image."""

    flops: int
    """Floating-point operations of UNet, VAE and encoder, forward and backward, a multiplication and an addition each
    counted, in matrix products, convolutions and attention."""
    weights: int
    """Bytes of all weights."""
    kept: int
    """Bytes of the activations that the backward pass needs."""


def evaluation_cost(prior: Prior, encoder: nn.Module, preset: str = "paper", copies: bool = False) -> Cost:
    """Runs one guided evaluation of `prior` and `encoder` (images in [0, 1] → features, (N, D)).

    In the preset paper the corrected estimate is decoded and scored once more. With `copies` a random copy of the image
    passes the encoder, too, as in all but the last evaluations of the preset fast.
    Meant for networks on the meta device, where tensors have shapes but no values: that takes seconds and no memory.
    """
    tensors = [p for network in (prior.unet, prior.vae, encoder) for p in (*network.parameters(), *network.buffers())]
    weights = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
    device = prior.unet.device
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    z = torch.zeros(1, *prior.latent_shape, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            # A copy, as the counter cannot follow the gradient of a leaf that a module is given.
            clean = z - prior.predict_noise(z.clone(), T)
            image = prior.decode(clean).clamp(0, 1)
            loss = encoder(image).sum() + (encoder(image.flip(-1)).sum() if copies else 0)
        torch.autograd.grad(loss, z)
        if preset == "paper":
            with torch.no_grad():
                encoder(prior.decode(clean).clamp(0, 1))
    return Cost(
        flops=counter.get_total_flops(),
        weights=sum(tensor.untyped_storage().nbytes() for tensor in weights.values()),
        kept=sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights),
    )


def takes_copies(encoder: Encoder, preset: str) -> bool:
    """Whether a random copy of the image is to match as well: not where the feature says where things are."""
    return preset == "fast" and len(encoder.shape) == 1


def fitting_batch(prior: Prior, encoder: Encoder, free: int, batch: int, preset: str = "paper") -> int:
    """How many images to decode at once, at most `batch`, so that a guided evaluation fits `free` bytes.

    0 means that not even one does with all activations kept. The networks are on the CPU or a GPU; their own weights
    are not counted, as they are there already.
    """
    return min(batch, int(USABLE * free // _kept(prior, encoder, preset)))


def check_memory(prior: Prior, encoder: Encoder, free: int, preset: str = "paper") -> None:
    """Raises FeatspaceError if not even one image's guided evaluation fits `free` bytes: a CPU would just kill it."""
    kept = _kept(prior, encoder, preset)
    if kept > free:
        height, width = encoder.input_size
        raise FeatspaceError(
            f"{encoder.network}: to guide one image through it, at its {width}x{height} pixels, takes "
            f"{kept / GIB:.2g} GiB with activations recomputed, but {free / GIB:.2g} GiB are free; take a network or a "
            "prior of smaller images, or a device with more memory"
        )


def _kept(prior: Prior, encoder: Encoder, preset: str) -> int:
    """Bytes of activations that one image's guided evaluation keeps, of networks on any device."""
    blank = copy.copy(prior)
    blank.unet, blank.vae, blank.prompt = _shapes_of(prior.unet), _shapes_of(prior.vae), prior.prompt.to("meta")
    return evaluation_cost(blank, _shapes_of(encoder), preset, takes_copies(encoder, preset)).kept


def _shapes_of(network: nn.Module) -> nn.Module:
    """A copy on the meta device, which takes no memory."""
    memo: dict[int, torch.Tensor] = {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    memo |= {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in network.parameters()}
    return copy.deepcopy(network, memo)


def batch_in_memory(pipeline: FeatureDecodingPipeline, encoder: Encoder, most: int, preset: str) -> int:
    """How many images to decode at once, at most `most`, in the memory that is free; says so if they are fewer.

    Where not even one fits, activations are computed twice. Raises as `check_memory` does.
    """
    free = free_memory(pipeline.device)
    batch = fitting_batch(pipeline.prior(), encoder, free, most, preset)
    if batch == 0:
        batch = recompute(pipeline)
        check_memory(pipeline.prior(), encoder, free, preset)
    if batch < most:
        said = f"memory for {batch} instead of {most} images at once, which changes them by rounding"
        tqdm.write(said, file=sys.stderr)
    return batch


def spare_memory(pipeline: FeatureDecodingPipeline, batch: int, error: Exception) -> int:
    """The batch to try after `batch` images were too many; for one, lets activations be computed twice instead of kept.

    Raises FeatspaceError if that has been tried too.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if batch > 1:
        tqdm.write(
            f"out of memory with {batch} images at once: going on with {batch // 2}, which changes them by rounding",
            file=sys.stderr,
        )
        return batch // 2
    if pipeline.unet.is_gradient_checkpointing:
        side = pipeline.prior().image_size
        raise FeatspaceError(
            f"out of memory on {pipeline.device} even with one image at once, recomputing activations "
            f"({one_line(error)}); its images have {side}x{side} pixels: take a prior of smaller ones, a smaller "
            "network, or a device with more memory"
        ) from error
    return recompute(pipeline)


def recompute(pipeline: FeatureDecodingPipeline) -> int:
    """Has activations computed twice instead of kept; returns the batch to try then, 1."""
    tqdm.write("too little memory for one image: recomputing activations in the backward pass", file=sys.stderr)
    for network in (pipeline.unet, pipeline.vae):
        network.enable_gradient_checkpointing()
    return 1
