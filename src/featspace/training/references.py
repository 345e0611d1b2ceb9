"""Features of the held-out photographs: what a distance is compared with. Features are shipped, images are not."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from featspace.encoders import load_encoder
from featspace.errors import FeatspaceError
from featspace.files import atomic_file
from featspace.training import data


@torch.no_grad()
def run(network: Path, photographs: Path, out: Path) -> None:
    """Writes `features` (N, D) float16 of the val split by the encoder in the folder `network`."""
    encoder = load_encoder(str(network))
    images, _ = data.load_split(photographs, "val")
    features = torch.cat([encoder(data.to_unit(part)) for part in images.split(64)])
    with atomic_file(out) as aside:
        save_file({"features": features.half()}, aside)


if __name__ == "__main__":
    try:
        run(*map(Path, sys.argv[1:]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")
