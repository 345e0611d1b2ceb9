"""Where encoders come from: caches and folders, and every way in which that can go wrong."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import save_for_hf
from tiny_networks import CLIP_CONFIG, randomize, write_open_clip

from featspace.encoders.encoder import load_encoder
from featspace.utils.errors import FeatspaceError, UsageError

HUB_COMMIT = "0" * 40


def put_in_hub(tmp_path: Path, repo: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of the Hugging Face cache, as after a download; the hub is asked for no telemetry either."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    cached = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (snapshot := cached / "snapshots" / HUB_COMMIT).mkdir(parents=True)
    shutil.copy(weights, snapshot / weights.name)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(HUB_COMMIT)


@torch.no_grad()
def test_timm_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize(timm.create_model("test_resnet"))
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    weights = tmp_path / "saved" / "model.safetensors"
    put_in_hub(tmp_path, "timm/test_resnet.r160_in1k", weights, monkeypatch)
    inputs = torch.rand(1, 3, 160, 160)
    for name in ("timm:test_resnet.r160_in1k", "timm:test_resnet"):
        encoder = load_encoder(name)
        assert encoder.input_size == (160, 160) and encoder.preprocess.interpolation == "bilinear"
        torch.testing.assert_close(encoder.model(inputs), model(inputs))


@torch.no_grad()
def test_open_clip_tag_brings_its_activation_and_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_open_clip(tmp_path / "saved", CLIP_CONFIG)
    put_in_hub(tmp_path, "org/tiny", tmp_path / "saved" / "open_clip_model.safetensors", monkeypatch)
    plain = {key: value for key, value in CLIP_CONFIG.items() if key != "quick_gelu"}
    tag = {"hf_hub": "org/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", plain)
    tags = {"openai": tag | {"resize_mode": "squash"}, "pickled": {"url": "https://example.org/tiny.pt"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    encoder = load_encoder("open_clip:tiny/openai")
    assert encoder.preprocess.fit == "squash" and encoder.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    expected = load_encoder("saved", tmp_path).encode_text(["a cat"])
    torch.testing.assert_close(encoder.encode_text(["a cat"]), expected)
    with pytest.raises(FeatspaceError, match="only as a pickle"):
        load_encoder("open_clip:tiny/pickled")


class Malicious:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("unpickled"),)


def test_torchvision_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (cache := tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1

    def publish(content: object) -> Path:
        torch.save(content, tmp_path / "new")
        digest = hashlib.sha256((tmp_path / "new").read_bytes()).hexdigest()
        path = cache / f"shufflenet-{digest[:8]}.pth"
        monkeypatch.setattr(weights.value, "url", f"https://example.org/{path.name}")
        return (tmp_path / "new").rename(path)

    model = torchvision.models.shufflenet_v2_x0_5().eval()
    path = publish(model.state_dict())
    encoder = load_encoder("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1")
    inputs = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(encoder._logits(encoder.model, inputs), model(inputs))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeatspaceError, match="altered"):
        load_encoder("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1")
    publish(Malicious())
    with pytest.raises(FeatspaceError, match="shufflenet"):
        load_encoder("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("nothing", "no such folder"),
        ("resnte", "did you mean resnet"),
        ("timmm:resnet50", "did you mean timm"),
        ("timm:resnet5O", "did you mean resnet50"),
        ("timm:resnet50.a1_in2k", "a1_in1k"),
        ("timm:test_nothing", "timm has no model"),
        ("open_clip:RN5O/openai", "did you mean RN50"),
        ("open_clip:RN50/opnai", "openai"),
        ("open_clip:RN50", "after a slash"),
        ("torchvision:resnet5O/IMAGENET1K_V1", "did you mean resnet50"),
        ("torchvision:resnet50/IMAGENET1K_V3", "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:resnet50", "after a slash"),
    ],
)
def test_unknown_network(folders: Path, network: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_encoder(network, folders)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [
        "timm:resnet50.tv_in1k",
        "open_clip:RN50/openai",
        "torchvision:resnet50/IMAGENET1K_V1",
        "transformers:facebook/dinov2-small",
    ],
)
def test_no_network_connection(network: str, attempts: list[object]) -> None:
    with pytest.raises(FeatspaceError) as caught:
        load_encoder(network)
    assert str(caught.value).startswith(network) and "\n" not in str(caught.value)
    assert "check the name and the network connection" in str(caught.value)
    attempts.clear()  # here they are expected


def failure(folder: Path) -> str:
    with pytest.raises(FeatspaceError) as caught:
        load_encoder(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["resnet", "clip", "hf-dino"])
def test_bad_folder(folders: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "models" / name
    shutil.copytree(folders / name, folder)
    weights = next(folder.glob("*.safetensors"))
    config = folder / ("open_clip_config.json" if name == "clip" else "config.json")
    content, described = weights.read_bytes(), config.read_text()

    digest = hashlib.sha256(content).hexdigest()
    (folder.parent / "SHA256SUMS").write_text(f"{digest}  {name}/{weights.name}\n")
    assert load_encoder(str(folder)).dim > 0
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "altered" in failure(folder)
    (folder.parent / "SHA256SUMS").unlink()

    weights.write_bytes(content[: len(content) // 2])
    assert "damaged" in failure(folder)
    weights.unlink()
    assert "missing" in failure(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "pickle" in failure(folder) and "pickle" in failure(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()

    save_file({"nonsense": torch.zeros(1)}, weights)
    failure(folder)
    weights.write_bytes(content)
    config.write_text(described[:-9])
    assert "JSON" in failure(folder)
    config.write_text("[]")
    assert "not the description" in failure(folder)
    config.write_text("{}")
    failure(folder)
    config.unlink()
    assert "not the folder of a network" in failure(folder)


def test_folder_that_needs_the_hub_or_is_unknown(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    shutil.copytree(folders / "vit", folder)
    (folder / "config.json").write_text('{"architecture": "test_vyt", "pretrained_cfg": {}}')
    assert "did you mean test_vit" in failure(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert "supported are clip, siglip" in failure(folder)
    config = copy.deepcopy(CLIP_CONFIG)
    write_open_clip(tmp_path / "clip", config)
    config["text_cfg"]["hf_model_name"] = "roberta-base"
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    assert "on the hub" in failure(tmp_path / "clip")


def test_module_imports_no_library() -> None:
    """Each costs seconds, which a command that needs no encoder does not have."""
    libraries = "{'timm', 'open_clip', 'torchvision', 'transformers'}"
    code = f"import featspace.encoders.encoder, sys; print({libraries} & {{*sys.modules}})"
    source = str(Path(__file__).parents[2] / "src")
    result = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr
