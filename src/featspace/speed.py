"""How fast guided decoding is at a published shape, on whatever device there is; weights are random."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from featspace.architectures import blank_prior
from featspace.encoders import Encoder, load_encoder
from featspace.guidance import Schedule, guided_decode
from featspace.pipeline import FeatureDistance
from featspace.plan import T, evaluation_cost, matrix_rate, name_of
from featspace.tables import write_table

PAPER_EVALUATIONS = 12_960
"""Guided evaluations of an image in the published schedule."""


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
    architecture: str,
    networks: dict[str, str],
    batches: Iterable[int],
    out: Path,
    root: Path = Path(),
    *,
    precision: str = "bfloat16",
    compiled: bool = True,
    evaluations: int = 5,
) -> pd.DataFrame:
    """Times `evaluations` guided evaluations, after two to warm up, for each network and way; writes a CSV table.

    architecture: what `architectures.blank_prior` takes. networks: name → what `load_encoder` takes; no weights are
    read. A way that does not fit the memory gets a row without times. `ms` is the median time of one evaluation over
    the images of a batch, in milliseconds; `gib` the peak of the device's memory (empty on a CPU); `rate` the share of
    the device's measured matrix rate in that precision.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {name: matrix_rate(device, getattr(torch, name)) for name in {"float32", precision}}
    rows = []
    for name, network in networks.items():
        with torch.device("meta"):
            cost = evaluation_cost(blank_prior(architecture, root), load_encoder(network, root, weights=False))
        for way in ways(batches, precision, compiled):
            seconds, gib = _measure(architecture, network, root, way, device, evaluations)
            row = {
                "encoder": name,
                "way": way.name,
                "batch": way.batch,
                "precision": way.precision,
                "compiled": way.compiled,
                "ms": 1000 * seconds,
                "gib": gib,
                "images_per_hour": 3600 / (PAPER_EVALUATIONS * seconds),
                "rate": cost.flops / seconds / rates[way.precision],
                "gflop": cost.flops / 1e9,
                "architecture": architecture,
                "device": name_of(device),
                "torch": torch.__version__,
            }
            rows.append(row)
            tqdm.write(f"{name:8} {way.name:9} batch {way.batch:2}  {row['ms']:9.1f} ms an image  {gib:5.1f} GiB")
    table = pd.DataFrame(rows)
    first = table["encoder"].map(table[table["way"] == "official"].set_index("encoder")["ms"])
    table.insert(6, "faster", first / table["ms"])
    write_table(table, out)
    return table


def _measure(
    architecture: str, network: str, root: Path, way: Way, device: torch.device, evaluations: int
) -> tuple[float, float]:
    """Seconds of one evaluation of one image, and peak GiB; NaN where memory does not suffice or is not counted."""
    try:
        with device:
            torch.manual_seed(0)
            prior = blank_prior(architecture, root, getattr(torch, way.precision))
            encoder = load_encoder(network, root, weights=False).to(device)
        if way.channels_last:
            for part in (prior.unet, prior.vae):
                part.to(memory_format=torch.channels_last)
        if way.compiled:
            prior.unet.compile()
            prior.vae.decode = torch.compile(prior.vae.decode)
        with _peak(device) as peak:
            seconds = list(_times(prior, encoder, way.batch, device, 2 + evaluations))[2:]
    except (torch.OutOfMemoryError, MemoryError):
        return float("nan"), float("nan")
    return statistics.median(seconds) / way.batch, peak[0]


def _times(prior, encoder: Encoder, batch: int, device: torch.device, count: int) -> Iterator[float]:
    """Seconds of each of `count` guided evaluations of a batch, at one noise level."""
    alpha_bar = float(prior.alpha_bars[T])
    schedule = Schedule([T], [alpha_bar], [1 - alpha_bar], [count])
    generator = torch.Generator(device).manual_seed(0)
    stamps = [time.perf_counter()]

    def stamp(_) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        stamps.append(time.perf_counter())

    guided_decode(
        prior.predict_noise,
        prior.decode,
        FeatureDistance(encoder, torch.zeros(batch, encoder.dim, device=device)),
        lambda: torch.randn(batch, *prior.latent_shape, generator=generator, device=device),
        schedule,
        callback=stamp,
    )
    yield from (after - before for before, after in zip(stamps, stamps[1:], strict=False))


@contextmanager
def _peak(device: torch.device) -> Iterator[list[float]]:
    """A list that holds, after the block, the peak of the device's memory in GiB; NaN on a CPU."""
    peak = [float("nan")]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak[0] = torch.cuda.max_memory_allocated(device) / 2**30
