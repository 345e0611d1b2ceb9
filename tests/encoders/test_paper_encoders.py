"""The paper's three encoders at their real size, through the same loader, without their weights.

The libraries build them on the meta device, which has shapes and no memory; files of weights have their real names,
shapes and size, and nothing but holes in them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from tiny_networks import tensor
from torch import Tensor
from torchvision.models import ResNet50_Weights, ViT_H_14_Weights
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from featspace.config.params import Params
from featspace.encoders import encoder as encoders
from featspace.encoders.adapters import torchvision as from_torchvision
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.utils.errors import FeatspaceError

IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
PUBLISHED = {
    "clip": {
        "parameters": 102_007_137,
        "dim": 1024,
        "transform": [Resize(224, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor(), OPENAI],
        "shapes": {
            "visual.conv1.weight": (32, 3, 3, 3),
            "visual.layer4.2.conv3.weight": (2048, 512, 1, 1),
            "visual.attnpool.positional_embedding": (50, 2048),
            "visual.attnpool.c_proj.weight": (1024, 2048),
            "positional_embedding": (77, 512),
            "token_embedding.weight": (49408, 512),
            "transformer.resblocks.11.mlp.c_fc.weight": (2048, 512),
            "text_projection": (512, 1024),
        },
    },
    "resnet": {
        "parameters": 25_557_032,
        "dim": 2048,
        "transform": [Resize(256, InterpolationMode.BILINEAR), CenterCrop(224), ToTensor(), IMAGENET],
        "shapes": {
            "conv1.weight": (64, 3, 7, 7),
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "layer4.2.conv3.weight": (2048, 512, 1, 1),
            "fc.weight": (1000, 2048),
        },
    },
    "vit": {
        "parameters": 633_470_440,
        "dim": 1280,
        "transform": [Resize(518, InterpolationMode.BICUBIC), CenterCrop(518), ToTensor(), IMAGENET],
        "shapes": {
            "class_token": (1, 1, 1280),
            "conv_proj.weight": (1280, 3, 14, 14),
            "encoder.pos_embedding": (1, 37**2 + 1, 1280),
            "encoder.layers.encoder_layer_31.mlp.0.weight": (5120, 1280),
            "heads.head.weight": (1000, 1280),
        },
    },
}
NETWORKS = {
    name: encoder.network
    for name, encoder in Params.load(Path(__file__).parents[2] / "params.yaml").profile("paper").encoders.items()
}
pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")


def on_meta(create: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def build(*args: Any, **kwargs: Any) -> Any:
        with torch.device("meta"):
            return create(*args, **kwargs | options)

    return build


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict], Encoder]:
    """Loads an encoder of the profile `paper` from weights of the given names and shapes."""
    monkeypatch.setattr(open_clip, "create_model", on_meta(open_clip.create_model, device="meta"))
    monkeypatch.setattr(timm, "create_model", on_meta(timm.create_model))
    monkeypatch.setattr(torchvision.models, "get_model", on_meta(torchvision.models.get_model))

    monkeypatch.setattr(encoders, "resolve", lambda network, root: tmp_path)

    def load(name: str, shapes: dict[str, tuple[int, ...]]) -> Encoder:
        if name != "vit":
            files = {"clip": "open_clip_model.safetensors", "resnet": "model.safetensors"}
            write_sparse(tmp_path / files[name], shapes)

        def read_checkpoint(path: Path) -> dict[str, Tensor]:
            assert path == tmp_path / "vit_h_14_swag-80465313.pth"
            return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}

        monkeypatch.setattr(from_torchvision, "read_checkpoint", read_checkpoint)
        return load_encoder(NETWORKS[name])

    return load


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of weights, which takes no room on the disk, nor in memory until it is read."""
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(file.tell() + end)


