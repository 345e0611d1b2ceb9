"""From a file of features, or a photograph, to decoded images on disk: what `featspace decode` does."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from featspace.config.params import DecodeParams, EncoderParams, Params, Profile
from featspace.data.features import gather_features, look
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.methods.distance import as_saved
from featspace.methods.self_recurrence import Decoded
from featspace.metrics.similarity import cosine_similarity, squared_distance
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline, load_pipeline, load_tiny_vae
from featspace.stages.plan import check_memory, evaluations_of, fitting_batch, takes_copies
from featspace.utils.devices import choose_device, free_memory
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.images import read_image, save_png
from featspace.utils.resuming import Unfinished, resumable_dir
from featspace.utils.tables import write_table


def seed_of(seed: int, target: str, sample: int) -> int:
    """The seed of one image's noise, from the run's seed, the target's id and the sample's index."""
    digest = hashlib.sha256(f"{seed}/{target}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed, where it would map and clear every large tensor anew."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap is not given back


def run_decode(
    params: Params,
    profile: Profile,
    encoder: str,
    sources: Iterable[Path],
    texts: Iterable[str],
    out: Path,
    decode: DecodeParams | None = None,
    weight: float | None = None,
    layer: str | None = None,
) -> pd.DataFrame:
    """Decodes every feature of `sources` (photographs, or .safetensors files of features) and of `texts`.

    `encoder` is one of the profile's, or any network; `layer` stands in for its own. Writes into the new folder `out`,
    for each target id and sample k: `<id>-<k>.png`, the nearest image; `<id>-<k>-last.png`, the image of the last
    latent; `<id>.png`, the target as the encoder saw it, where it is a photograph given here; and the tables
    decoded.csv and trace.parquet.
    `decode` and `weight` stand in for the profile's. Returns the former table, whose `saved_distance` (squared) and
    `cosine` are measured again from the images as saved.

    A run that is cut off leaves its finished images in `<out>.unfinished`, and the same run again goes on from there.
    Where memory is short, fewer images are decoded at once. Raises UsageError or FeatspaceError for whatever cannot
    be read or decoded.
    """
    _keep_freed_memory()
    decode = decode or profile.decode
    settings = encoder_params(profile, encoder, layer)
    own = settings.guidance_weight if weight is None else weight
    weight = decode.guidance_weight if own is None else own
    device = choose_device(decode.device)
    network = load_encoder(settings.network, params.root, layer=settings.layer).to(device)
    features, photographs = gather_features(network, sources, texts, profile.resolution)
    identity = {
        "featspace": version("featspace"),
        "decode": decode.model_dump(exclude={"batch"}),
        "encoder": settings.model_dump(),
        "weight": weight,
        "prior": profile.prior,
        "seed": params.seed,
        "features": {name: hashlib.sha256(x.numpy().tobytes()).hexdigest() for name, x in features.items()},
    }
    with resumable_dir(out, identity) as work:
        for name, image in photographs.items():
            save_png(work.folder / f"{name}.png", image)
        pipeline = load_pipeline(profile.prior, params.root, decode.precision, device)
        pipeline.prior().check_resolution(profile.resolution)
        tiny_vae = None
        if decode.preset == "fast" and decode.tiny_vae:
            tiny_vae = load_tiny_vae(decode.tiny_vae, params.root, decode.precision, device)
        jobs = [(name, sample) for name in features for sample in range(decode.samples)]
        waiting = [job for job in jobs if not work.is_finished(_stem(job))]
        evaluations = evaluations_of(decode, pipeline.prior().alpha_bars)
        done = len(jobs) - len(waiting)
        free, batch = free_memory(device), min(decode.batch, len(waiting))
        batch = fitting_batch(pipeline.prior(), network, free, batch, decode.preset)
        if waiting and batch == 0:
            batch = _recompute(pipeline)
            check_memory(pipeline.prior(), network, free, decode.preset)
        total, start = evaluations * len(jobs), evaluations * done
        with tqdm(total=total, initial=start, desc=f"decode {encoder}", unit="evaluation", smoothing=0) as progress:
            while waiting:
                part = waiting[:batch]
                progress.n = evaluations * done  # after a part that did not fit the memory, back to its start
                seeds = [seed_of(params.seed, *job) for job in part]
                try:
                    decoded = pipeline(
                        torch.stack([features[name] for name, _ in part]),
                        network,
                        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                        preset=decode.preset,
                        tiny_vae=tiny_vae,
                        copies=takes_copies(network, decode.preset),
                        guidance_weight=weight,
                        clip_std=settings.clip_std,
                        callback_on_step_end=_Watch(progress, [_stem(job) for job in part]),
                        output_type="pt",
                        **decode.options,
                    ).decoded
                except (torch.OutOfMemoryError, MemoryError) as error:
                    batch = _spare_memory(pipeline, len(part), error)
                    continue
                _save(part, seeds, decoded, work)
                waiting, done = waiting[len(part) :], done + len(part)
        table, trace = work.collect([_stem(job) for job in jobs])
        table = _measured(table, features, network, work.folder)
        write_table(table, work.folder / "decoded.csv")
        trace.to_parquet(work.folder / "trace.parquet", index=False)
        return table


def _stem(job: tuple[str, int]) -> str:
    return f"{job[0]}-{job[1]}"


def _spare_memory(pipeline: FeatureDecodingPipeline, batch: int, error: BaseException) -> int:
    """The batch to try after `batch` images were too many; for one, lets activations be computed twice instead of kept.

    Raises FeatspaceError if that has been tried too.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if batch > 1:
        tqdm.write(f"out of memory with {batch} images at once: going on with {batch // 2}", file=sys.stderr)
        return batch // 2
    if pipeline.unet.is_gradient_checkpointing:
        raise FeatspaceError(
            f"out of memory on {pipeline.device} even with one image at once, recomputing activations "
            f"({one_line(error)}); take a smaller network, or a device with more memory"
        ) from error
    return _recompute(pipeline)


