"""From a file of features, or a photograph, to decoded images on disk: what `featspace decode` does."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import diffusers
import pandas as pd
import torch
import transformers
from tqdm import tqdm

from featspace.encoders import Encoder, load_encoder
from featspace.errors import FeatspaceError, UsageError
from featspace.features import read_features
from featspace.files import atomic_dir
from featspace.guidance import Decoded, Schedule
from featspace.images import read_image, save_png, square, to_tensor
from featspace.networks import explained
from featspace.params import DecodeParams, EncoderParams, Params, Profile
from featspace.pipeline import FeatureDecodingPipeline, as_saved
from featspace.tables import write_table
from featspace.targets import slug
from featspace.weights import check_folder


def seed_of(seed: int, target: str, sample: int) -> int:
    """The seed of one image's noise, from the run's seed, the target's id and the sample's index."""
    digest = hashlib.sha256(f"{seed}/{target}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def load_pipeline(prior: str, root: Path = Path()) -> FeatureDecodingPipeline:
    """The pipeline of a prior's folder (Stable Diffusion's layout) in float32, verified first; on the GPU if any.

    Raises FeatspaceError if the folder or a file of it is missing, altered, a pickle, or not such a pipeline.
    """
    folder = root / prior
    check_folder(folder)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    with explained(folder):
        pipeline = _whole_pipeline(folder)
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)  # the faster layout for convolutions
    return pipeline.to(_device())


def _whole_pipeline(folder: Path) -> FeatureDecodingPipeline:
    """Raises FeatspaceError for a missing weight, where transformers would put random numbers in its place."""
    options = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    text_encoder, report = transformers.CLIPTextModel.from_pretrained(
        folder / "text_encoder", output_loading_info=True, **options
    )
    pipeline = FeatureDecodingPipeline.from_pretrained(folder, text_encoder=text_encoder, **options)
    missing = [f"text_encoder/{key}" for key in report["missing_keys"]]
    for name in ("unet", "vae"):  # here diffusers leaves what is missing without memory
        missing += [f"{name}/{key}" for key, p in getattr(pipeline, name).named_parameters() if p.is_meta]
    if missing:
        raise FeatspaceError(f"{folder}: its weights lack {min(missing)}; get them again")
    return pipeline


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
) -> pd.DataFrame:
    """Decodes every feature of `sources` (photographs, or .safetensors files of features) and of `texts`.

    `encoder` is one of the profile's, or any network. Writes into the new folder `out`, for each target id and
    sample k: `<id>-<k>.png`, the nearest image; `<id>-<k>-last.png`, the image of the last latent; `<id>.png`, the
    target as the encoder saw it, where it is a photograph given here; and the tables decoded.csv and trace.parquet.
    `decode` and `weight` stand in for the profile's. Returns the former table with the squared distance and cosine
    measured again from the images as saved.

    Raises UsageError or FeatspaceError for whatever cannot be read or decoded; then nothing is left in `out`.
    """
    _keep_freed_memory()
    decode = decode or profile.decode
    settings = _encoder_params(profile, encoder)
    with atomic_dir(out) as aside:
        network = load_encoder(settings.network, params.root).to(_device())
        features = _targets(network, list(sources), list(texts), profile.resolution, aside)
        pipeline = load_pipeline(profile.prior, params.root)
        own = settings.guidance_weight if weight is None else weight
        weight = decode.guidance_weight if own is None else own
        jobs = [(name, sample) for name in features for sample in range(decode.samples)]
        parts = [jobs[start : start + decode.batch] for start in range(0, len(jobs), decode.batch)]
        options = decode.model_dump(include={"steps", "recurrences", "emphasis_steps", "emphasis_recurrences"})
        evaluations = Schedule.spaced(pipeline.prior().alpha_bars, **options).evaluations
        rows, traces = [], []
        with tqdm(total=evaluations * len(parts), desc=f"decode {encoder}", unit="evaluation") as progress:
            for part in parts:
                seeds = [seed_of(params.seed, *job) for job in part]
                watch = _Watch(progress)
                decoded = pipeline(
                    torch.stack([features[name] for name, _ in part]),
                    network,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    guidance_weight=weight,
                    clip_std=settings.clip_std,
                    callback_on_step_end=watch,
                    output_type="pt",
                    **options,
                ).decoded
                rows += _save(part, seeds, decoded, aside)
                traces.append(_trace(part, decoded))
        table = pd.DataFrame(rows)
        write_table(table, aside / "decoded.csv")
        pd.concat(traces).to_parquet(aside / "trace.parquet", index=False)
        return _measured(table, features, network, aside)


class _Watch:
    """Moves the progress bar and shows the median over the batch of the nearest distance so far."""

    def __init__(self, progress: tqdm):
        self.progress, self.nearest = progress, None

    def __call__(self, _pipeline, _index: int, timestep: int, seen: dict) -> None:
        now = torch.minimum(seen["distance_before"], seen["distance_after"])
        self.nearest = now if self.nearest is None else torch.fmin(self.nearest, now)
        self.progress.set_postfix(t=timestep, distance=f"{self.nearest.median().item():.4g}", refresh=False)
        self.progress.update()


def _encoder_params(profile: Profile, encoder: str) -> EncoderParams:
    """The profile's settings of an encoder, or default ones for a network that is named directly."""
    if encoder not in profile.encoders and (":" in encoder or Path(encoder).is_dir()):
        network = encoder if ":" in encoder else str(Path(encoder).resolve())
        return EncoderParams(network=network)
    return profile.encoder(encoder)


