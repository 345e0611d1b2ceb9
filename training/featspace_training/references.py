"""Features of the held-out photographs: what a distance is compared with. Features are shipped, images are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from featspace.config.params import Params
from featspace.data.targets import slug
from featspace.encoders.encoder import load_encoder
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file
from featspace_training import data


@torch.no_grad()
def run(params_file: Path, name: str, photographs: Path, out: Path) -> None:
    """Writes `features` (N, D) float16 of the val split by the encoder `name` of the profile `mini`, and `labels` (N,).

    The names of the classes are in the metadata, as `read_references` reads them.
    """
    params = Params.load(params_file)
    own = params.profile("mini").encoder(name)
    encoder = load_encoder(own.network, params.root, layer=own.layer)
    images, labels = data.load_split(photographs, "val")
    features = torch.cat([encoder(data.to_unit(part)) for part in images.split(64)])
    with atomic_file(out) as partial:
        names = {"classes": json.dumps([slug(name) for name in data.class_names(photographs)])}
        save_file({"features": features.half(), "labels": labels.to(torch.uint8)}, partial, metadata=names)


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")
