"""What all tests of encoders share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import skimage.data
import timm
from PIL import Image
from timm.models import save_for_hf
from tiny_networks import CLIP_CONFIG, randomize, write_open_clip, write_transformers

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[object]]:
    """Any attempt to connect fails, and so does the test that made one; no cache of the machine is seen."""
    made: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        made.append(args)
        raise OSError("the network is closed in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield made
    assert not made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local folders in float16: `resnet`, `vit` (timm), `clip` (open_clip), `hf-*` (transformers)."""
    root = tmp_path_factory.mktemp("models")
    resnet = randomize(timm.create_model("test_resnet", num_classes=5), 1)
    save_for_hf(resnet.half(), root / "resnet", safe_serialization=True, data_config={"input_size": (3, 64, 64)})
    vit = randomize(timm.create_model("test_vit", num_classes=5, img_size=64), 2)
    save_for_hf(vit.half(), root / "vit", safe_serialization=True, data_config={"input_size": (3, 64, 64)})
    write_open_clip(root / "clip", CLIP_CONFIG)
    write_transformers(root)
    return root


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Photographs larger and smaller than the networks' input, square, wide and tall."""
    images = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    images += [image.resize((image.width // 9, image.height // 9 - 1)) for image in images]
    return [*images, images[3].crop((101, 0, 402, 427)).rotate(90, expand=True)]
