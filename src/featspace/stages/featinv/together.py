"""Both decoders: guided decoding, FeatInv, and guided decoding that starts from FeatInv's image, on one budget."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from featspace.config.featinv import TogetherParams
from featspace.config.params import Params, Profile
from featspace.encoders.encoder import load_encoder
from featspace.methods.noise_optimization import optimize_noise
from featspace.methods.problem import Evaluation
from featspace.methods.saved import as_saved
from featspace.metrics.similarity import squared_distance
from featspace.pipelines.problem import problem_of
from featspace.stages.featinv.decoder import FeatInv
from featspace.stages.featinv.evaluate import photograph_ids
from featspace.stages.featinv.measures import compare_images
from featspace.stages.memory import evaluation_cost
from featspace.utils.devices import choose_device
from featspace.utils.errors import UsageError
from featspace.utils.files import atomic_dir
from featspace.utils.images import read_image, save_png, square, to_tensor
from featspace.utils.seeds import seed_of
from featspace.utils.tables import write_table


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
    settings, encoder = profile.featinv.together, decoder.encoder
    ids = photograph_ids(targets)[: settings.targets]
    originals = torch.stack([to_tensor(square(read_image(targets / f"{id}.png"), decoder.resolution)) for id in ids])
    judge = load_encoder(profile.judge, params.root).to(decoder.device)
    with torch.no_grad():
        conditioning = torch.cat([encoder.spatial(image[None].to(decoder.device)) for image in originals])
    seeds = [seed_of(params.seed, id, 0) for id in ids]
    cost = cost_in_evaluations(decoder, conditioning[:1])
    left = int(settings.evaluations - cost)
    if left < 2:
        budget = f"{settings.evaluations}, of which FeatInv costs {cost:.1f}"
        raise UsageError(f"featinv.together.evaluations is {budget}: it leaves too few to guide with; raise it")
    start = decoder.decode(conditioning, seeds)
    images = {
        "guided": _guided(decoder, conditioning, seeds, settings.evaluations, settings),
        "featinv": start,
        "both": _guided(decoder, conditioning, seeds, left, settings, start),
    }
    spent = {"guided": settings.evaluations, "featinv": cost, "both": cost + left}
    tables = []
    with atomic_dir(out) as partial:
        for id, image in zip(ids, originals, strict=True):
            save_png(partial / f"{id}.png", image)
        for way, decoded in images.items():
            for id, image in zip(ids, decoded, strict=True):
                save_png(partial / f"{id}-{way}.png", image)
            table, _ = compare_images(encoder, judge, originals, decoded)
            with torch.no_grad():
                features = torch.cat([encoder(image[None].to(decoder.device)) for image in decoded])
            table.insert(0, "distance", squared_distance(features, conditioning.flatten(1)).cpu().numpy())
            table.insert(0, "evaluations", spent[way])
            table.insert(0, "way", way)
            table.insert(0, "id", ids)
            tables.append(table)
        write_table(pd.concat(tables), partial / "together.csv")


def cost_in_evaluations(decoder: FeatInv, hint: Tensor) -> float:
    """The operations of one FeatInv image, in guided evaluations (`plan.evaluation_cost`)."""
    with FlopCounterMode(display=False) as counter:
        decoder.pipeline(hint, decoder.settings.prompt, 1, decoder.settings.guidance_scale, output_type="pt")
    with FlopCounterMode(display=False) as image, torch.no_grad():
        decoder.prior.decode(torch.zeros(1, *decoder.prior.latent_shape, device=decoder.device))
    steps = counter.get_total_flops() - image.get_total_flops()
    total = decoder.settings.steps * steps + image.get_total_flops()
    return total / evaluation_cost(decoder.prior, decoder.encoder, "fast").flops


def _guided(
    decoder: FeatInv,
    conditioning: Tensor,
    seeds: list[int],
    evaluations: int,
    settings: TogetherParams,
    start: Tensor | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] on the CPU, guided to maps (N, C, h, w) by `fast`; from images `start`, if any."""
    prior, parts = decoder.prior, []
    total = evaluations * len(conditioning)
    with tqdm(total=total, desc="guided" if start is None else "both", unit="evaluation") as progress:
        for part in torch.arange(len(conditioning)).split(decoder.settings.batch):
            generators = [torch.Generator().manual_seed(seeds[i]) for i in part.tolist()]
            latents = None
            if start is not None:
                with torch.no_grad():
                    latents = prior.encode(start[part].to(decoder.device) * 2 - 1)
            features = conditioning[part].flatten(1)
            problem = problem_of(prior, decoder.encoder, features, generators, copies=False)
            decoded = optimize_noise(
                problem,
                evaluations=evaluations,
                start=latents,
                level=settings.level,
                callback=lambda step: _advance(progress, step),
            )
            parts.append(as_saved(decoded.images).cpu())
    return torch.cat(parts)


def _advance(progress: tqdm, step: Evaluation) -> None:
    progress.update(len(step.latents))
