"""Feature maps against the libraries' own, and the layouts that only look like maps, on tiny random networks."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from tiny_networks import CLIP_CONFIG, TEXT, VISION, randomize
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from featspace.encoders.adapters import Layers, Tokens
from featspace.encoders.adapters import open_clip as of_open_clip
from featspace.encoders.adapters import transformers as of_transformers
from featspace.encoders.adapters.timm import _network, maps
from featspace.encoders.adapters.torchvision import split
from featspace.encoders.encoder import Encoder
from featspace.encoders.feature_maps import FeatureMap, at_layer
from featspace.utils.errors import FeatspaceError, UsageError

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
INPUTS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 12, "depths": (2, 2, 1, 1)}
VIT = {"img_size": 64, "patch_size": 32, "reg_tokens": 4}
TIMM = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_convnext": {"conv_mlp": False},
    "test_vit": VIT,
    "swinv2_tiny_window8_256": SWIN,
}


def timm_model(name: str) -> Any:
    model = randomize(timm.create_model(name, num_classes=3, **TIMM[name]))
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 64, 64)}
    return model


def of_timm(name: str, layer: str | None) -> Encoder:
    return Encoder(name, _network(timm_model(name)), layer)


def of_torchvision(model: nn.Module, layer: str | None) -> Encoder:
    network = split(model, torchvision.models.ResNet18_Weights.DEFAULT.transforms())
    return Encoder("torchvision", network, layer, input_size=64)


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


@torch.no_grad()
def test_channels_that_are_last_inside_a_network_that_has_them_first() -> None:
    layer = "stages.1.blocks.0.mlp.fc1"
    network = of_timm("test_convnext", layer)
    found = seen(network.model, layer, network._inputs(IMAGES))
    assert found.shape == (2, 8, 8, 128)
    assert network.shape == (128, 8, 8)
    assert torch.equal(network.spatial(IMAGES), found.permute(0, 3, 1, 2))


@torch.no_grad()
def test_registers_are_not_part_of_the_grid() -> None:
    """Five tokens before a grid of 2x2 are as many as a grid of 3x3."""
    for layer in ("blocks.1", "blocks.1.norm1", "unpooled"):
        network = of_timm("test_vit", layer)
        assert network.shape == (64, 2, 2), layer
        tokens = seen(network.model, "norm" if layer == "unpooled" else layer, network._inputs(IMAGES))
        assert tokens.shape == (2, 9, 64)
        assert torch.equal(network.spatial(IMAGES), tokens[:, 5:].mT.unflatten(2, (2, 2)))


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_entries_of_feature_info_are_timms_own_maps(name: str) -> None:
    """Of the network as timm has it, without folded batch normalizations."""
    model = timm_model(name)
    for index, entry in enumerate(model.feature_info):
        network = Encoder(name, _network(copy.deepcopy(model)), entry["module"])
        options = {"output_fmt": "NCHW", "intermediates_only": True, "norm": False}
        (expected,) = model.forward_intermediates(network._inputs(IMAGES), indices=[index], **options)
        assert network.shape == expected.shape[1:] and network.shape[0] == entry["num_chs"]
        torch.testing.assert_close(network.spatial(IMAGES), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_blocks_of_a_network_that_says_channels_are_last() -> None:
    network = of_timm("swinv2_tiny_window8_256", "layers.1.blocks.0")
    found = seen(network.model, "layers.1.blocks.0", network._inputs(IMAGES))
    assert found.shape == (2, 8, 8, 24)
    assert torch.equal(network.spatial(IMAGES), found.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["relu", "layer1", "layer2.0.conv1", "layer3.0.bn1", "layer4"]),
        ("mobilenet_v3_small", ["features.2", "features"]),
        ("swin", ["features.0", "features.1.0", "features.3", "norm"]),
        ("vit", ["conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.mlp", "encoder.ln"]),
    ],
)
@torch.no_grad()
def test_maps_of_torchvision_are_its_feature_extractors(name: str, layers: list[str]) -> None:
    if name == "vit":
        model = torchvision.models.VisionTransformer(64, 16, 2, 2, 24, 48, num_classes=7)
    elif name == "swin":
        model = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4], num_classes=7)
    else:
        model = torchvision.models.get_model(name, weights=None)
    randomize(model)
    for layer in layers:
        network = of_torchvision(copy.deepcopy(model), layer)
        found = create_feature_extractor(model, {layer: "map"})(network._inputs(IMAGES))["map"]
        if name == "vit" and layer != "conv_proj":
            found = found[:, 1:].mT.unflatten(2, (4, 4))
        elif name == "swin":
            found = found.permute(0, 3, 1, 2)
        assert network.shape == found.shape[1:], layer
        torch.testing.assert_close(network.spatial(IMAGES), found, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_inside_of_what_torchvision_does_not_take_apart() -> None:
    """Its graphs have blocks of `torchvision.ops` as a whole."""
    network = of_torchvision(
        randomize(torchvision.models.convnext_tiny(stochastic_depth_prob=0.0)), "features.1.0.block.3"
    )
    found = seen(network.model["trunk"], "features.1.0.block.3", network._inputs(IMAGES))
    assert torch.equal(network.spatial(IMAGES), found.permute(0, 3, 1, 2)) and network.shape == (384, 16, 16)
    network = of_torchvision(randomize(torchvision.models.mobilenet_v3_small()), "features.3.block.1.0")
    found = seen(network.model["trunk"], "features.3.block.1.0", network._inputs(IMAGES))
    assert torch.equal(network.spatial(IMAGES), found) and network.shape == (88, 8, 8)


@torch.no_grad()
def test_a_map_of_torchvision_is_of_the_network_that_is_asked() -> None:
    """A copy has its own weights; the network may change its precision; what comes after the layer is not computed."""
    vit = torchvision.models.VisionTransformer(64, 16, 2, 2, 24, 48, num_classes=7)
    network = of_torchvision(randomize(vit), "encoder.layers.encoder_layer_0")
    before, duplicate = network.spatial(IMAGES), copy.deepcopy(network)
    for parameter in duplicate.parameters():
        parameter.zero_()
    assert not duplicate.spatial(IMAGES).any() and torch.equal(network.spatial(IMAGES), before)
    torch.testing.assert_close(network.double().spatial(IMAGES), before, rtol=1e-4, atol=1e-4)
    ran: list[str] = []
    for name, module in vit.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    network.spatial(IMAGES)
    assert "encoder.layers.encoder_layer_0.mlp.3" in ran and "encoder.layers.encoder_layer_1.ln_1" not in ran


@torch.no_grad()
def test_maps_of_open_clip() -> None:
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 16}
    vit = open_clip.CLIP(**CLIP_CONFIG | {"vision_cfg": vision}).eval().visual
    tokens = seen(vit, "transformer.resblocks.0", INPUTS)
    for layer, found in (
        ("transformer.resblocks.0", tokens),
        ("unpooled", seen(vit, "transformer", INPUTS)),
    ):
        expected = found[:, 1:].mT.unflatten(2, (4, 4))
        assert torch.equal(of_open_clip._maps(vit, layer, INPUTS)(vit, INPUTS), expected)
    options = {"indices": [0], "intermediates_only": True}
    (theirs,) = vit.forward_intermediates(INPUTS, **options)["image_intermediates"]
    assert torch.equal(of_open_clip._maps(vit, "transformer.resblocks.0", INPUTS)(vit, INPUTS), theirs)

    # 16 queries are no grid of 4x4, though they are as many.
    coca = vision | {"attentional_pool": True, "attn_pooler_queries": 16, "attn_pooler_heads": 2}
    coca_vit = open_clip.CLIP(**CLIP_CONFIG | {"vision_cfg": coca}).eval().visual
    assert seen(coca_vit, "attn_pool", INPUTS).shape[1] == 16
    error = refused(of_open_clip._maps, coca_vit, "attn_pool", INPUTS)
    assert "'attn_pool'" in error and error.endswith("name transformer.resblocks.1")

    resnet = open_clip.CLIP(**copy.deepcopy(CLIP_CONFIG)).eval().visual
    assert torch.equal(of_open_clip._maps(resnet, "unpooled", INPUTS)(resnet, INPUTS), seen(resnet, "layer4", INPUTS))


def test_timms_networks_inside_open_clip_have_timms_layers(tmp_path: Path) -> None:
    config = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token", "image_size": 160}
    (tmp_path / "tiny-timm.json").write_text(json.dumps(CLIP_CONFIG | {"vision_cfg": config}))
    open_clip.add_model_config(tmp_path)
    network = of_open_clip._network("tiny", "tiny-timm", weights=False)
    tokens = seen(network.model.visual.trunk, "blocks.1", inputs := torch.zeros(2, 3, 160, 160))
    found = Encoder("tiny", network, "blocks.1")
    assert found.shape == (64, 10, 10)
    expected = tokens[:, 1:].mT.unflatten(2, (10, 10))
    assert torch.equal(found._map(network.trunk(network.model), inputs), expected)


@torch.no_grad()
def test_registers_of_transformers_are_not_part_of_the_grid() -> None:
    config = transformers.Dinov2WithRegistersConfig(**VISION | {"image_size": 16}, num_register_tokens=4)
    dino = randomize(transformers.Dinov2WithRegistersModel(config))
    inputs = INPUTS[..., :16, :16]
    for layer, tokens in (
        ("encoder.layer.1", seen(dino, "encoder.layer.1", inputs)),
        ("unpooled", dino(inputs).last_hidden_state),
    ):
        assert tokens.shape[:2] == (2, 9)
        found = of_transformers._maps(dino, layer, inputs, prefix=1)(dino, inputs)
        torch.testing.assert_close(found, tokens[:, 5:].mT.unflatten(2, (2, 2)))
    siglip = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)).vision_model
    error = refused(of_transformers._maps, siglip, "head.mlp", INPUTS[..., :32, :32], 0)
    assert error.endswith("name encoder.layers.1")


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("swinv2_tiny_window8_256", "layers.1.blocks.0.attn", (32, 4, 24)),  # windows
        ("swinv2_tiny_window8_256", "layers.0.blocks.0.attn.cpb_mlp", (1, 3, 3, 3)),  # a table of positions
        ("swinv2_tiny_window8_256", "layers.0.blocks.1.mlp", (2, 256, 12)),
        ("test_vit", "blocks.0.attn.q_norm", (2, 2, 9, 32)),  # heads
    ],
)
def test_what_may_not_be_a_map_is_refused_with_the_nearest_that_is(
    name: str, layer: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TIMM, "test_vit", VIT | {"qk_norm": True})
    model = timm_model(name)
    assert seen(model, layer, INPUTS).shape == shape
    error = refused(of_timm, name, layer)
    assert error.startswith(f"layer {layer!r}: ")
    nearest = re.search(r"name (\S+) or (\S+)$", error)
    assert nearest and nearest[1] == ".".join(layer.split(".")[:2])
    for works in nearest.groups():
        assert of_timm(name, works).shape[1] > 1


def test_heads_are_not_channels_in_a_network_of_any_size() -> None:
    model = randomize(timm.create_model("test_vit", **VIT, qk_norm=True, dynamic_img_size=True))
    assert model(torch.zeros(1, 3, 96, 64)).shape == (1, 1000)
    assert refused(maps, model, "blocks.0.attn.q_norm", INPUTS).endswith("name blocks.0 or blocks.1")
    assert maps(model, "blocks.0.mlp", INPUTS).tokens == Tokens(5, (2, 2))


def test_what_does_not_grow_with_the_image_is_no_map() -> None:
    error = refused(of_timm, "test_efficientnet", "blocks.3.0.se.act1")
    assert ", 1, 1) for 2 images" in error and error.endswith("name blocks.3 or blocks.4")
    with pytest.raises(FeatspaceError, match="neither a map nor tokens; name a layer before it, or unpooled"):
        of_timm("test_efficientnet", "global_pool")


class Several(nn.Module):
    """Attention as torch has it, beside a module that gives two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.both = nn.MultiheadAttention(3, 1, batch_first=True), Both()

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).mT
        self.both(images)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


class Both(nn.Module):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, 2 * images]


def test_an_output_of_several_parts_is_read_if_one_of_them_is_a_tensor() -> None:
    model, inputs = Several(), INPUTS[..., :4, :4]
    found = at_layer(model, "attention", inputs, Layers(tokens=Tokens(0, (4, 4))))
    assert isinstance(found, FeatureMap) and found(model, inputs).shape == (2, 3, 4, 4)
    with pytest.raises(FeatspaceError, match="layer 'both': its output, which has several parts, is neither a map"):
        at_layer(model, "both", inputs, Layers())
