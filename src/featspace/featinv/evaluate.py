"""The published evaluation: reconstructions of held-out photographs beside the originals, by each ControlNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from PIL import Image

from featspace.decoding import seed_of
from featspace.devices import choose_device
from featspace.encoders import load_encoder
from featspace.errors import FeatspaceError
from featspace.featinv.measures import compare_images, frechet, summarize
from featspace.featinv.photographs import open_photographs
from featspace.featinv.pipeline import FeatInv, open_encoder
from featspace.files import atomic_dir
from featspace.images import read_image, save_png, square, to_tensor
from featspace.params import Params, Profile
from featspace.spatial import UNPOOLED
from featspace.tables import write_table
from featspace.targets import read_targets

PART = 500
"""Photographs that are in memory at once; the shuffled baseline compares within them."""


def run_evaluate(
    params: Params, profile: Profile, name: str, out: Path, targets: Path | None = None, folder: Path | None = None
) -> None:
    """Decodes photographs from their maps by the ControlNet `name` and compares the images with the originals.

    The photographs are `evaluation.per_class` of each class of the held-out ones, a choice that never changes; or those
    of `targets`, a folder of `featspace targets`. Writes into the new folder `out`: evaluation.csv, a row a photograph
    (`measures.compare_images`); summary.csv, their means with intervals, and the Fréchet distance in the judge's
    features; `<id>.png` and `<id>-0.png`, original and reconstruction, of the first `evaluation.shown`, or of all
    targets. `folder` stands in for the ControlNet's. Raises FeatspaceError for whatever cannot be read.
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
    tables, judged = [], []
    with torch.no_grad(), atomic_dir(out) as aside:
        for part in torch.arange(len(ids)).split(PART):
            part = part.tolist()
            originals = torch.stack([to_tensor(square(read(i), resolution)) for i in part])
            hints = torch.cat([decoder.encoder.spatial(x.to(decoder.device)).cpu() for x in originals.split(16)])
            decoded = decoder.decode(hints, [seed_of(params.seed, ids[i], 0) for i in part])
            table, features = compare_images(maps, judge, originals, decoded)
            tables.append(table)
            judged.append(features)
            for original, image, i in zip(originals, decoded, part, strict=True):
                if i in saved:
                    save_png(aside / f"{ids[i]}.png", original)
                    save_png(aside / f"{ids[i]}-0.png", image)
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "id", ids)
        table.insert(1, "class", classes)
        write_table(table, aside / "evaluation.csv")
        own = {"controlnet": name, "network": decoder.own.network, "layer": decoder.own.layer or "pooled"}
        distance = frechet(*(torch.cat(features) for features in zip(*judged, strict=True)))
        row = own | summarize(table, params.seed) | {"frechet": distance}
        write_table(pd.DataFrame([row]), aside / "summary.csv")


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
