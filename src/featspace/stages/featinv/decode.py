"""Photographs and feature maps through a trained ControlNet into images: `featspace featinv decode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from featspace.config.params import Params, Profile
from featspace.data.features import gather_features
from featspace.encoders.encoder import Encoder
from featspace.metrics.similarity import map_cosine
from featspace.pipelines.controlnet import conditioning_shape
from featspace.stages.featinv.decoder import FeatInv
from featspace.utils.devices import choose_device
from featspace.utils.errors import UsageError
from featspace.utils.files import atomic_dir, refuse_taken
from featspace.utils.images import read_image, save_png, to_tensor
from featspace.utils.seeds import seed_of
from featspace.utils.tables import write_table


def run_decode(params: Params, profile: Profile, name: str, sources: Sequence[Path], out: Path) -> pd.DataFrame:
    """Decodes photographs, and .safetensors files of maps (C, h, w) or pooled features (D,), by a ControlNet.

    Writes into the new folder `out`, for each id: `<id>-0.png`; `<id>.png`, the photograph as the encoder saw it,
    where it is one; and decoded.csv with the cosine similarity of maps, measured from the files. Returns that table.
    Raises UsageError or FeatspaceError for whatever cannot be read, or is of another encoder, layer or shape.
    """
    if not sources:
        raise UsageError("nothing to decode: name a photograph, or a .safetensors file of feature maps")
    refuse_taken(out)
    decoder = FeatInv(params, profile, name, choose_device(profile.decode.device))
    conditioning, photographs = read_conditioning(decoder.encoder, sources, decoder.resolution)
    with atomic_dir(out) as folder:
        for id, image in photographs.items():
            save_png(folder / f"{id}.png", image)
        images = decoder.decode(
            torch.stack(list(conditioning.values())), [seed_of(params.seed, id, 0) for id in conditioning]
        )
        rows = []
        for (id, hint), image in zip(conditioning.items(), images, strict=True):
            save_png(folder / f"{id}-0.png", image)
            seen = decoder.encoder.spatial(to_tensor(read_image(folder / f"{id}-0.png"))[None].to(decoder.device))
            rows.append({"id": id, "sample": 0, "map_cosine": float(map_cosine(seen.cpu(), hint[None]))})
        table = pd.DataFrame(rows)
        write_table(table, folder / "decoded.csv")
    return table


def read_conditioning(
    encoder: Encoder, sources: Sequence[Path], resolution: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Conditioning (C, h, w) by id, of photographs and of files of features; and the photographs, (3, H, W) in [0, 1].

    Raises FeatspaceError for features of another encoder, layer or shape, and as `gather_features` does.
    """
    features, photographs = gather_features(encoder, sources, [], resolution)
    return {name: feature.reshape(conditioning_shape(encoder)) for name, feature in features.items()}, photographs
