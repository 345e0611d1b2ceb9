"""Every method on the same targets, from the same seeds, at the same budgets: what `featspace bench` measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from featspace.baselines import METHODS, PUBLISHED, Problem
from featspace.decoding import seed_of
from featspace.devices import choose_device, device_name
from featspace.encoders import Encoder, load_encoder
from featspace.errors import FeatspaceError, UsageError, suggest
from featspace.fast import fast_decode
from featspace.images import read_image, save_png, to_tensor
from featspace.params import Params, Profile
from featspace.pipeline import FeatureDistance, as_saved, load_pipeline
from featspace.prior import Prior
from featspace.similarity import compare, jpeg_copy, squared_distance
from featspace.tables import BENCH, read_table, write_table
from featspace.targets import read_targets
from featspace.whitening import whitening_of

PASSES = ("unet_forward", "unet_backward", "vae_forward", "vae_backward", "encoder_forward", "encoder_backward")
NOISES, LEVELS = 4, (50, 200)
"""Naturalness is measured with this many noises at each of these timesteps: low and middle noise."""
TUNING_PHOTOS = 4
"""Of these photographs one image each is decoded at every weight, the rest at the best weight alone."""


class Counted:
    """A network's function that counts the images that pass it forward and, when a gradient is taken, backward."""

    def __init__(self, function: Callable[..., torch.Tensor]):
        self.function, self.forward, self.backward = function, 0, 0

    def __call__(self, inputs: torch.Tensor, *rest) -> torch.Tensor:
        out = self.function(inputs, *rest)
        self.forward += len(inputs)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)


@torch.no_grad()
def denoising_error(prior: Prior, images: torch.Tensor) -> torch.Tensor:
    """How much of the noise the prior misses on encoded images (N, 3, H, W) in [0, 1]: mean square of ε_θ − ε, (N,).

    The larger, the less natural to the prior. The noises are the same for every image.
    """
    generator = torch.Generator().manual_seed(0)
    latents, errors = prior.encode(images * 2 - 1), []
    for t in LEVELS:
        bar = float(prior.alpha_bars[t])
        for _ in range(NOISES):
            noise = torch.randn(prior.latent_shape, generator=generator).to(latents)[None]
            seen = prior.predict_noise(bar**0.5 * latents + (1 - bar) ** 0.5 * noise, t)
            errors.append((seen - noise).square().flatten(1).mean(1))
    return torch.stack(errors).mean(0)


@dataclass(frozen=True)
class Job:
    """One cell of the benchmark: a method at a budget and a weight (of fast: none)."""

    method: str
    evaluations: int
    weight: float

    @property
    def folder(self) -> str:
        return f"{self.method}-{self.evaluations}-{self.weight:g}"


def jobs_of(budget: int, curve: Iterable[int], only: Iterable[str] | None = None) -> list[Job]:
    """`fast` at every budget of the curve, and every other method at one budget, at each weight it is tuned over.

    `only` names the methods to keep. The published schedule, `paper` at 12,960 evaluations, takes the published weight,
    4. Raises UsageError for a method that there is not.
    """
    chosen = list(only or ["fast", *METHODS])
    if unknown := sorted(set(chosen) - {"fast", *METHODS}):
        raise UsageError(f"no method {unknown[0]}{suggest(unknown[0], METHODS)}; there are: fast, {', '.join(METHODS)}")
    jobs = [Job("fast", evaluations, 0.0) for evaluations in curve if "fast" in chosen]
    for name, (_, weights) in METHODS.items():
        tried = (4.0,) if (name, budget) == ("paper", PUBLISHED) else weights
        jobs += [Job(name, budget, weight) for weight in tried if name in chosen]
    return jobs


