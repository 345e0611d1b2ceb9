"""What a decoding will cost, known before any weight is loaded: operations, memory, time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from featspace.config.params import DecodeParams, EncoderParams, Params, Profile
from featspace.data.features import count_features
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.methods.noise_optimization import visits
from featspace.methods.self_recurrence import Schedule
from featspace.priors.architectures import blank_prior, blank_tiny_vae
from featspace.priors.prior import Prior
from featspace.utils.devices import GIB, choose_device, device_name, free_memory
from featspace.utils.errors import FeatspaceError

T = 500
"""A timestep: what an evaluation costs is the same at each."""
UTILIZATION = 0.4
"""Share of the matrix rate that guided decoding reaches: rough, for estimates; `featspace speed` measures it."""
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


def evaluation_cost(
    prior: Prior, encoder: Callable[[torch.Tensor], torch.Tensor], preset: str = "paper", copies: bool = False
) -> Cost:
    """Runs one guided evaluation of `prior` and `encoder` (a module: images in [0, 1] → features, (N, D)).

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
            clean = z - prior.predict_noise(z.clone(), torch.tensor(T, device=device))
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


def evaluations_of(decode: DecodeParams, alpha_bars: torch.Tensor) -> int:
    """Guided evaluations of one image, at most; `alpha_bars` is the prior's schedule, (T,)."""
    if decode.preset == "fast":
        return decode.evaluations
    return Schedule.spaced(alpha_bars, **decode.options).evaluations


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
    memo = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in network.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    return copy.deepcopy(network, memo)


def describe(
    params: Params,
    profile: Profile,
    encoder: EncoderParams,
    sources: Sequence[Path],
    texts: Sequence[str],
    decode: DecodeParams,
) -> Iterator[str]:
    """Lines that say what it will take to decode `sources` and `texts`: evaluations, operations, memory, time.

    No weights are loaded. Raises UsageError and FeatspaceError for networks that are not known, and for what
    `decoding.run_decode` would not decode.
    """
    dtype = getattr(torch, decode.precision)
    with torch.device("meta"):
        prior = blank_prior(profile.prior, params.root, dtype)
        network = load_encoder(encoder.network, params.root, weights=False, layer=encoder.layer).to("meta")
        copies = takes_copies(network, decode.preset)
        cost = evaluation_cost(prior, network, decode.preset, copies)
    prior.check_resolution(profile.resolution)
    images = decode.samples * count_features(sources, texts, network)
    flops, evaluations = cost.flops, evaluations_of(decode, prior.alpha_bars)
    if decode.preset == "fast" and decode.tiny_vae:
        with torch.device("meta"):
            tiny = prior.through(blank_tiny_vae(decode.tiny_vae, params.root, dtype))
            small = evaluation_cost(tiny, network, decode.preset, copies).flops
        planned = visits(prior.alpha_bars, evaluations)
        share = sum(t != planned[-1] for t in planned) / len(planned)
        flops = share * small + (1 - share) * flops
    total = images * evaluations * flops
    yield f"images       {images}"
    yield f"evaluations  {evaluations:,} an image, each {_flop(flops)}; the prior in {decode.precision}"
    yield (
        f"memory       {cost.weights / GIB:.2f} GiB of weights, and {cost.kept / GIB:.2f} GiB for each image at once, "
        f"at most {min(decode.batch, images)}; fewer where memory is short"
    )
    try:
        device = choose_device(decode.device)
    except FeatspaceError as error:
        yield f"device       none: {error}"
        return
    rate, free = matrix_rate(device, dtype), free_memory(device)
    name = f"{device_name(device)}, {free / GIB:.1f} GiB free"
    yield f"device       {name}; measured {_flop(rate)} a second of matrix products"
    yield f"time         about {_duration(total / (UTILIZATION * rate))}, if {UTILIZATION:.0%} of that is reached"


def _flop(count: float) -> str:
    size = tqdm.format_sizeof(count)
    return f"{size[:-1]} {size[-1]}FLOP" if size[-1].isalpha() else f"{size} FLOP"


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
