"""The published evaluation: reconstructions of held-out photographs beside the originals, by each ControlNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from featspace.decoding import seed_of
from featspace.devices import choose_device
from featspace.encoders import load_encoder
from featspace.errors import FeatspaceError
from featspace.featinv.measures import compare_images, summarize
from featspace.featinv.photographs import open_photographs
from featspace.featinv.pipeline import FeatInv, open_encoder
from featspace.files import atomic_dir
from featspace.images import read_image, save_png, square, to_tensor
from featspace.params import Params, Profile
from featspace.spatial import UNPOOLED
from featspace.tables import read_table, write_table
from featspace.targets import read_targets

EVALUATED = {"id": str, "class": str, "map_cosine": float, "pooled_cosine": float}
SUMMARY = {"controlnet": str, "network": str, "layer": str, "images": int, "map_cosine": float, "pooled_cosine": float}


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
    if targets is None:
        ids, classes, originals = held_out(params, profile, decoder.resolution)
        shown = profile.featinv.evaluation.shown
    else:
        ids, originals = target_photographs(targets, decoder.resolution)
        classes, shown = [""] * len(ids), len(ids)
    judge = load_encoder(profile.judge, params.root).to(decoder.device)
    maps = decoder.encoder
    if maps.layer is None:  # what is decoded from a pooled feature is measured as the unpooled is
        unpooled = decoder.own.model_copy(update={"layer": UNPOOLED})
        maps = open_encoder(params, unpooled).to(decoder.device)
    with torch.no_grad(), atomic_dir(out) as aside:
        hints = torch.cat([decoder.encoder.spatial(x.to(decoder.device)).cpu() for x in originals.split(16)])
        decoded = decoder.decode(hints, [seed_of(params.seed, id, 0) for id in ids])
        table = compare_images(maps, judge, originals, decoded)
        for index in list(range(0, len(ids), max(1, len(ids) // shown)))[:shown]:
            save_png(aside / f"{ids[index]}.png", originals[index])
            save_png(aside / f"{ids[index]}-0.png", decoded[index])
        frechet = table.attrs.pop("frechet")
        table.insert(0, "id", ids)
        table.insert(1, "class", classes)
        write_table(table, aside / "evaluation.csv")
        own = {"controlnet": name, "network": decoder.own.network, "layer": decoder.own.layer or "pooled"}
        row = own | summarize(table, params.seed) | {"frechet": frechet}
        write_table(pd.DataFrame([row]), aside / "summary.csv")


def run_summary(folders: Sequence[Path], out: Path) -> None:
    """Writes a CSV with the summaries of folders of `run_evaluate`, a row a ControlNet. Raises FeatspaceError."""
    write_table(pd.concat([read_table(folder / "summary.csv", SUMMARY) for folder in folders]), out)


def held_out(params: Params, profile: Profile, resolution: int) -> tuple[list[str], list[str], Tensor]:
    """Ids, classes and images (N, 3, H, W) in [0, 1] of the chosen held-out photographs. Raises FeatspaceError."""
    folder = profile.featinv.training.photographs
    photographs = open_photographs(None if folder is None else params.root / folder, "val")
    per_class = profile.featinv.evaluation.per_class
    chosen = photographs.choose(per_class)
    classes = [photographs.classes[photographs.labels[index]] for index in chosen]
    ids = [f"{name}_{i % per_class}" for i, name in enumerate(classes)]
    images, broken = [], []
    for index in chosen:
        try:
            images.append(to_tensor(square(photographs[index], resolution)))
        except FeatspaceError:
            broken.append(photographs.names[index])
    if broken:
        listed = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        raise FeatspaceError(
            f"{len(broken)} of {len(chosen)} held-out photographs are damaged: {listed}; get them again"
        )
    return ids, classes, torch.stack(images)


def target_photographs(targets: Path, resolution: int) -> tuple[list[str], Tensor]:
    """Ids and images (N, 3, H, W) in [0, 1] of the photographs of a folder of `featspace targets`."""
    ids = [target.id for target in read_targets(targets) if target.kind == "photo"]
    if not ids:
        raise FeatspaceError(f"{targets}: only captions, but a feature map needs a photograph")
    return ids, torch.stack([to_tensor(square(read_image(targets / f"{id}.png"), resolution)) for id in ids])
