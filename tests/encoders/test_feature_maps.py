"""Feature maps against the libraries' own, and the layouts that only look like maps."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from featspace.encoders.adapters.timm import _network
from featspace.encoders.encoder import Encoder

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def at(model: nn.Module, layer: str) -> Encoder:
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 64, 64)}
    return Encoder("tiny", _network(model), layer)


def seen(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """A layer's output as it is."""
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _given, out: found.append(out))
    model(images)
    handle.remove()
    return found[0]


@torch.no_grad()
def test_channels_that_are_last_inside_a_network_that_has_them_first() -> None:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", conv_mlp=False)
    network = at(model, "stages.1.blocks.0.mlp.fc1")
    found = seen(network.model, "stages.1.blocks.0.mlp.fc1", network._inputs(IMAGES))
    assert found.shape == (2, 8, 8, 320)
    assert network.shape == (320, 8, 8)
    assert torch.equal(network.spatial(IMAGES), found.permute(0, 3, 1, 2))


@torch.no_grad()
def test_registers_are_not_part_of_the_grid() -> None:
    """Five tokens before a grid of 2x2 are as many as a grid of 3x3."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, patch_size=32, reg_tokens=4)
    for layer in ("blocks.1", "blocks.1.norm1", "unpooled"):
        network = at(model, layer)
        assert network.shape == (64, 2, 2), layer
        read = "norm" if layer == "unpooled" else layer
        tokens = seen(network.model, read, network._inputs(IMAGES))
        assert tokens.shape == (2, 9, 64)
        assert torch.equal(network.spatial(IMAGES), tokens[:, 5:].mT.unflatten(2, (2, 2)))
