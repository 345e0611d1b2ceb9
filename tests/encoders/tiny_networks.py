"""Tiny random networks of every library, in local folders, and how their own library loads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from featspace.utils.errors import UsageError

NAMES = ["resnet", "vit", "clip", "hf-clip", "hf-siglip", "hf-dino"]
CLIP_CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TEXT = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 8}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 8}


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights of a size at which every layer, normalisation included, has a part in the feature."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "running_var" not in name:
            fan_in = value[0].numel() if value.ndim > 1 else 4
            noise = torch.randn(value.shape, generator=generator) / fan_in**0.5
            value.copy_(noise + (1.0 if value.ndim == 1 and name.endswith("weight") else 0.0))
    return model.eval()


def write_open_clip(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True)
    model = randomize(open_clip.CLIP(**copy.deepcopy(config)), 3)
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))


def write_transformers(root: Path) -> None:
    clip = transformers.CLIPConfig(
        text_config=TEXT | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=VISION,
        projection_dim=12,
    )
    siglip = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    dino = transformers.Dinov2Config(**VISION)
    small = {"height": 32, "width": 32}
    for name, model, processor in (
        (
            "hf-clip",
            transformers.CLIPModel(clip),
            transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=small),
        ),
        ("hf-siglip", transformers.SiglipModel(siglip), transformers.SiglipImageProcessor(size=small)),
        (
            "hf-dino",
            transformers.Dinov2Model(dino),
            transformers.BitImageProcessor(size={"shortest_edge": 40}, crop_size=small),
        ),
    ):
        randomize(model, 4).half().save_pretrained(root / name)
        processor.save_pretrained(root / name)
        if name != "hf-dino":
            words = [
                "<|startoftext|>",
                "<|endoftext|>",
                "a</w>",
                "cat</w>",
                "c",
                "t</w>",
                "a",
                "ca",
                "dog</w>",
            ]
            merges = [("c", "a"), ("ca", "t</w>")]
            vocabulary = {word: index for index, word in enumerate(words)}
            transformers.CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(root / name)


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def library(folder: Path) -> tuple:
    """Network, transform of PIL images and feature of network inputs, by the library of the folder."""
    name = f"local-dir:{folder}"
    if (folder / "open_clip_config.json").exists():
        model, _, transform = open_clip.create_model_and_transforms(name)
        return model.eval(), lambda image: transform(image)[None], model.encode_image
    if "architecture" in json.loads((folder / "config.json").read_text()):
        model = timm.create_model(name, pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        head = lambda x: model.forward_head(model.forward_features(x), pre_logits=True)  # noqa: E731
        return model, lambda image: transform(image)[None], head
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    features = getattr(model, "get_image_features", model)
    return (
        model,
        lambda image: processor(image, return_tensors="pt").pixel_values,
        lambda x: features(x).pooler_output,
    )


def seen(model: nn.Module, layer: str, inputs: Tensor) -> Any:
    """A layer's output as it is."""
    found: list[Any] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _given, out: found.append(out))
    model(inputs)
    handle.remove()
    return found[0]


def refused(make: Any, *given: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)
