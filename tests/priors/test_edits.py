"""Priors and networks that differ from good ones by one edit: they work as edited, or are refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from featspace.encoders.encoder import load_encoder
from featspace.pipelines.loading import load_pipeline
from featspace.utils.errors import FeatspaceError

pytestmark = pytest.mark.usefixtures("offline")
GONE = "removed"


def edit(path: Path, key: str, value: object) -> None:
    """Sets the key, of nested objects with dots between, or removes it."""
    config = json.loads(path.read_text())
    *outer, last = key.split(".")
    place = config
    for name in outer:
        place = place[name]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(config))


def refused(load: Callable[[str], object], source: str) -> str:
    with pytest.raises(FeatspaceError) as caught:
        load(source)
    line = str(caught.value)
    assert line.startswith(f"{source}: ") and "\n" not in line and len(line) < 400
    return line


UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
PRIORS = [
    (UNET, "sample_size", 8, ""),
    (UNET, "sample_size", [16, 8], "it must be one number, as images are square"),
    (UNET, "sample_size", None, "it must be one number, as images are square"),
    (UNET, "in_channels", 9, "configuration and weights do not fit"),
    (UNET, "out_channels", 8, "configuration and weights do not fit"),
    (UNET, "out_channels", 3, "configuration and weights do not fit"),
    (UNET, "cross_attention_dim", 16, "configuration and weights do not fit"),
    (UNET, "block_out_channels", [8, 16], "configuration and weights do not fit"),
    (UNET, "norm_num_groups", 3, "configuration and weights do not fit"),
    (UNET, "class_embed_type", "timestep", "its weights lack unet/class_embedding"),
    (UNET, "down_block_types", ["DownBlock2D", "NoBlock2D"], "configuration and weights do not fit"),
    (UNET, "num_class_embeds", 10, "its weights lack unet/class_embedding"),
    (UNET, "time_cond_proj_dim", 8, "its weights lack unet/time_embedding"),
    (UNET, "_class_name", "UNet2DModel", ""),
    (VAE, "latent_channels", 8, "configuration and weights do not fit"),
    (VAE, "scaling_factor", 0, "scaling_factor is 0: it must be greater than 0"),
    (VAE, "scaling_factor", 2.0, ""),
    (VAE, "out_channels", 1, "configuration and weights do not fit"),
    (VAE, "in_channels", 1, "configuration and weights do not fit"),
    (VAE, "latents_mean", [0.0] * 4, ""),
    (TEXT, "hidden_size", 16, "configuration and weights do not fit"),
    (TEXT, "vocab_size", 10, "configuration and weights do not fit"),
    (TEXT, "max_position_embeddings", 10, "configuration and weights do not fit"),
    (SCHEDULER, "prediction_type", "v_prediction", ""),
    (SCHEDULER, "prediction_type", "flow", "which predicts flow; take a prior that predicts epsilon"),
    (SCHEDULER, "num_train_timesteps", 100, ""),
    (SCHEDULER, "num_train_timesteps", 0, "configuration and weights do not fit"),
    (SCHEDULER, "beta_end", 1.0, "ends in noise alone"),
    (SCHEDULER, "beta_end", -1.0, "configuration and weights do not fit"),
    (SCHEDULER, "beta_schedule", "none", "configuration and weights do not fit"),
    (SCHEDULER, "_class_name", "NoScheduler", ""),
    (SCHEDULER, "_class_name", "EulerDiscreteScheduler", ""),
    (INDEX, "_class_name", "StableDiffusionXLPipeline", ""),
    (INDEX, "unet", GONE, ""),
    (INDEX, "vae", ["diffusers", "AutoencoderTiny"], ""),
]


@pytest.mark.parametrize(("part", "key", "value", "message"), PRIORS)
def test_priors(project, tmp_path, part, key, value, message):
    shutil.copytree("data/models/prior", tmp_path / "prior")
    edit(tmp_path / "prior" / part, key, value)
    source = str(tmp_path / "prior")
    if message:
        assert message in refused(load_pipeline, source)
        return
    pipeline = load_pipeline(source)
    pipeline.set_progress_bar_config(disable=True)
    target = torch.tensor([[0.3, 0.5, 0.7]])
    found = pipeline(target, lambda images: images.mean((2, 3)), num_inference_steps=2, output_type="pt").images
    side = pipeline.prior().image_size
    assert found.shape == (1, 3, side, side) and found.isfinite().all()


NETWORKS = [
    ("architecture", "test_vit", "configuration and weights do not fit"),
    ("num_classes", 7, "config.json says 7 classes, but of the network 5; correct num_classes"),
    ("num_features", 7, ""),
    ("global_pool", "max", ""),
    ("pretrained_cfg.input_size", [3, 65, 65], ""),
    ("pretrained_cfg.input_size", [3, 0, 0], "configuration and weights do not fit"),
    ("pretrained_cfg.input_size", [1, 64, 64], ""),
    ("pretrained_cfg.mean", [0.5], "takes images of 1 channel, not of 3"),
    ("pretrained_cfg.mean", ["a", 0, 0], "configuration and weights do not fit"),
    ("pretrained_cfg.std", [0, 0, 0], "its std is [0, 0, 0]: images are divided by it"),
    ("pretrained_cfg.interpolation", "nearest", "cannot preprocess by nearest interpolation, only bicubic, bilinear"),
    ("pretrained_cfg.crop_pct", 0, ""),
    ("pretrained_cfg.crop_pct", 2.0, ""),
    ("pretrained_cfg.crop_mode", "none", "cannot preprocess by none resize, only shortest, longest, squash"),
    ("pretrained_cfg", GONE, "configuration and weights do not fit"),
]


@pytest.mark.parametrize(("key", "value", "message"), NETWORKS)
def test_networks(project, tmp_path, key, value, message):
    shutil.copytree("data/models/resnet", tmp_path / "net")
    edit(tmp_path / "net/config.json", key, value)
    source = str(tmp_path / "net")
    if message:
        assert message in refused(load_encoder, source)
        return
    encoder = load_encoder(source)
    found = encoder(torch.rand(2, 3, 64, 70))
    assert found.shape == (2, encoder.dim) and found.isfinite().all()
