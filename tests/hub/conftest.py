"""The hub of these tests, with tiny models in the real layouts."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import open_clip
import pytest
import timm
import torch
import torchvision
from local_hub import LocalHub
from safetensors.torch import load, save
from tiny_project import VAE, point, state


@pytest.fixture(scope="module")
def published(project: Path) -> dict:
    """What the repositories hold, with what no one needs beside it, and the file of a plain web server."""
    prior = project / "data/models/prior"
    files = {p.relative_to(prior).as_posix(): p.read_bytes() for p in prior.rglob("*") if p.is_file()}
    index = json.loads(files["model_index.json"])
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    files["model_index.json"] = json.dumps(index).encode()
    # Stable Diffusion v1-4 was published with these names, which diffusers still knows.
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = {}
    for name, value in load(files[VAE]).items():
        vae[functools.reduce(lambda name, new: name.replace(new, old[new]), old, name)] = value
    files[VAE] = save(vae)
    for name in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "README.md"):
        files[name] = b"not needed"
    files |= {"safety_checker/model.safetensors": b"not needed", "tokenizer/tokenizer.pkl": b"a pickle"}
    torch.manual_seed(0)
    resnet = state(timm.create_model("test_resnet"))
    clip = (project / "data/models/clip/open_clip_model.safetensors").read_bytes()
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), project / "net.pth")
    repositories = {
        "org/tiny-sd": files,
        "timm/test_resnet.r160_in1k": {"model.safetensors": resnet, "pytorch_model.bin": b"a pickle"},
        "org/tiny-clip": {"open_clip_model.safetensors": clip},
    }
    config = json.loads((project / "data/models/clip/open_clip_config.json").read_text())["model_cfg"]
    return {"repositories": repositories, "net": (project / "net.pth").read_bytes(), "clip": config}


@pytest.fixture
def hub(published: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The hub, empty caches, a token that only the hub may see, and a folder with params.yaml to work in."""
    with LocalHub() as hub:
        for name, files in published["repositories"].items():
            hub.add(name, dict(files))
        point(monkeypatch, hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at once, and so kept
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        digest = hashlib.sha256(published["net"]).hexdigest()
        hub.files[f"net-{digest[:8]}.pth"] = published["net"]
        weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
        monkeypatch.setattr(weights.value, "url", f"{hub.url}/models/net-{digest[:8]}.pth")
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", published["clip"])
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": {"hf_hub": "org/tiny-clip/"}})
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        yield hub
