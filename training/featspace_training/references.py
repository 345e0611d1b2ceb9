"""Features of the held-out photographs: what a distance is compared with. Features are shipped, images are not."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from featspace.config.params import Params
from featspace.encoders.encoder import load_encoder
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file
from featspace_training import data


@torch.no_grad()
def run(params_file: Path, name: str, photographs: Path, out: Path) -> None:
    """Writes `features` (N, D) float16 of the val split by the encoder `name` of the profile `mini`."""
    params = Params.load(params_file)
    own = params.profile("mini").encoder(name)
    encoder = load_encoder(own.network, params.root, layer=own.layer)
    images, _ = data.load_split(photographs, "val")
    features = torch.cat([encoder(data.to_unit(part)) for part in images.split(64)])
    with atomic_file(out) as partial:
        save_file({"features": features.half()}, partial)


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")
