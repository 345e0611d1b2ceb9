"""Feature maps of networks of torchvision, open_clip and transformers against their libraries' own."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import open_clip
import pytest
import torch
import torchvision
import transformers
from tiny_networks import CLIP_CONFIG, TEXT, VISION, randomize, refused, seen
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from featspace.config.params import Params
from featspace.encoders.adapters import open_clip as of_open_clip
from featspace.encoders.adapters import transformers as of_transformers
from featspace.encoders.adapters.torchvision import split
from featspace.encoders.encoder import Encoder, load_encoder

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
INPUTS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


PAPER = Params.load(Path(__file__).parents[2] / "params.yaml").profile("paper")
USED = [(PAPER.encoders[name].network, layer, None) for name, layers in PAPER.layers.items() for layer in layers]
USED += [(each.network, each.layer, each.input_size) for each in PAPER.featinv.controlnets.values()]


@pytest.mark.parametrize(("network", "layer", "size"), [each for each in USED if each[1] not in (None, "pooled")])
def test_layers_of_published_networks_have_maps(network: str, layer: str, size: int | None) -> None:
    with torch.device("meta"):
        encoder = load_encoder(network, weights=False, layer=layer, input_size=size)
    channels, rows, columns = encoder.shape
    assert rows == columns > 1 and channels in (64, 256, 512, 1024, 1280, 2048)
    if "vit" in network:
        assert encoder.shape == (1280, 37, 37)


def of_torchvision(model: nn.Module, layer: str | None) -> Encoder:
    network = split(model, torchvision.models.ResNet18_Weights.DEFAULT.transforms())
    return Encoder("torchvision", network, layer, input_size=64)


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
