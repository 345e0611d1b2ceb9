"""From a file of features, or a photograph, to decoded images on disk: what `featspace decode` does."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import AutoencoderTiny
from tqdm import tqdm

from featspace.config.params import DecodeParams, EncoderParams, Params, Profile, encoder_params
from featspace.data.features import feature_and_class, gather_features
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.methods import METHODS, evaluations_of
from featspace.methods.problem import Decoded
from featspace.methods.saved import as_saved
from featspace.metrics.similarity import cosine_similarity, squared_distance
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.pipelines.loading import load_pipeline, load_tiny_vae
from featspace.stages.memory import check_memory, fitting_batch, recompute, spare_memory, takes_copies
from featspace.stages.watch import Watch
from featspace.utils.devices import choose_device, free_memory, weights_sum
from featspace.utils.errors import UsageError, suggest
from featspace.utils.images import read_image, save_png
from featspace.utils.resuming import Unfinished, resumable_dir
from featspace.utils.seeds import seed_of
from featspace.utils.tables import write_parquet, write_table

Job = tuple[str, int]
"""A target's id and a sample's index."""


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
    only: Collection[str] = (),
) -> pd.DataFrame:
    """Decodes every feature of `sources` (photographs, folders of them, .safetensors files of features) and of `texts`.

    `encoder` is one of the profile's, or any network; `layer` stands in for its own. `only`: of the targets, those
    with these ids, by default all. Writes into the new folder `out`,
    for each target id and sample k: `<id>-<k>.png`, the nearest image; `<id>-<k>-last.png`, the image of the last
    latent; `<id>-<k>-estimates.png`, x̂ along the way, side by side; `<id>.png`, the target as the encoder saw it, where
    it is a photograph given here; and the tables decoded.csv and trace.parquet.
    `decode` and `weight` stand in for the profile's. Returns the former table, whose `saved_distance` (squared) and
    `cosine` are measured again from the images as saved.

    A run that is cut off leaves its finished images in `<out>.unfinished`, and the same run again goes on from there.
    Where memory is short, fewer images are decoded at once. Raises UsageError or FeatspaceError for whatever cannot
    be read or decoded.
    """
    decoder, photographs = _open(params, profile, encoder, sources, texts, decode, weight, layer, only)
    jobs = [(name, sample) for name in decoder.features for sample in range(decoder.decode.samples)]
    with resumable_dir(out, decoder.identity()) as work:
        for name, image in photographs.items():
            save_png(work.folder / f"{name}.png", image)
        _decode(decoder, jobs, work)
        table, trace = work.collect([_stem(job) for job in jobs])
        table = _measured(table, decoder.features, decoder.encoder, work.folder)
        write_table(table, work.folder / "decoded.csv")
        write_parquet(trace, work.folder / "trace.parquet")
        return table


@dataclass
class _Decoder:
    """Networks and settings of a run, and the features to decode, by target."""

    name: str
    seed: int
    prior: str
    decode: DecodeParams
    settings: EncoderParams
    weight: float
    encoder: Encoder
    pipeline: FeatureDecodingPipeline
    tiny_vae: AutoencoderTiny | None
    features: dict[str, torch.Tensor]

    def identity(self) -> dict[str, Any]:
        """All that the images depend on, in JSON values; on the batch, which follows the memory, by rounding alone."""
        networks = self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder, self.encoder.model
        tiny = [] if self.tiny_vae is None else [self.tiny_vae]
        return {
            "featspace": version("featspace"),
            "decode": self.decode.model_dump(exclude={"batch"}),
            "encoder": self.settings.model_dump(),
            "weight": self.weight,
            "prior": self.prior,
            "weights": weights_sum(*networks, *tiny),
            "seed": self.seed,
            "features": {name: hashlib.sha256(x.numpy().tobytes()).hexdigest() for name, x in self.features.items()},
        }

    @property
    def method(self) -> dict[str, Any]:
        """What the preset takes."""
        own = {} if self.decode.preset == "fast" else {"weight": self.weight, "clip_std": self.settings.clip_std}
        return self.decode.options | own

    @property
    def evaluations(self) -> int:
        """Of one image, at most."""
        return evaluations_of(METHODS[self.decode.preset], self.pipeline.prior().alphas_cumprod, self.method)

    def __call__(self, part: list[Job], callback: Any) -> Decoded:
        seeds = [seed_of(self.seed, *job) for job in part]
        _, _, decoded = self.pipeline(
            torch.stack([self.features[name] for name, _ in part]),
            self.encoder,
            self.decode.preset,
            copies=takes_copies(self.encoder, self.decode.preset),
            tiny_vae=self.tiny_vae,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
            return_dict=False,
            callback_on_step_end=callback,
            **self.method,
        )
        return decoded


def _open(
    params: Params,
    profile: Profile,
    encoder: str,
    sources: Iterable[Path],
    texts: Iterable[str],
    decode: DecodeParams | None,
    weight: float | None,
    layer: str | None,
    only: Collection[str],
) -> tuple[_Decoder, dict[str, torch.Tensor]]:
    """The run's networks, settings and features; and the photographs among the sources, by target."""
    decode, settings = decode or profile.decode, encoder_params(profile, encoder, layer)
    own = settings.guidance_weight if weight is None else weight
    device = choose_device(decode.device)
    network = load_encoder(settings.network, params.root, layer=settings.layer).to(device)
    features, photographs = gather_features(network, sources, texts, profile.resolution)
    if unknown := [name for name in only if name not in features]:
        raise UsageError(f"no target {unknown[0]}{suggest(unknown[0], features)}; there are: {', '.join(features)}")
    if only:
        features = {name: feature for name, feature in features.items() if name in only}
        photographs = {name: image for name, image in photographs.items() if name in only}
    pipeline = load_pipeline(profile.prior, params.root, decode.precision, device)
    pipeline.prior().check_resolution(profile.resolution)
    pipeline.set_progress_bar_config(disable=True)  # there is one of all images
    tiny_vae = None
    if decode.preset == "fast" and decode.tiny_vae:
        tiny_vae = load_tiny_vae(decode.tiny_vae, params.root, decode.precision, device)
    weight = decode.guidance_weight if own is None else own
    given = (encoder, params.seed, profile.prior, decode, settings, weight, network, pipeline, tiny_vae, features)
    return _Decoder(*given), photographs


