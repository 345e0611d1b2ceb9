"""What a decoding will cost, known before any weight is loaded: operations, memory, time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from featspace.config.params import DecodeParams, EncoderParams, Params, Profile
from featspace.data.features import count_features
from featspace.encoders.encoder import load_encoder
from featspace.methods import METHODS, evaluations_of
from featspace.methods.noise_optimization import visits
from featspace.priors.architectures import blank_prior, blank_tiny_vae
from featspace.stages.memory import evaluation_cost, takes_copies
from featspace.stages.shards import WHOLE, Shard, batches_of
from featspace.utils.devices import GIB, choose_device, device_name, free_memory
from featspace.utils.errors import FeatspaceError

UTILIZATION = 0.4
"""Share of the matrix rate that guided decoding reaches: rough, for estimates; `featspace speed` measures it."""


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


def describe(
    params: Params,
    profile: Profile,
    encoder: EncoderParams,
    sources: Sequence[Path],
    texts: Sequence[str],
    decode: DecodeParams,
    only: Sequence[str] = (),
    shard: Shard = WHOLE,
) -> Iterator[str]:
    """Lines that say what it will take to decode `sources` and `texts`: evaluations, operations, memory, time.

    `only`: of their targets those with these ids, by default all; of these the `shard`.

    No weights are loaded. Raises UsageError and FeatspaceError for networks that are not known, and for what
    `decode.run_decode` would not decode.
    """
    dtype = getattr(torch, decode.precision)
    with torch.device("meta"):
        prior = blank_prior(profile.prior, params.root, dtype)
        network = load_encoder(encoder.network, params.root, weights=False, layer=encoder.layer).to("meta")
        copies = takes_copies(network, decode.preset)
        cost = evaluation_cost(prior, network, decode.preset, copies)
    prior.check_resolution(profile.resolution)
    count = count_features(sources, texts, network)
    sizes = [len(batch) for batch in batches_of([""] * (len(set(only)) or count), decode, shard).values()]
    images = sum(sizes)
    evaluations = evaluations_of(METHODS[decode.preset], prior.alphas_cumprod, decode.options)
    flops: float = cost.flops
    if decode.preset == "fast" and decode.tiny_vae:
        with torch.device("meta"):
            tiny = prior.with_vae(blank_tiny_vae(decode.tiny_vae, params.root, dtype))
            small = evaluation_cost(tiny, network, decode.preset, copies).flops
        planned = visits(prior.alphas_cumprod, evaluations)
        share = sum(t != planned[-1] for t in planned) / len(planned)
        flops = share * small + (1 - share) * flops
    total = images * evaluations * flops
    yield f"images       {images}"
    yield f"evaluations  {evaluations:,} an image, each {_flop(flops)}; the prior in {decode.precision}"
    yield (
        f"memory       {cost.weights / GIB:.2f} GiB of weights, and {cost.kept / GIB:.2f} GiB for each image at once, "
        f"at most {max(sizes, default=0)}; fewer where memory is short"
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