@torch.no_grad()
def _targets(
    encoder: Encoder, sources: list[Path], texts: list[str], resolution: int, out: Path
) -> dict[str, torch.Tensor]:
    """Target features by id; photographs are cropped to the square that the decoder makes, and saved."""
    found: dict[str, torch.Tensor] = {}

    def add(name: str, feature: torch.Tensor, origin: str) -> None:
        if name in found:
            raise UsageError(f"{origin}: a second target with the id {name}; rename one")
        found[name] = feature.float().cpu()

    for source in sources:
        if source.suffix == ".safetensors":
            for name, feature in read_features(source, encoder.dim)[0].items():
                add(name, feature, str(source))
        else:
            image = to_tensor(square(read_image(source), resolution))
            save_png(out / f"{slug(source.stem)}.png", image)
            add(slug(source.stem), encoder(image[None].to(_device()))[0], str(source))
    for text in texts:
        add(slug(text), encoder.encode_text([text])[0], repr(text))
    if not found:
        raise UsageError("nothing to decode: name a photograph, a .safetensors file of features, or --text")
    return found


def _save(part: list[tuple[str, int]], seeds: list[int], decoded: Decoded, out: Path) -> list[dict]:
    images, last = as_saved(decoded.images), as_saved(decoded.last_images)
    rows = []
    for i, (name, sample) in enumerate(part):
        save_png(out / f"{name}-{sample}.png", images[i])
        save_png(out / f"{name}-{sample}-last.png", last[i])
        rows.append(
            {
                "id": name,
                "sample": sample,
                "seed": seeds[i],
                "evaluations": decoded.evaluations,
                "distance": decoded.distances[i].item(),
                "t": decoded.timesteps[i].item(),
                "recurrence": decoded.recurrences[i].item(),
                "last_distance": decoded.last_distances[i].item(),
            }
        )
    return rows


def _trace(part: list[tuple[str, int]], decoded: Decoded) -> pd.DataFrame:
    timesteps, before, after = zip(*decoded.trace, strict=True)
    before, after = torch.stack(before).cpu(), torch.stack(after).cpu()
    frames = [
        pd.DataFrame(
            {
                "id": name,
                "sample": sample,
                "evaluation": range(len(timesteps)),
                "t": timesteps,
                "distance_before": before[:, i].numpy(),
                "distance_after": after[:, i].numpy(),
            }
        )
        for i, (name, sample) in enumerate(part)
    ]
    return pd.concat(frames)


@torch.no_grad()
def _measured(table: pd.DataFrame, features: dict, encoder: Encoder, folder: Path) -> pd.DataFrame:
    """The table with `saved_distance` and `cosine`, from the PNG files."""
    distances, cosines = [], []
    for row in table.itertuples():
        image = to_tensor(read_image(folder / f"{row.id}-{row.sample}.png"))
        feature, target = encoder(image[None].to(_device()))[0].cpu().double(), features[row.id].double()
        distances.append((feature - target).square().sum().item())
        cosines.append(torch.cosine_similarity(feature, target, dim=0).item())
    return table.assign(saved_distance=distances, cosine=cosines)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
