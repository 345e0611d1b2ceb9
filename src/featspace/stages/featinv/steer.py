"""`featspace featinv steer`: a feature map moved along a direction, by several strengths, and decoded."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from featspace.config.params import Params, Profile
from featspace.data.photographs import open_photographs
from featspace.encoders.encoder import Encoder
from featspace.pipelines.controlnet import conditioning_shape
from featspace.stages.featinv.decode import read_conditioning
from featspace.stages.featinv.decoder import FeatInv, controlnet_params, open_encoder
from featspace.utils.devices import choose_device
from featspace.utils.errors import FeatspaceError, UsageError, suggest
from featspace.utils.files import atomic_dir, atomic_file, refuse_taken
from featspace.utils.images import save_png, square, to_tensor
from featspace.utils.seeds import seed_of
from featspace.utils.tables import write_table

DIRECTION = "direction"
"""The tensor's name in a file of a user's vector."""


@torch.no_grad()
def run_means(params: Params, profile: Profile, name: str, out: Path, per_class: int = 100) -> None:
    """Writes the mean map (C, h, w) of each class of the training photographs, float16, by the class' name.

    Of `per_class` photographs each, as the ControlNet `name` takes maps; the metadata name the encoder. Raises
    FeatspaceError for photographs that are missing or damaged.
    """
    encoder = open_encoder(params, controlnet_params(profile, name)).to(choose_device(profile.decode.device))
    folder = profile.featinv.training.photographs
    photographs = open_photographs(None if folder is None else params.root / folder, "train")
    resolution = profile.featinv.resolution or profile.resolution
    device = next(encoder.parameters()).device
    chosen, means = photographs.choose(per_class), {}
    for label, part in enumerate(tqdm(torch.tensor(chosen).split(per_class), desc="class means", unit="class")):
        images = torch.stack([to_tensor(square(photographs[i], resolution)) for i in part.tolist()])
        maps = torch.cat([encoder.spatial(each.to(device)) for each in images.split(20)])
        means[photographs.classes[label]] = maps.mean(0).half().cpu().contiguous()
    with atomic_file(out) as partial:
        partial.write_bytes(save(means, metadata={"encoder": encoder.network}))


def read_direction(path: Path, encoder: Encoder, away: str | None = None, toward: str | None = None) -> Tensor:
    """A direction (C, h, w) in the encoder's maps: of a file of class means, or of a user's vector.

    With `away` and `toward` it is the difference of those two means. Otherwise the file's tensor `direction`: (C, h, w)
    or (C,), which is the same at every position. Raises UsageError for an unknown class, FeatspaceError for a file that
    is missing, damaged, or of another encoder or shape, and for a direction of length 0.
    """
    try:
        with safe_open(path, framework="pt") as file:
            origin = (file.metadata() or {}).get("encoder", encoder.network)
        tensors = load_file(path)
    except FileNotFoundError:
        raise FeatspaceError(f"{path}: no such file; `featspace featinv means` writes class means") from None
    except (SafetensorError, OSError) as error:
        raise FeatspaceError(f"{path}: not a whole safetensors file ({error}); write it anew") from None
    if origin != encoder.network:
        raise FeatspaceError(f"{path}: means of {origin}, not of {encoder.network}; write its own")
    if (away is None) != (toward is None):
        raise UsageError("a direction has two classes: name both away and toward")
    names = [DIRECTION] if away is None or toward is None else [away, toward]
    shape, found = conditioning_shape(encoder), []
    for each in names:
        if each not in tensors:
            listed = suggest(each, tensors) or f"; it has {', '.join(sorted(tensors)[:8])}"
            raise UsageError(f"{path}: has no {each!r}{listed}")
        tensor = tensors[each].float()
        tensor = tensor[:, None, None].expand(shape) if tensor.shape == shape[:1] else tensor
        if tensor.shape != shape:
            given = f"{each} is of shape {list(tensor.shape)}"
            raise FeatspaceError(f"{path}: {given}, but maps of {encoder.network} are {list(shape)}")
        found.append(tensor)
    direction = found[0] if away is None else found[1] - found[0]
    if not torch.isfinite(direction).all() or not direction.any():
        raise FeatspaceError(f"{path}: the direction is zero or not finite; name two different classes")
    return direction


@torch.no_grad()
def run_steer(
    params: Params,
    profile: Profile,
    name: str,
    source: Path,
    directions: Path,
    out: Path,
    away: str | None = None,
    toward: str | None = None,
    strengths: list[float] | None = None,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Decodes m + s·d for each strength s, with the same noise: m the map of `source`, d of `read_direction`.

    `source` is a photograph, or a .safetensors file of one map. Writes into the new folder `out`: `<id>.png`, the
    photograph, where it is one; `<id>-<k>.png` for strength k; steer.csv with, for each, how far its map `moved` from m
    along d, ⟨f(x) − m, d⟩/‖d‖², measured from the image. Returns that table. Raises UsageError or FeatspaceError for
    whatever cannot be read, or is of another encoder or shape.
    """
    refuse_taken(out)
    decoder = FeatInv(params, profile, name, choose_device(profile.decode.device), folder)
    strengths = strengths or profile.featinv.steer.strengths
    conditioning, photographs = read_conditioning(decoder.encoder, [source], decoder.resolution)
    if len(conditioning) != 1:
        raise UsageError(
            f"{source}: holds {len(conditioning)} features, but one is steered; give it in a file of its own"
        )
    direction = read_direction(directions, decoder.encoder, away, toward)
    ((id, hint),) = conditioning.items()
    steered = torch.stack([hint + strength * direction for strength in strengths])
    images = decoder.decode(steered, [seed_of(params.seed, id, 0)] * len(strengths))
    maps = torch.cat([decoder.encoder.spatial(image[None].to(decoder.device)).cpu() for image in images])
    moved = ((maps - hint) * direction).sum((1, 2, 3)) / direction.square().sum()
    with atomic_dir(out) as partial:
        for each, image in photographs.items():
            save_png(partial / f"{each}.png", image)
        rows = []
        for k, (strength, image) in enumerate(zip(strengths, images, strict=True)):
            save_png(partial / f"{id}-{k}.png", image)
            rows.append({"strength": strength, "file": f"{id}-{k}.png", "moved": float(moved[k])})
        table = pd.DataFrame(rows)
        write_table(table, partial / "steer.csv")
    return table