def run_bench(
    params: Params,
    profile: Profile,
    targets: Path,
    out: Path,
    jobs: Iterable[Job],
    photos: int = 2,
    samples: int = 1,
) -> pd.DataFrame:
    """Decodes the first `photos` photographs with every encoder and job; writes <out>/images.csv and the PNGs.

    Columns: tables.BENCH. All is measured from the saved PNG; `distance_jpeg` is the squared distance of the JPEG copy
    of quality 75, `error` the `denoising_error` over that of the target photographs on average; passes are an image's.
    What `images.csv` holds already is not run again. Raises UsageError if there are too few photographs.
    """
    known = [target for target in read_targets(targets) if target.kind == "photo"]
    if not 1 <= photos <= len(known):
        raise UsageError(f"photos is {photos}: {targets} has {len(known)}")
    device, table = choose_device(profile.decode.device), Path(out) / "images.csv"
    done = read_table(table, BENCH) if table.exists() else pd.DataFrame(columns=list(BENCH))
    pipeline = load_pipeline(profile.prior, params.root, device=device)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
    prior, judge = pipeline.prior(), load_encoder(profile.judge, params.root).to(device)
    originals = {target.id: read_image(targets / f"{target.id}.png") for target in known}
    usual = denoising_error(prior, torch.stack([to_tensor(x) for x in originals.values()]).to(device)).mean()
    wanted = [(target.id, sample) for target in known[:photos] for sample in range(samples)]
    todo = [(job, name) for job in jobs for name in profile.encoders]
    for job, name in tqdm(todo, desc="bench", disable=not todo):
        mine = done.eval(
            "method == @job.method and evaluations == @job.evaluations and weight == @job.weight and encoder == @name"
        )
        if set(wanted) <= set(zip(done[mine]["id"], done[mine]["sample"], strict=True)):
            continue
        encoder = load_encoder(profile.encoder(name).network, params.root).to(device)
        images, costs, seconds = _decode(prior, encoder, profile, name, job, params.seed, originals, wanted)
        rows = []
        for index, (target, sample) in enumerate(wanted):
            file = Path(out) / job.folder / name / f"{target}-{sample}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_png(file, images[index])
            saved, photo = read_image(file), originals[target]
            feature = encoder(to_tensor(photo)[None].to(device))[0].cpu()
            copy = encoder(to_tensor(jpeg_copy(photo, 75))[None].to(device))[0].cpu()
            error = denoising_error(prior, to_tensor(saved)[None].to(device))[0] / usual
            rows.append(
                {"method": job.method, "evaluations": job.evaluations, "weight": job.weight}
                | {"encoder": name, "id": target, "sample": sample}
                | compare(encoder, judge, feature, photo, [saved])[0]
                | {"distance_jpeg": squared_distance(copy, feature).item(), "error": error.item()}
                | {"diversity": _diversity(images, wanted, index)}
                | {key: value / len(wanted) for key, value in costs.items()}
                | {"seconds": seconds / len(wanted), "device": device_name(device)}
            )
        done = pd.concat([frame for frame in (done[~mine], pd.DataFrame(rows)) if len(frame)], ignore_index=True)
        write_table(done[list(BENCH)], table)
    return done


def _decode(
    prior: Prior,
    encoder: Encoder,
    profile: Profile,
    name: str,
    job: Job,
    seed: int,
    originals: dict,
    wanted: list[tuple[str, int]],
) -> tuple[torch.Tensor, dict[str, int], float]:
    """Images (N, 3, H, W) in [0, 1] of the targets and samples `wanted`, passes of each kind, seconds."""
    device = next(encoder.parameters()).device
    features = torch.cat([encoder(to_tensor(originals[target])[None].to(device)) for target, _ in wanted])
    generators = [torch.Generator().manual_seed(seed_of(seed, *key)) for key in wanted]
    unet, vae, network = Counted(prior.predict_noise), Counted(prior.decode), Counted(encoder)
    distance = FeatureDistance(network, features)

    def draw_noise() -> torch.Tensor:
        return torch.stack([torch.randn(prior.latent_shape, generator=g) for g in generators]).to(device)

    start = time.perf_counter()
    if job.method == "fast":
        bars, budget = prior.alpha_bars, job.evaluations
        whitening = whitening_of(network, prior.image_size, device=device)
        networks = unet, vae, distance.residual, draw_noise
        images = fast_decode(*networks, bars, budget, whitening=whitening).images
    else:
        problem = Problem(unet, vae, distance, draw_noise, prior.alpha_bars, profile.encoder(name).clip_std)
        METHODS[job.method][0](problem, job.evaluations, job.weight)
        images = problem.images
    seconds = time.perf_counter() - start
    if images is None:
        raise FeatspaceError(f"{job.method}: no image in {job.evaluations} evaluations; give it more")
    passes = [count for part in (unet, vae, network) for count in (part.forward, part.backward)]
    return as_saved(images), dict(zip(PASSES, passes, strict=True)), seconds


def _diversity(images: torch.Tensor, wanted: list[tuple[str, int]], index: int) -> float:
    """Root mean square difference of an image to the other samples of its target, in [0, 1]; NaN if there is none."""
    others = [i for i, (target, _) in enumerate(wanted) if target == wanted[index][0] and i != index]
    return (images[others] - images[index]).square().flatten(1).mean(1).sqrt().mean().item()
