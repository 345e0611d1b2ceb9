"""A whole project in a temporary folder: parameters, tiny models in their real layouts, a photograph."""

from __future__ import annotations

import io
import json
import signal
import socket
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import skimage.data
import timm
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from featspace_training.prior import clip_tokenizer
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from timm.models import save_for_hf
from tiny_models import TEXT, UNET, VAE
from transformers import CLIPTextConfig, CLIPTextModel

from featspace.encoders.encoder import load_encoder
from featspace.priors.architectures import SCHEDULE
from featspace.utils.checksums import write_checksums

# Whoever starts the tests in the background, or under nohup, has these ignored, and all processes with them.
for number, heeded in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, heeded)

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def write_prior(folder: Path) -> None:
    """An untrained prior in Stable Diffusion's layout, in half precision."""
    tokenizer = clip_tokenizer(77)
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, "vocab_size": len(tokenizer)}
    StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE, scaling_factor=1.5).half(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT, **ids)).half(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET).half(),
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def toy_teacher(tmp_path_factory) -> str:
    """Folder of an untrained classifier of 1000 classes, whose stages have maps."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    save_for_hf(timm.create_model("test_efficientnet", num_classes=1000), folder, safe_serialization=True)
    return str(folder)


@pytest.fixture(scope="session")
def toy_photographs(tmp_path_factory):
    """Twelve 64×64 images of two classes in the layout of the training data."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = []
        for i in range(12):
            pixels = rng.integers(0, 128, (64, 64, 3), np.uint8) + np.uint8(100 * (i % 2))
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "WEBP")
            rows.append({"image": {"bytes": encoded.getvalue(), "path": f"{i}.webp"}, "label": i % 2})
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    names = [{"label": 0, "name": "tabby, cat"}, {"label": 1, "name": "school bus"}]
    (folder / "classes.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """A folder in ImageNet's layout: two classes of six JPEG files in each split."""
    folder = tmp_path / "imagenet"
    for split in ("train", "val"):
        for label, name in enumerate(("n01440764", "n01443537")):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = torch.randint(256, (3, 70, 90), generator=torch.Generator().manual_seed(100 * label + i))
                image = Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy())
                image.save(folder / split / name / f"{i}.JPEG")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with params.yaml, tiny models in data/models with their manifest, and a photograph."""
    root = tmp_path_factory.mktemp("project")
    models = root / "data" / "models"
    torch.manual_seed(0)
    write_prior(models / "prior")
    for name in ("resnet", "judge"):
        network = timm.create_model("test_resnet", num_classes=5)
        save_for_hf(network.half(), models / name, safe_serialization=True, data_config={"input_size": (3, 64, 64)})
    (models / "clip").mkdir()
    clip = open_clip.CLIP(**CLIP).half().state_dict()
    save_file({k: v.contiguous() for k, v in clip.items()}, models / "clip" / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": CLIP, "preprocess_cfg": preprocess}
    (models / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    (models / "references").mkdir()
    for name in ("resnet", "clip"):
        dim = load_encoder(str(models / name)).dim
        save_file({"features": torch.randn(20, dim).half()}, models / "references" / f"{name}.safetensors")
    write_checksums([models], models / "SHA256SUMS")
    profile = {
        "prior": "data/models/prior",
        "resolution": 64,
        "encoders": {"clip": {"network": "data/models/clip"}, "resnet": {"network": "data/models/resnet"}},
        "judge": "data/models/judge",
        "decode": {
            "preset": "paper",
            "steps": 3,
            "recurrences": 1,
            "emphasis_steps": 1,
            "emphasis_recurrences": 2,
            "samples": 2,
            "batch": 3,
        },
        "photos": {"cat": {"image": "skimage:chelsea"}, "cup": {"image": "skimage:coffee"}},
        "captions": {"tabby": "a photo of a tabby"},
        "similarity": {"photographs": "data/models/references", "jpeg": [90, 75], "bootstrap": 50},
    }
    YAML(typ="safe").dump({"seed": 0, "mini": profile}, root / "params.yaml")
    Image.fromarray(skimage.data.rocket()).save(root / "photo.jpg")
    return root


@pytest.fixture
def offline(monkeypatch, project):
    """Runs in the project's folder; any attempt to open a connection fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(project)
