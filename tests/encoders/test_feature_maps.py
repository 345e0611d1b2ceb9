"""Feature maps of networks of timm against its own, and layouts that only look like maps."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import timm
import torch
from tiny_networks import randomize, refused, seen
from torch import Tensor, nn

from featspace.encoders.adapters import Layers, Tokens
from featspace.encoders.adapters.timm import _network, maps
from featspace.encoders.encoder import Encoder
from featspace.encoders.feature_maps import FeatureMap, at_layer
from featspace.utils.errors import FeatspaceError

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


@pytest.mark.parametrize("name", ["levit_128s", "efficientformer_l1", "gmixer_24_224"])
@torch.no_grad()
def test_final_tokens_have_the_grid_of_the_last_map(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    inputs = torch.randn(2, 3, 224, 224)
    options = {"indices": 1, "norm": True, "output_fmt": "NCHW", "intermediates_only": True}
    (expected,) = model.forward_intermediates(inputs, **options)
    torch.testing.assert_close(maps(model, "unpooled", inputs)(model, inputs), expected)


@torch.no_grad()
def test_blocks_of_a_network_that_says_channels_are_last() -> None:
    network = of_timm("swinv2_tiny_window8_256", "layers.1.blocks.0")
    found = seen(network.model, "layers.1.blocks.0", network._inputs(IMAGES))
    assert found.shape == (2, 8, 8, 24)
    assert torch.equal(network.spatial(IMAGES), found.permute(0, 3, 1, 2))


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
