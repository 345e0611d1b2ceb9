"""Both decoders: guided decoding, FeatInv, and guided decoding that starts from FeatInv's image, on one budget."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from featspace.decoding import seed_of
from featspace.devices import choose_device
from featspace.encoders import load_encoder
from featspace.errors import UsageError
from featspace.featinv.evaluate import photograph_ids
from featspace.featinv.measures import compare_images
from featspace.featinv.params import TogetherParams
from featspace.featinv.pipeline import FeatInv
from featspace.files import atomic_dir
from featspace.guidance import Schedule, guided_decode
from featspace.images import read_image, save_png, square, to_tensor
from featspace.params import Params, Profile
from featspace.pipeline import FeatureDistance, as_saved
from featspace.plan import evaluation_cost
from featspace.similarity import squared_distance
from featspace.tables import read_table, write_table

TOGETHER = {"id": str, "way": str, "evaluations": float, "distance": float, "map_cosine": float, "judge_cosine": float}
WAYS = ("guided", "featinv", "both")


def run_together(
    params: Params, profile: Profile, name: str, targets: Path, out: Path, folder: Path | None = None
) -> None:
    """Decodes the maps of the profile's targets in three ways, each with the same budget at most, and measures them.

    The feature that guides is the map that is FeatInv's hint. Writes into the new folder `out`: together.csv, a row a
    target and way (tables' `map_cosine` … of `measures.compare_images`, the squared distance of maps, and the spent
    guided evaluations, of which one of FeatInv's images costs `cost_in_evaluations`); `<id>.png`, and `<id>-<way>.png`.
    Raises UsageError if the budget does not pay for FeatInv and one evaluation, FeatspaceError for bad files.
    """
    decoder = FeatInv(params, profile, name, choose_device(profile.decode.device), folder)
    settings, encoder, prior = profile.featinv.together, decoder.encoder, decoder.prior
    ids = photograph_ids(targets)[: settings.targets]
    originals = torch.stack([to_tensor(square(read_image(targets / f"{id}.png"), decoder.resolution)) for id in ids])
    judge = load_encoder(profile.judge, params.root).to(decoder.device)
    with torch.no_grad():
        hints = torch.cat([encoder.spatial(image[None].to(decoder.device)) for image in originals])
    seeds = [seed_of(params.seed, id, 0) for id in ids]
    whole = Schedule.spaced(prior.alpha_bars, settings.steps, settings.recurrences, emphasis_steps=0)
    cost = cost_in_evaluations(decoder, hints[:1])
    left = whole.evaluations - cost
    if left < settings.recurrences * 2:
        budget = f"{whole.evaluations} evaluations, of which FeatInv costs {cost:.1f}"
        raise UsageError(f"featinv.together: a budget of {budget}, leaves too little to guide; raise steps")
    rest = from_level(prior.alpha_bars, settings.level, int(left // settings.recurrences), settings.recurrences)
    start = decoder.decode(hints, seeds)
    images = {
        "guided": _guided(decoder, hints, seeds, whole, settings),
        "featinv": start,
        "both": _guided(decoder, hints, seeds, rest, settings, start),
    }
    spent = {"guided": whole.evaluations, "featinv": cost, "both": cost + rest.evaluations}
    tables = []
    with atomic_dir(out) as aside:
        for id, image in zip(ids, originals, strict=True):
            save_png(aside / f"{id}.png", image)
        for way, decoded in images.items():
            for id, image in zip(ids, decoded, strict=True):
                save_png(aside / f"{id}-{way}.png", image)
            table, _ = compare_images(encoder, judge, originals, decoded)
            with torch.no_grad():
                features = torch.cat([encoder(image[None].to(decoder.device)) for image in decoded])
            table.insert(0, "distance", squared_distance(features, hints.flatten(1)).cpu().numpy())
            table.insert(0, "evaluations", spent[way])
            table.insert(0, "way", way)
            table.insert(0, "id", ids)
            tables.append(table)
        write_table(pd.concat(tables), aside / "together.csv")


def run_together_summary(folder: Path, out: Path) -> None:
    """Writes a CSV of the means over targets of a folder of `run_together`, a row a way; of distances, the median."""
    table = read_table(folder / "together.csv", TOGETHER)
    rows = []
    for way, own in table.groupby("way", sort=False):
        means = own.drop(columns=["way", "id"]).mean()
        rows.append({"way": way, "targets": len(own), **means, "distance": own["distance"].median()})
    write_table(pd.DataFrame(rows), out)


def from_level(alpha_bars: Tensor, level: float, steps: int, recurrences: int) -> Schedule:
    """A schedule of `steps` steps from the noise level √(1 − ᾱ) = `level` down to none; fewer where it has fewer.

    `alpha_bars` are ᾱ of each training timestep, (T,).
    """
    first = int((1 - alpha_bars <= level**2).sum()) - 1
    first = max(first, 1)
    timesteps = torch.linspace(first, 0, min(steps, first + 1), dtype=torch.float64).round().long()
    kept = alpha_bars.double()[timesteps]
    following = torch.cat([kept[1:], torch.ones(1, dtype=torch.float64)])
    betas = (1 - kept / following).tolist()
    return Schedule(timesteps.tolist(), kept.tolist(), betas, [recurrences] * len(timesteps))


def renoised(latents: Tensor, alpha_bar: float, noise: Tensor) -> Tensor:
    """z_t = √ᾱ z₀ + √(1 − ᾱ) n."""
    return alpha_bar**0.5 * latents + (1 - alpha_bar) ** 0.5 * noise


def cost_in_evaluations(decoder: FeatInv, hint: Tensor) -> float:
    """The operations of one FeatInv image, in guided evaluations (`plan.evaluation_cost`)."""
    with FlopCounterMode(display=False) as counter:
        decoder.pipeline(hint, decoder.settings.prompt, decoder.settings.guidance_scale, 1, output_type="pt")
    with FlopCounterMode(display=False) as image, torch.no_grad():
        decoder.prior.decode(torch.zeros(1, *decoder.prior.latent_shape, device=decoder.device))
    steps = counter.get_total_flops() - image.get_total_flops()
    total = decoder.settings.steps * steps + image.get_total_flops()
    return total / evaluation_cost(decoder.prior, decoder.encoder).flops


def _guided(
    decoder: FeatInv,
    hints: Tensor,
    seeds: list[int],
    schedule: Schedule,
    settings: TogetherParams,
    start: Tensor | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] on the CPU, guided to the maps `hints`; from `start`, re-noised, where given."""
    prior, batch, parts = decoder.prior, decoder.settings.batch, []
    total = schedule.evaluations * len(hints)
    with tqdm(total=total, desc="guided" if start is None else "both", unit="evaluation") as progress:
        for part in torch.arange(len(hints)).split(batch):
            generators = [torch.Generator().manual_seed(seeds[i]) for i in part.tolist()]
            pending = []

            def draw_noise(generators=generators, pending=pending) -> Tensor:
                if pending:  # the first draw is z_T, or what stands in for it
                    return pending.pop()
                rows = [torch.randn(prior.latent_shape, generator=generator) for generator in generators]
                return torch.stack(rows).to(decoder.device)

            if start is not None:
                with torch.no_grad():
                    latents = prior.encode(start[part].to(decoder.device) * 2 - 1)
                pending.append(renoised(latents, schedule.alpha_bars[0], draw_noise()))
            decoded = guided_decode(
                prior.predict_noise,
                prior.decode,
                FeatureDistance(decoder.encoder, hints[part].flatten(1)),
                draw_noise,
                schedule,
                settings.guidance_weight,
                settings.clip_std,
                lambda step: progress.update(len(step.latents)),
            )
            parts.append(as_saved(decoded.images).cpu())
    return torch.cat(parts)
