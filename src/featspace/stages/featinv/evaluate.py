"""The published evaluation: reconstructions of held-out photographs beside the originals, by each ControlNet."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from featspace.config.params import Params, Profile
from featspace.data.photographs import open_photographs
from featspace.data.targets import read_targets
from featspace.encoders.encoder import load_encoder
from featspace.encoders.feature_maps import UNPOOLED
from featspace.stages.featinv.decoder import FeatInv, open_encoder, prior_of
from featspace.stages.featinv.measures import compare_images, frechet, summarize
from featspace.utils.devices import choose_device, weights_sum
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.files import atomic_file
from featspace.utils.images import read_image, save_png, square, to_tensor
from featspace.utils.resuming import Unfinished, resumable_dir, say_again
from featspace.utils.seeds import seed_of
from featspace.utils.tables import REMOVE, write_table

PART = 500
"""Photographs that are in memory at once; the shuffled baseline compares within them."""
JUDGED = "originals", "decoded"
"""The judge's features that are kept of a part."""


def run_evaluate(
    params: Params, profile: Profile, name: str, out: Path, targets: Path | None = None, folder: Path | None = None
) -> None:
    """Decodes photographs from their maps by the ControlNet `name` and compares the images with the originals.

    The photographs are `evaluation.per_class` of each class of the held-out ones, a choice that never changes; or those
    of `targets`, a folder of `featspace targets`. Writes into the new folder `out`: evaluation.csv, a row a photograph
    (`measures.compare_images`); summary.csv, their means with intervals, and the Fréchet distance in the judge's
    features; `<id>.png` and `<id>-0.png`, original and reconstruction, of the first `evaluation.shown`, or of all
    targets. `folder` stands in for the ControlNet's. A run that is cut off goes on from its finished parts
    (`resumable_dir`); one of which a file is damaged is decoded again. Raises FeatspaceError for whatever cannot be
    read.
    """
    decoder = FeatInv(params, profile, name, choose_device(profile.decode.device), folder)
    resolution = decoder.resolution
    if targets is None:
        chosen = held_out(params, profile)
        ids, classes, read = chosen.ids, chosen.classes, chosen.read
        shown = profile.featinv.evaluation.shown
    else:
        ids = photograph_ids(targets)
        classes, read, shown = [""] * len(ids), lambda i: read_image(targets / f"{ids[i]}.png"), len(ids)
    judge = load_encoder(profile.judge, params.root).to(decoder.device)
    maps = decoder.encoder
    if maps.layer is None:  # what is decoded from a pooled feature is measured as the unpooled is
        unpooled = decoder.own.model_copy(update={"layer": UNPOOLED})
        maps = open_encoder(params, unpooled).to(decoder.device)
    saved = set(list(range(0, len(ids), max(1, len(ids) // shown)))[:shown])
    identity = {
        "featspace": version("featspace"),
        "controlnet": decoder.own.model_dump(),
        "prior": list(prior_of(profile)),
        "settings": profile.featinv.model_dump(exclude={"controlnets", "training", "together", "steer"}),
        "judge": profile.judge,
        "weights": weights_sum(decoder.pipeline.unet, decoder.pipeline.controlnet, decoder.pipeline.vae, maps, judge),
        "seed": params.seed,
        "photographs": ids,
    }
    parts = {f"part-{number}": part.tolist() for number, part in enumerate(torch.arange(len(ids)).split(PART))}
    with torch.no_grad(), resumable_dir(out, identity) as work:
        for stem, part in parts.items():
            if work.is_finished(stem) and _is_judged(work, stem):
                continue
            originals = torch.stack([to_tensor(square(read(i), resolution)) for i in part])
            conditioning = torch.cat([decoder.encoder.spatial(x.to(decoder.device)).cpu() for x in originals.split(16)])
            decoded = decoder.decode(conditioning, [seed_of(params.seed, ids[i], 0) for i in part])
            table, judged = compare_images(maps, judge, originals, decoded)
            for original, image, i in zip(originals, decoded, part, strict=True):
                if i in saved:
                    save_png(work.folder / f"{ids[i]}.png", original)
                    save_png(work.folder / f"{ids[i]}-0.png", image)
            with atomic_file(work.records / f"{stem}.safetensors") as partial:
                save_file(dict(zip(JUDGED, judged, strict=True)), partial)
            work.finish(stem, [{}] * len(part), table)
        _, table = work.collect(list(parts))
        table = table.reset_index(drop=True)
        table.insert(0, "id", ids)
        table.insert(1, "class", classes)
        write_table(table, work.folder / "evaluation.csv")
        own = {"controlnet": name, "network": decoder.own.network, "layer": decoder.own.layer or "pooled"}
        features = [_judged(work, stem) for stem in parts]
        distance = frechet(*(torch.cat([part[key] for part in features]) for key in JUDGED))
        row = own | summarize(table, params.seed) | {"frechet": distance}
        write_table(pd.DataFrame([row]), work.folder / "summary.csv")


def _is_judged(work: Unfinished, stem: str) -> bool:
    """Whether the judge's features of a finished part can be read; else says so."""
    try:
        _judged(work, stem)
    except FeatspaceError as error:
        say_again(error)
        return False
    return True


def _judged(work: Unfinished, stem: str) -> dict[str, Tensor]:
    path = work.records / f"{stem}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FeatspaceError(f"{path}: not a whole safetensors file ({one_line(error)}); {REMOVE}") from error


class HeldOut(NamedTuple):
    ids: list[str]
    classes: list[str]
    read: Callable[[int], Image.Image]  # the photograph of an id's place


def held_out(params: Params, profile: Profile) -> HeldOut:
    """The chosen held-out photographs. Raises FeatspaceError, which counts and names those that are damaged."""
    folder = profile.featinv.training.photographs
    photographs = open_photographs(None if folder is None else params.root / folder, "val")
    per_class = profile.featinv.evaluation.per_class
    chosen = photographs.choose(per_class)
    photographs.check(chosen)
    classes = [photographs.classes[photographs.labels[index]] for index in chosen]
    ids = [f"{name}_{i % per_class}" for i, name in enumerate(classes)]
    return HeldOut(ids, classes, lambda place: photographs[chosen[place]])


def photograph_ids(targets: Path) -> list[str]:
    """Ids of the photographs of a folder of `featspace targets`. Raises FeatspaceError if there is none."""
    ids = [target.id for target in read_targets(targets) if target.kind == "photo"]
    if not ids:
        raise FeatspaceError(f"{targets}: only captions, but a feature map needs a photograph")
    return ids
