"""The model card of a small model: data, recipe, measured quality, licence. Written beside its weights."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from featspace.files import atomic_file
from featspace.training.loop import Recipe

KINDS = {
    "prior": "Latent diffusion prior, 64×64 pixels, in Stable Diffusion's layout: AutoencoderKL (latents 4×16×16),\n"
    "UNet with cross-attention, CLIP text encoder and tokenizer. It predicts noise; captions were dropped half of the\n"
    "time, so the empty prompt is the unconditional model. It opens with `diffusers.StableDiffusionPipeline`.",
    "clip": "CLIP model with a ResNet visual tower, in open_clip's layout. It saw one caption a class, in seven\n"
    "wordings; other words mean nothing to it.",
    "resnet": "ResNet classifier of 50 classes, in timm's layout; the feature is the pooled one.",
    "vit": "ViT classifier of 50 classes, in timm's layout; the feature is the class token.",
    "judge": "CSPDarknet classifier of 50 classes, in timm's layout. It takes no part in guidance: it judges images.",
}
MEASURES = {
    "psnr": "PSNR of reconstructions, dB, 64×64",
    "top1": "top-1 accuracy, 50 classes",
    "zero_shot_top1": "zero-shot top-1 accuracy, 50 classes, seven wordings averaged",
    "held_out_error": "mean squared error of the predicted noise, uniform over timesteps, empty prompt",
}


def write(folder: Path, name: str, recipes: dict[str, Recipe], curves: dict[str, Path]) -> None:
    """Writes `<folder>/README.md` from the recipes and the last row of the curves of its parts."""
    rows = [
        f"| {part} | {MEASURES[key]} | {value:.4g} |"
        for part, curve in curves.items()
        for key, value in pd.read_csv(curve).iloc[-1].items()
        if key in MEASURES
    ]
    recipe = io.StringIO()
    YAML(typ="safe").dump(
        {part: recipe.model_dump(mode="json", exclude={"checkpoint_seconds"}) for part, recipe in recipes.items()},
        recipe,
    )
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**20
    text = "\n".join(
        [
            "---",
            "license: other",
            "license_name: research-only",
            "---",
            "",
            f"# featspace mini: {name}",
            "",
            KINDS[name],
            "",
            f"Weights: {size:.1f} MiB, half precision. Made by `training/dvc.yaml` of this repository.",
            "",
            "**Data.** 25,000 photographs of 50 classes of Tiny ImageNet (500 a class), 64×64; 1,250 others (25 a",
            "class) were held out. They are research data, so the weights are for research only.",
            "",
            "**Measured** on the held-out photographs when training ended, on the averaged weights in float32:",
            "",
            "| part | measure | value |",
            "| --- | --- | --- |",
            *rows,
            "",
            "**Recipe**",
            "",
            "```yaml",
            recipe.getvalue().rstrip(),
            "```",
            "",
        ]
    )
    with atomic_file(folder / "README.md") as aside:
        aside.write_text(text, encoding="utf-8")
