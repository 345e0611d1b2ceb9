"""One call from a photograph, or a feature, to decoded images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featspace.encoders.encoder import Encoder, load_encoder
from featspace.methods.problem import Method
from featspace.pipelines.feature_decoding import FeatureDecodingOutput, FeatureDecodingPipeline
from featspace.pipelines.loading import load_pipeline
from featspace.utils.devices import choose_device
from featspace.utils.images import read_image

PRIOR = "diffusers:CompVis/stable-diffusion-v1-4"
"""The published prior."""


def decode(
    target: str | Path | Image.Image | Tensor,
    encoder: str | Callable[[Tensor], Tensor],
    prior: str | FeatureDecodingPipeline = PRIOR,
    method: str | Method = "fast",
    num_inference_steps: int | None = None,
    *,
    samples: int = 1,
    seed: int = 0,
    layer: str | None = None,
    device: str = "auto",
    root: Path = Path(),
    **options: Any,
) -> FeatureDecodingOutput:
    """`samples` images whose feature comes to match that of `target`: a photograph, its file, or a feature (D,).

    `encoder` is a network's name (`load_encoder`), at `layer` if one is given, or a function as
    `FeatureDecodingPipeline` takes; `prior` a folder in Stable Diffusion's layout, `diffusers:<repo>`, or a pipeline;
    relative folders are meant from `root`. `device`: auto, cpu or cuda. Sample k is drawn from the seed `seed` + k.
    `method`, `num_inference_steps` and the other options are those of `FeatureDecodingPipeline`.

    Raises UsageError and FeatspaceError as loading and decoding do.
    """
    where = choose_device(device)
    pipeline = load_pipeline(prior, root, device=where) if isinstance(prior, str) else prior
    network = load_encoder(encoder, root, layer=layer).to(where) if isinstance(encoder, str) else encoder
    if isinstance(network, Encoder):
        options.setdefault("copies", len(network.shape) == 1)  # a map says where things are
    if isinstance(target, str | Path):
        target = read_image(Path(target))
    feature = target.flatten()[None] if isinstance(target, Tensor) else pipeline.features([target], network)
    images, distances, decoded = pipeline(
        feature.expand(samples, -1),
        network,
        method,
        num_inference_steps,
        generator=[torch.Generator().manual_seed(seed + sample) for sample in range(samples)],
        return_dict=False,
        **options,
    )
    return FeatureDecodingOutput(images, distances, decoded)