def _decode(decoder: _Decoder, jobs: list[Job], work: Unfinished) -> None:
    """Decodes the jobs that are not yet finished, as many at once as the memory allows."""
    waiting = [job for job in jobs if not work.is_finished(_stem(job))]
    if not waiting:
        return
    pipeline, preset, evaluations = decoder.pipeline, decoder.decode.preset, decoder.evaluations
    free, most = free_memory(pipeline.device), min(decoder.decode.batch, len(waiting))
    batch = fitting_batch(pipeline.prior(), decoder.encoder, free, most, preset)
    if batch == 0:
        batch = recompute(pipeline)
        check_memory(pipeline.prior(), decoder.encoder, free, preset)
    total, done = evaluations * len(jobs), len(jobs) - len(waiting)
    named = {"desc": f"decode {decoder.name}", "unit": "evaluation", "smoothing": 0}
    with tqdm(total=total, initial=evaluations * done, **named) as progress:
        while waiting:
            part = waiting[:batch]
            progress.n = evaluations * done  # after a part that did not fit the memory, back to its start
            watch = Watch(progress, [_stem(job) for job in part], evaluations)
            try:
                decoded = decoder(part, watch)
            except (torch.OutOfMemoryError, MemoryError) as error:
                batch = spare_memory(pipeline, len(part), error)
                continue
            _save(part, decoder.seed, decoded, watch, work)
            waiting, done = waiting[len(part) :], done + len(part)


def _stem(job: tuple[str, int]) -> str:
    return f"{job[0]}-{job[1]}"


def _save(part: list[Job], seed: int, decoded: Decoded, watch: Watch, work: Unfinished) -> None:
    images, last = as_saved(decoded.images), as_saved(decoded.last_images)
    for i, (name, sample) in enumerate(part):
        stem = _stem((name, sample))
        save_png(work.folder / f"{stem}.png", images[i])
        save_png(work.folder / f"{stem}-last.png", last[i])
        shown = watch.strip(i)
        if shown:
            save_png(work.folder / f"{stem}-estimates.png", torch.cat(list(shown.values()), dim=2))
        row = {
            "id": name,
            "sample": sample,
            "seed": seed_of(seed, name, sample),
            "evaluations": decoded.evaluations[i].item(),
            "unguided": decoded.unguided[i].item(),
            "distance": decoded.distances[i].item(),
            "t": decoded.timesteps[i].item(),
            "recurrence": decoded.recurrences[i].item(),
            "last_distance": decoded.last_distances[i].item(),
        }
        work.finish(stem, row, _trace(name, sample, decoded, i, list(shown)))


def _trace(name: str, sample: int, decoded: Decoded, index: int, shown: list[int]) -> pd.DataFrame:
    """A row an evaluation; `shown`: those whose x̂ is in the strip, which `estimate` numbers."""
    timesteps, before, after = zip(*decoded.trace[: decoded.evaluations[index]], strict=True)
    return pd.DataFrame(
        {
            "id": name,
            "sample": sample,
            "evaluation": range(len(timesteps)),
            "t": timesteps,
            "distance_before": torch.stack(before)[:, index].cpu().numpy(),
            "distance_after": torch.stack(after)[:, index].cpu().numpy(),
            "estimate": pd.Series(range(len(shown)), shown, "Int64").reindex(range(len(timesteps))),
        }
    )


def _measured(table: pd.DataFrame, features: dict, encoder: Encoder, folder: Path) -> pd.DataFrame:
    """The table with `saved_distance` and `cosine`, from the PNG files."""
    distances, cosines = [], []
    for row in table.itertuples():
        seen, _ = feature_and_class(encoder, read_image(folder / f"{row.id}-{row.sample}.png"))
        distances.append(squared_distance(seen, features[row.id]).item())
        cosines.append(cosine_similarity(seen, features[row.id]).item())
    return table.assign(saved_distance=distances, cosine=cosines)
