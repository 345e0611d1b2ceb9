"""The features of all targets in a file: what `featspace features` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from featspace.data.features import write_features
from featspace.data.targets import read_targets
from featspace.utils.errors import FeatspaceError, enough_memory
from featspace.utils.images import read_image, to_tensor

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder


@torch.no_grad()
def run_features(encoder: Encoder, targets: Path, out: Path) -> None:
    """Writes the encoder's raw features of a folder of targets: one tensor (dim,), of a layer's map (C, h, w),
    float32, a target id.

    Captions are left out if the encoder has no text tower. The file's metadata name the encoder and the sum of its
    weights. Raises FeatspaceError if a photo cannot be read, a feature is not finite, or memory is short.
    """
    device = next(encoder.parameters()).device
    features: dict[str, torch.Tensor] = {}
    for target in read_targets(targets):  # one by one, so that no feature depends on which others there are
        if target.kind == "photo":
            image = to_tensor(read_image(Path(targets) / f"{target.id}.png"))
            pixels = f"{image.shape[2]}x{image.shape[1]} pixels"
            with enough_memory(f"on {device} with one image of {pixels}", "free some, or take a smaller network"):
                features[target.id] = encoder(image[None].to(device))[0]
        elif encoder.has_text:
            features[target.id] = encoder.encode_text([target.text])[0]
    if not features:
        raise FeatspaceError(f"{targets}: only captions, but {encoder.network} has no text tower")
    features = {name: feature.float().cpu().reshape(encoder.shape).contiguous() for name, feature in features.items()}
    for name, feature in features.items():
        if not torch.isfinite(feature).all():
            raise FeatspaceError(f"{encoder.network}: its feature of {name} is not finite; check its weights")
    write_features(features, encoder, out)
