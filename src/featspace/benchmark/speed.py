"""How fast guided decoding is at a profile's shape, on whatever device there is, and what takes the time."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from featspace.config.params import EncoderParams, Profile
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.methods.self_recurrence import Schedule, sample_with_recurrence
from featspace.pipelines.loading import load_pipeline
from featspace.pipelines.problem import problem_of
from featspace.priors.architectures import blank_prior
from featspace.priors.prior import Prior
from featspace.stages.memory import T, evaluation_cost
from featspace.stages.plan import matrix_rate
from featspace.utils.devices import GIB, choose_device, device_name
from featspace.utils.errors import memory_errors
from featspace.utils.tables import write_table

PAPER_EVALUATIONS = 12_960
"""Guided evaluations of an image in the published schedule."""
WARM_UP = 2
"""Evaluations that are not timed: the first compiles, or tunes kernels."""


@dataclass(frozen=True)
class Way:
    """A way to compute the same guided evaluation."""

    name: str
    batch: int
    precision: str
    channels_last: bool
    compiled: bool


def ways(batches: Iterable[int], precision: str, compiled: bool) -> list[Way]:
    """The official implementation's way (float32, one image, PyTorch's defaults), and ours at several batches."""
    ours = [Way("featspace", batch, precision, True, compiled) for batch in batches]
    return [Way("official", 1, "float32", False, False), *ours]


def run_speed(
    profile: Profile,
    batches: Iterable[int],
    out: Path,
    root: Path = Path(),
    *,
    compiled: bool = False,
    evaluations: int = 5,
) -> pd.DataFrame:
    """Times guided evaluations for each encoder of the profile and each way; writes a CSV table.

    The networks are those of the profile in their real shapes, with random weights, as speed does not depend on their
    values; nothing is downloaded. Each way repeats one noise level `evaluations` times. `ms` is the median time of
    an evaluation over the images of a batch, in milliseconds, and `faster` that of the official way over it; `gib` the
    peak of the GPU's memory (empty on a CPU); `rate` the share of the device's measured matrix rate in that precision.
    A way that does not fit the memory has empty values. Raises UsageError and FeatspaceError for networks that are
    not known, or a device that is not there.
    """
    device, precision = choose_device(profile.decode.device), profile.decode.precision
    rates: dict[str, float] = {name: matrix_rate(device, getattr(torch, name)) for name in {"float32", precision}}
    rows = []
    for encoder, settings in profile.encoders.items():
        with torch.device("meta"):
            blank = load_encoder(settings.network, root, weights=False, layer=settings.layer).to("meta")
            flops = evaluation_cost(blank_prior(profile.prior, root), blank).flops
        for way in ways(batches, precision, compiled):
            seconds, gib = _measure(profile.prior, settings, root, way, device, evaluations)
            rows.append(
                {
                    "encoder": encoder,
                    "way": way.name,
                    "batch": way.batch,
                    "precision": way.precision,
                    "compiled": way.compiled,
                    "ms": 1000 * seconds,
                    "gib": gib,
                    "images_per_hour": 3600 / (PAPER_EVALUATIONS * seconds),
                    "rate": flops / seconds / rates[way.precision],
                    "gflop": flops / 1e9,
                    "prior": profile.prior,
                    "device": device_name(device),
                    "torch": torch.__version__,
                }
            )
            took = "out of memory" if seconds != seconds else f"{1000 * seconds:.1f} ms an image"
            peak = "" if gib != gib else f", {gib:.1f} GiB"
            tqdm.write(f"{encoder}, {way.name}, batch {way.batch}: {took}{peak}", file=sys.stderr)
            table = _compared(rows)
            write_table(table, out)  # after each: a device may be lent for minutes
    return table


def _compared(rows: list[dict]) -> pd.DataFrame:
    """The rows, with how many times as fast each is as the official way with the same encoder."""
    table = pd.DataFrame(rows)
    official = table[table["way"] == "official"].set_index("encoder")["ms"]
    table.insert(6, "faster", table["encoder"].map(official) / table["ms"])
    return table


def _measure(
    prior: str, settings: EncoderParams, root: Path, way: Way, device: torch.device, evaluations: int
) -> tuple[float, float]:
    """Seconds of one evaluation of one image, and peak GiB; NaN where memory does not suffice or is not counted."""
    try:
        with device:
            torch.manual_seed(0)
            blank = blank_prior(prior, root, getattr(torch, way.precision))
            encoder = load_encoder(settings.network, root, weights=False, layer=settings.layer).to(device)
        if way.channels_last:
            for part in (blank.unet, blank.vae):
                part.to(memory_format=torch.channels_last)
        if way.compiled:
            blank.unet.compile()
            blank.vae.decode = torch.compile(blank.vae.decode)
        with memory_errors(), _peak(device) as peak:
            seconds = list(_times(blank, encoder, way.batch, device, WARM_UP + evaluations))[WARM_UP:]
    except (torch.OutOfMemoryError, MemoryError):
        return float("nan"), float("nan")
    return statistics.median(seconds) / way.batch, peak[0]


def _times(prior: Prior, encoder: Encoder, batch: int, device: torch.device, count: int) -> Iterator[float]:
    """Seconds of each of `count` guided evaluations of a batch, at one noise level."""
    alpha = float(prior.alphas_cumprod[T])
    schedule = Schedule([T], [alpha], [1 - alpha], [count])
    generators = [torch.Generator(device).manual_seed(seed) for seed in range(batch)]
    problem = problem_of(prior, encoder, torch.zeros(batch, encoder.dim, device=device), generators)
    stamps = [time.perf_counter()]

    def stamp(_) -> None:
        stamps.append(_now(device))

    sample_with_recurrence(problem, schedule, callback=stamp)
    yield from (after - before for before, after in zip(stamps, stamps[1:], strict=False))


def run_shares(
    profile: Profile, out: Path, root: Path = Path(), *, batch: int = 1, evaluations: int = 5
) -> pd.DataFrame:
    """Times the parts of a guided evaluation with the profile's own networks; writes a CSV table.

    One row an encoder and part (unet, vae, encoder), milliseconds an image forward and backward, each the median of
    `evaluations`, and the part's share of their sum. Raises UsageError and FeatspaceError as loading a network does.
    """
    device, rows = choose_device(profile.decode.device), []
    pipeline = load_pipeline(profile.prior, root, profile.decode.precision, device)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
    prior = pipeline.prior()
    for name, settings in profile.encoders.items():
        encoder = load_encoder(settings.network, root, layer=settings.layer).to(device)
        parts: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "unet": lambda z: prior.predict_noise(z, T),
            "vae": prior.decode,
            "encoder": encoder,
        }
        times = [_parts(parts, prior, batch, device) for _ in range(WARM_UP + evaluations)][WARM_UP:]
        for part in parts:
            ms = [1000 * statistics.median(each) / batch for each in zip(*(seen[part] for seen in times), strict=True)]
            rows.append({"encoder": name, "part": part, "batch": batch, "forward_ms": ms[0], "backward_ms": ms[1]})
    table = pd.DataFrame(rows)
    both = table["forward_ms"] + table["backward_ms"]
    table["share"] = both / both.groupby(table["encoder"]).transform("sum")
    table = table.assign(prior=profile.prior, device=device_name(device), torch=torch.__version__)
    write_table(table, out)
    return table


def _parts(
    parts: dict[str, Callable[[torch.Tensor], torch.Tensor]], prior: Prior, batch: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Seconds of each part, forward and backward, of one evaluation; each part's output is the next one's input."""
    x, graph = torch.randn(batch, *prior.latent_shape, device=device), {}
    forward, backward = {}, {}
    for part, function in parts.items():
        x = x.detach().requires_grad_()
        start = _now(device)
        out = function(x)
        forward[part], graph[part], x = _now(device) - start, (x, out), out
    gradient = torch.ones_like(x)
    for part, (inputs, out) in reversed(graph.items()):
        start = _now(device)
        (gradient,) = torch.autograd.grad(out, inputs, gradient)
        backward[part] = _now(device) - start
    return {part: (forward[part], backward[part]) for part in parts}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _peak(device: torch.device) -> Iterator[list[float]]:
    """A list that holds, after the block, the peak of the device's memory in GiB; NaN on a CPU."""
    peak = [float("nan")]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak[0] = torch.cuda.max_memory_allocated(device) / GIB