def architecture(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of an architecture, as its library has them."""
    with torch.device("meta"):
        if name == "clip":
            model = open_clip.CLIP(**open_clip.get_model_config("RN50"))
        elif name == "resnet":
            model = torchvision.models.resnet50()  # of which timm has the same names
        else:
            model = torchvision.models.vit_h_14(image_size=518)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_published_shapes(name: str, load: Callable[..., Encoder]) -> None:
    published, shapes = PUBLISHED[name], architecture(name)
    assert {key: shapes.get(key) for key in published["shapes"]} == published["shapes"]
    encoder = load(name, shapes)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == published["parameters"]
    assert encoder.dim == published["dim"]

    images = torch.rand(2, 3, 512, 512, device="meta", requires_grad=True)
    inputs = encoder._inputs(images)
    assert inputs.shape == (2, 3, *encoder.input_size)
    feature = encoder._feature(encoder.model, inputs)
    assert feature.shape == (2, encoder.dim) and feature.dtype == torch.float32
    assert torch.autograd.grad(feature.sum(), images)[0].shape == images.shape
    assert encoder.has_text == (name == "clip") and encoder.has_classifier == (name != "clip")
    if encoder.has_text:
        assert encoder._text(encoder.model, ["a black motorbike", "a dog"]).shape == (2, encoder.dim)
    else:
        assert encoder._logits(encoder.model, inputs).shape == (2, 1000)


@pytest.mark.parametrize("name", NETWORKS)
def test_published_preprocessing(name: str, load: Callable[..., Encoder], photos: list[Image.Image]) -> None:
    """The tolerance of all preprocessing: 2/255 at most and 0.5/255 on average before normalisation."""
    resize, crop, _, normalize = transform = PUBLISHED[name]["transform"]
    encoder = load(name, architecture(name))
    assert encoder.preprocess.fit == "shortest" and encoder.input_size == crop.size
    assert encoder.preprocess.resize == (resize.size, resize.size)
    assert encoder.preprocess.interpolation == resize.interpolation.value
    assert encoder.mean.flatten().tolist() == pytest.approx(normalize.mean)
    assert encoder.std.flatten().tolist() == pytest.approx(normalize.std)
    for image in [*photos, photos[0].crop((0, 0, 512, 512))]:
        difference = (encoder.preprocess(tensor(image)) - Compose(transform)(image)[None]).mul(encoder.std).abs()
        assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_weights_of_another_architecture(name: str, damage: str, load: Callable[..., Encoder]) -> None:
    """That the tests above would see one wrong name or shape."""
    shapes = architecture(name)
    key = next(iter(PUBLISHED[name]["shapes"]))
    shapes = {k: (*shape, 2) if k == key else shape for k, shape in shapes.items() if damage == "shape" or k != key}
    with pytest.raises(FeatspaceError, match="do not fit") as caught:
        load(name, shapes)
    assert str(caught.value).startswith(NETWORKS[name]) and "\n" not in str(caught.value)


def test_clip_has_quick_gelu_in_its_text_tower_and_a_resnet_for_images(load: Callable[..., Encoder]) -> None:
    model = load("clip", architecture("clip")).model
    assert len(model.transformer.resblocks) == 12
    for block in model.transformer.resblocks:
        assert isinstance(block.mlp.gelu, open_clip.transformer.QuickGELU) and block.attn.num_heads == 8
    assert not any(isinstance(module, torch.nn.GELU) for module in model.modules())
    assert isinstance(model.visual, open_clip.modified_resnet.ModifiedResNet)
    assert [len(getattr(model.visual, f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 4, 6, 3]
    assert model.visual.attnpool.num_heads == 32


def test_published_weights() -> None:
    """Digests that the publishers put into the files' names: ResNet-50's first weights, not its second."""
    assert timm.get_pretrained_cfg("resnet50.tv_in1k").url.endswith("/resnet50-0676ba61.pth")
    assert ResNet50_Weights.IMAGENET1K_V1.url.endswith("/resnet50-0676ba61.pth")
    assert ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1.meta["num_params"] == PUBLISHED["vit"]["parameters"]
    openai = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    assert open_clip.get_pretrained_cfg("RN50", "openai")["url"].split("/")[-2] == openai
    assert NETWORKS == {
        "clip": "open_clip:RN50/openai",
        "resnet": "timm:resnet50.tv_in1k",
        "vit": "torchvision:vit_h_14/IMAGENET1K_SWAG_E2E_V1",
    }
