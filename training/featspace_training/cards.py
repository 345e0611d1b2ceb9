"""The model card of the small models, with every number and picture measured anew from the shipped weights.

`python -m featspace_training.cards MODELS PHOTOGRAPHS SAMPLES PARAMS OUT` writes the folder OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from featspace.config.params import Params
from featspace.data.targets import locate_image
from featspace.encoders.encoder import load_encoder
from featspace.figures.style import Row, matrix, save, style
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_dir
from featspace.utils.images import read_image, square
from featspace_training.measures import Measured, measure, reconstruct
from featspace_training.pictures import histograms

MEASURES = {
    "top1": ("top-1 accuracy, 50 classes", "{:.3f}"),
    "zero_shot_top1": ("zero-shot top-1 accuracy, 50 classes, seven wordings averaged", "{:.3f}"),
    "psnr": ("PSNR of the autoencoder’s reconstructions, 64×64, dB", "{:.2f}"),
    "kept_encoder": ("… and median cosine of EfficientNet-Lite0’s features, photograph to reconstruction", "{:.3f}"),
    "kept_judge": ("… of the judge’s", "{:.3f}"),
    "confidence_samples": ("mean probability of the judge’s first class, samples", "{:.3f}"),
    "confidence_held_out": ("… held-out photographs", "{:.3f}"),
    "noise_error": ("mean squared error of the predicted noise, uniform over timesteps, empty prompt", "{:.4f}"),
    "frechet_samples": (
        "Fréchet distance to the training photographs, judge’s features, of as many samples as were held out",
        "{:.2f}",
    ),
    "frechet_held_out": ("… of the held-out photographs", "{:.2f}"),
    "near_features": ("samples nearer to a training photograph than 99 % of held-out ones, judge’s features", "{:.1%}"),
    "near_pixels": ("… in pixels", "{:.1%}"),
}
CARD = """\
---
license: other
license_name: research-only
---

# The small models of the default profile

`training` in this repository makes them; `training/params.yaml` is their recipe, `training/curves` how they learned.
Half precision, {size:.0f} MiB in all.

| folder | holds |
| --- | --- |
| `prior` | latent diffusion model in Stable Diffusion's layout: AutoencoderKL (latents 4×16×16), UNet with \
cross-attention, CLIP text encoder and tokenizer. It predicts noise; captions were dropped half of the time, so the \
empty prompt is the unconditional model. Opens with `diffusers.StableDiffusionPipeline`. |
| `clip` | CLIP with a ResNet tower, in open_clip's layout. It saw captions \
of the 50 classes and, as far as its teacher found them likely, of ImageNet's 1000; other words mean nothing to it. |
| `vit` | ViT classifier of 50 classes, in timm's layout; the feature is the class token. |
| `references` | features of the held-out photographs, by each encoder |

**Data.** 25,000 photographs of 50 classes of Tiny ImageNet (500 a class), 64×64; {held_out:,} others were held out.
They are research data, so the weights are for research only.

## Measured

From these files, in float32, on the held-out photographs and {samples:,} samples of the empty prompt (50 DDIM steps,
seeds 0, 1, 2, …): `cd training && dvc repro card`. The judge is `{judge}`.

| model | measure | value |
| --- | --- | --- |
{rows}

What was tried to better them, and what it gave, is in
[docs/experiments.md](../../../docs/experiments.md#small-models).

![Samples of the prior](samples.png)

*The first {shown} samples of the empty prompt.*

![Photographs and their reconstructions](reconstructions.png)

*The default profile's targets, encoded and decoded by the autoencoder alone: no decoded image can be sharper.*

![Distances to the nearest training photograph](neighbors.png)

*Memorization: had the prior stored photographs, its samples would lie nearer to the training photographs (in pixels: or
their mirror images) than held-out photographs do. Lines are medians; {held_out:,} images each. Smooth images lie
nearer in pixels whatever they show.*
"""
SHOWN, ACROSS = 96, 12


def run(models: Path, photographs: Path, samples: Path, params_file: Path, out: Path) -> None:
    """Measures the weights in `models` and writes the folder `out`: README.md and its pictures.

    samples: file that `featspace_training.samples` wrote. params_file: names the profile `mini`, whose photos are
    shown. Raises FeatspaceError if one of them is missing.
    """
    try:
        drawn = np.load(samples, allow_pickle=False)  # noqa: TID251 - numbers alone
    except (OSError, ValueError) as error:
        raise FeatspaceError(f"{samples}: no samples to be read ({error}); `dvc repro samples` draws them") from None
    params = Params.load(params_file)  # first, as measuring takes minutes
    profile = params.profile("mini")
    judge = load_encoder(profile.judge, params.root)
    rows, neighbors = measure(models, judge, photographs, torch.from_numpy(drawn).permute(0, 3, 1, 2))
    photos = [
        square(read_image(locate_image(photo.image, params.root)), profile.resolution, photo.crop)
        for photo in profile.photos.values()
    ]
    autoencoder = AutoencoderKL.from_pretrained(models / "prior" / "vae", dtype=torch.float32)
    shown = [Image.fromarray(image) for image in drawn[: SHOWN - SHOWN % ACROSS]]
    with atomic_dir(out) as partial:
        with style():
            drawings = {
                "samples": matrix([_row("", shown[i : i + ACROSS]) for i in range(0, len(shown), ACROSS)]),
                "reconstructions": matrix([_row("target", photos), _row("decoded", _decoded(autoencoder, photos))]),
                "neighbors": histograms(neighbors),
            }
            for name, figure in drawings.items():
                save(figure, partial / name, [".png"])
        text = CARD.format(
            rows="\n".join(f"| {row.model} | {MEASURES[row.measure][0]} | {_value(row)} |" for row in rows),
            size=sum(file.stat().st_size for file in models.rglob("*.safetensors")) / 2**20,
            held_out=len(neighbors[0].held_out),
            samples=len(drawn),
            judge=profile.judge,
            shown=len(shown),
        )
        (partial / "README.md").write_text(text, encoding="utf-8")


def _row(name: str, images: list[Image.Image]) -> Row:
    return Row(name, [(image, "") for image in images])


def _decoded(autoencoder: AutoencoderKL, photos: list[Image.Image]) -> list[Image.Image]:
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).permute(0, 3, 1, 2)
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in reconstruct(autoencoder, pixels)]


def _value(row: Measured) -> str:
    return MEASURES[row.measure][1].format(row.value)


if __name__ == "__main__":
    try:
        run(*map(Path, sys.argv[1:]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")
