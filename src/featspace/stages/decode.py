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
from featspace.stages.memory import batch_in_memory, spare_memory, takes_copies
from featspace.stages.shards import TABLE, TRACE, WHOLE, Job, Shard, batches_of, stem, write_shard
from featspace.stages.watch import Watch
from featspace.utils.devices import choose_device, weights_sum
from featspace.utils.errors import UsageError, suggest
from featspace.utils.images import read_image, save_png
from featspace.utils.resuming import Unfinished, resumable_dir
from featspace.utils.seeds import seed_of
from featspace.utils.tables import write_parquet, write_table


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
    shard: Shard | None = None,
) -> pd.DataFrame:
    """Decodes every feature of `sources` (photographs, folders of them, .safetensors files of features) and of `texts`.

    `encoder` is one of the profile's, or any network; `layer` stands in for its own. `only`: of the targets, those
    with these ids, by default all. Writes into the new folder `out`,
    for each target id and sample k: `<id>-<k>.png`, the nearest image; `<id>-<k>-last.png`, the image of the last
    latent; `<id>-<k>-estimates.png`, x̂ along the way, side by side; `<id>.png`, the target as the encoder saw it, where
    it is a photograph given here; and the tables decoded.csv and trace.parquet.
    `decode` and `weight` stand in for the profile's. Returns the former table, whose `saved_distance` (squared) and
    `cosine` are measured again from the images as saved. Of a `shard` all that is written is of its targets, and
    shard.json says which it is; one without targets writes that alone.

    A run that is cut off leaves its finished batches in `<out>.unfinished`, and the same run again goes on from there.
    Where memory is short, fewer images are decoded at once. Raises UsageError or FeatspaceError for whatever cannot
    be read or decoded.
    """
    decoder, photographs = _open(params, profile, encoder, sources, texts, decode, weight, layer, only)
    batches = batches_of(list(decoder.features), decoder.decode, shard or WHOLE)
    run, table = decoder.identity(), pd.DataFrame()
    with resumable_dir(out, run if shard is None else {**run, "shard": list(shard)}) as work:
        for name in photographs.keys() & {name for batch in batches.values() for name, _ in batch}:
            save_png(work.folder / f"{name}.png", photographs[name])
        if batches:
            _decode(decoder, batches, work)
            table, trace = work.collect(list(batches))
            table = _measured(table, decoder.features, decoder.encoder, work.folder)
            write_table(table, work.folder / TABLE)
            write_parquet(trace, work.folder / TRACE)
        if shard is not None:
            write_shard(work.folder, shard, run)
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
        """All that the images depend on, in JSON values. On batch and order of targets they do by rounding alone."""
        networks = self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder, self.encoder.model
        tiny = [] if self.tiny_vae is None else [self.tiny_vae]
        return {
            "featspace": version("featspace"),
            "decode": self.decode.model_dump(),
            "encoder": self.settings.model_dump(),
            "weight": self.weight,
            "prior": self.prior,
            "weights": weights_sum(*networks, *tiny),
            "seed": self.seed,
            "features": [[name, hashlib.sha256(x.numpy().tobytes()).hexdigest()] for name, x in self.features.items()],
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


def _decode(decoder: _Decoder, batches: dict[str, list[Job]], work: Unfinished) -> None:
    """Decodes the batches that are not yet finished, each at once or in parts that the memory allows."""
    waiting = {name: jobs for name, jobs in batches.items() if not work.is_finished(name)}
    if not waiting:
        return
    evaluations, most = decoder.evaluations, max(map(len, waiting.values()))
    size = batch_in_memory(decoder.pipeline, decoder.encoder, most, decoder.decode.preset)
    total, left = (evaluations * sum(map(len, some.values())) for some in (batches, waiting))
    named = {"desc": f"decode {decoder.name}", "unit": "evaluation", "smoothing": 0}
    with tqdm(total=total, initial=total - left, **named) as progress:
        for batch, jobs in waiting.items():
            rows: list[dict[str, Any]] = []
            traces: list[pd.DataFrame] = []
            while rest := jobs[len(rows) :]:
                part, start = rest[:size], progress.n
                watch = Watch(progress, [stem(job) for job in part], evaluations)
                try:
                    decoded = decoder(part, watch)
                except (torch.OutOfMemoryError, MemoryError) as error:
                    size, progress.n = spare_memory(decoder.pipeline, len(part), error), start
                    continue
                progress.n = start + evaluations * len(part)  # some may have been done early
                _save(part, decoded, watch, work.folder)
                rows += [_row(job, seed_of(decoder.seed, *job), decoded, i) for i, job in enumerate(part)]
                traces += [_trace(*job, decoded, i, list(watch.strip(i))) for i, job in enumerate(part)]
            work.finish(batch, rows, pd.concat(traces))


def _save(part: list[Job], decoded: Decoded, watch: Watch, folder: Path) -> None:
    images, last = as_saved(decoded.images), as_saved(decoded.last_images)
    for i, job in enumerate(part):
        save_png(folder / f"{stem(job)}.png", images[i])
        save_png(folder / f"{stem(job)}-last.png", last[i])
        if shown := watch.strip(i):
            save_png(folder / f"{stem(job)}-estimates.png", torch.cat(list(shown.values()), dim=2))


def _row(job: Job, seed: int, decoded: Decoded, index: int) -> dict[str, Any]:
    return {
        "id": job[0],
        "sample": job[1],
        "seed": seed,
        "evaluations": decoded.evaluations[index].item(),
        "unguided": decoded.unguided[index].item(),
        "distance": decoded.distances[index].item(),
        "t": decoded.timesteps[index].item(),
        "recurrence": decoded.recurrences[index].item(),
        "last_distance": decoded.last_distances[index].item(),
    }


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