def _recompute(pipeline: FeatureDecodingPipeline) -> int:
    """Has activations computed twice instead of kept; returns the batch to try then, 1."""
    tqdm.write("too little memory for one image: recomputing activations in the backward pass", file=sys.stderr)
    for network in (pipeline.unet, pipeline.vae):
        network.enable_gradient_checkpointing()
    return 1


class _Watch:
    """Moves the progress bar, shows the median of the nearest distances, and names samples that go unguided."""

    LIMIT = 10
    """Evaluations in a row without a finite gradient after which a sample has failed."""

    def __init__(self, progress: tqdm, names: list[str]):
        self.progress, self.names, self.nearest = progress, names, None
        self.failures = torch.zeros(len(names), dtype=torch.int64)

    def __call__(self, _pipeline, _index: int, timestep: int, seen: dict) -> None:
        now = torch.fmin(seen["distance_before"], seen["distance_after"])
        self.nearest = now if self.nearest is None else torch.fmin(self.nearest, now)
        self.progress.set_postfix(t=timestep, distance=f"{self.nearest.median().item():.4g}", refresh=False)
        self.progress.update(len(self.names))
        self.failures = (self.failures + 1) * ~seen["guided"].cpu()
        for index in self.failures.nonzero().flatten().tolist():
            where = f"{self.names[index]}: the guidance gradient is not finite at timestep {timestep}"
            if self.failures[index] >= self.LIMIT:
                raise FeatspaceError(
                    f"{where}, for {self.LIMIT} evaluations in a row; check the target feature and the encoder, or "
                    "decode in float32"
                )
            if self.failures[index] == 1:
                tqdm.write(f"{where}: left unguided there", file=sys.stderr)


def encoder_params(profile: Profile, encoder: str, layer: str | None = None) -> EncoderParams:
    """The profile's settings of an encoder, or default ones for a network that is named directly.

    `layer`, if given, stands in for the encoder's own.
    """
    change = {} if layer is None else {"layer": layer}
    if encoder not in profile.encoders and (":" in encoder or Path(encoder).is_dir()):
        network = encoder if ":" in encoder else str(Path(encoder).resolve())
        return EncoderParams(network=network, **change)
    return profile.encoder(encoder).model_copy(update=change)


def _save(part: list[tuple[str, int]], seeds: list[int], decoded: Decoded, work: Unfinished) -> None:
    images, last = as_saved(decoded.images), as_saved(decoded.last_images)
    for i, (name, sample) in enumerate(part):
        stem = _stem((name, sample))
        save_png(work.folder / f"{stem}.png", images[i])
        save_png(work.folder / f"{stem}-last.png", last[i])
        row = {
            "id": name,
            "sample": sample,
            "seed": seeds[i],
            "evaluations": decoded.evaluations[i].item(),
            "unguided": decoded.unguided[i].item(),
            "distance": decoded.distances[i].item(),
            "t": decoded.timesteps[i].item(),
            "recurrence": decoded.recurrences[i].item(),
            "last_distance": decoded.last_distances[i].item(),
        }
        work.finish(stem, row, _trace(name, sample, decoded, i))


def _trace(name: str, sample: int, decoded: Decoded, index: int) -> pd.DataFrame:
    timesteps, before, after = zip(*decoded.trace[: decoded.evaluations[index]], strict=True)
    return pd.DataFrame(
        {
            "id": name,
            "sample": sample,
            "evaluation": range(len(timesteps)),
            "t": timesteps,
            "distance_before": torch.stack(before)[:, index].cpu().numpy(),
            "distance_after": torch.stack(after)[:, index].cpu().numpy(),
        }
    )


def _measured(table: pd.DataFrame, features: dict, encoder: Encoder, folder: Path) -> pd.DataFrame:
    """The table with `saved_distance` and `cosine`, from the PNG files."""
    distances, cosines = [], []
    for row in table.itertuples():
        seen, _ = look(encoder, read_image(folder / f"{row.id}-{row.sample}.png"))
        distances.append(squared_distance(seen, features[row.id]).item())
        cosines.append(cosine_similarity(seen, features[row.id]).item())
    return table.assign(saved_distance=distances, cosine=cosines)
