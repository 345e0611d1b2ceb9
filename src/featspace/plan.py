"""What a decoding will cost, known before any weight is loaded: operations, memory, time."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from featspace.architectures import blank_prior
from featspace.encoders import load_encoder
from featspace.guidance import Schedule
from featspace.params import DecodeParams, EncoderParams, Params, Profile
from featspace.prior import Prior

GIB = 2**30
T = 500
"""A timestep: what an evaluation costs is the same at each."""


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


def evaluation_cost(prior: Prior, encoder: Callable[[torch.Tensor], torch.Tensor]) -> Cost:
    """Runs one guided evaluation of `prior` and `encoder` (a module: images in [0, 1] → features, (N, D)).

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
            clean = z - prior.predict_noise(z.clone(), torch.tensor(T, device=device))
            loss = encoder(prior.decode(clean).clamp(0, 1)).sum()
        torch.autograd.grad(loss, z)
        with torch.no_grad():  # the corrected estimate is decoded and scored once more
            encoder(prior.decode(clean).clamp(0, 1))
    return Cost(
        flops=counter.get_total_flops(),
        weights=sum(tensor.untyped_storage().nbytes() for tensor in weights.values()),
        kept=sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights),
    )


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a large matrix product on this device, measured; the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


UTILIZATION = 0.4
"""Share of the matrix rate that guided decoding reaches: rough, for estimates; `featspace speed` measures it."""


def describe(
    params: Params, profile: Profile, encoder: EncoderParams, images: int, decode: DecodeParams
) -> Iterator[str]:
    """Lines that say what it will take to decode `images` images: evaluations, operations, memory, time.

    Nothing is loaded. Raises UsageError and FeatspaceError for networks that are not known.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, decode.precision)
    with torch.device("meta"):
        prior = blank_prior(profile.prior, params.root, dtype)
        cost = evaluation_cost(prior, load_encoder(encoder.network, params.root, weights=False))
    options = decode.model_dump(include={"steps", "recurrences", "emphasis_steps", "emphasis_recurrences"})
    evaluations = Schedule.spaced(prior.alpha_bars, **options).evaluations
    rate = matrix_rate(device, dtype)
    hours = images * evaluations * cost.flops / (UTILIZATION * rate) / 3600
    batch = min(decode.batch, images)
    memory = cost.weights + batch * cost.kept
    yield f"images       {images}, {batch} at once"
    yield f"evaluations  {evaluations:,} an image, each {cost.flops / 1e12:.3g} TFLOP; the prior in {decode.precision}"
    yield (
        f"memory       about {memory / GIB:.1f} GiB: weights {cost.weights / GIB:.1f}, "
        f"activations {cost.kept / GIB:.2f} an image at once; {_free(device)}"
    )
    yield (
        f"time         about {_duration(hours)}, if {UTILIZATION:.0%} of this device's measured matrix rate "
        f"({rate / 1e12:.3g} TFLOP/s, {name_of(device)}) are reached"
    )


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _free(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.mem_get_info(device)[0] / GIB:.1f} GiB are free on the GPU"
    return "on the CPU"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.0f} seconds"
