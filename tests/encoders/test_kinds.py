"""Networks of another kind than expected: they work, or are refused in one line when they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from featspace.encoders.adapters.timm import _network
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.utils.errors import FeatspaceError


def saved(folder: Path, name: str, **options) -> str:
    model = timm.create_model(name, **options)
    config = {"input_size": (options.get("in_chans", 3), 64, 64)}
    save_for_hf(model, folder, safe_serialization=True, model_args=options, data_config=config)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "shape", "grid"), [("test_resnet", "[96, 2, 2]", (96, 2, 2)), ("test_vit", "[17, 64]", (64, 4, 4))]
)
@torch.no_grad()
def test_a_network_that_does_not_pool_is_refused_but_for_its_map(tmp_path: Path, name, shape, grid) -> None:
    options = {"img_size": 64} if name == "test_vit" else {}
    folder = saved(tmp_path / "net", name, global_pool="", num_classes=0, **options)
    with pytest.raises(FeatspaceError) as caught:
        load_encoder(folder)
    line = f"{folder}: what it makes of an image is no vector, but of shape {shape}, as it does not pool; name a layer"
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert load_encoder(folder, layer="unpooled").shape == grid


def test_a_network_without_a_feature_is_refused_but_for_its_layers() -> None:
    with torch.device("meta"):
        model = timm.create_model("qwen3_vit_88m_enc")
        with pytest.raises(FeatspaceError, match="makes no vector of an image .*; name a layer, such as unpooled$"):
            Encoder("qwen", _network(model))
        assert len(Encoder("qwen", _network(model), "blocks.1").shape) == 3


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(("channels", "said"), [(1, "1 channel"), (4, "4 channels")])
def test_networks_of_other_than_rgb_images_are_refused(tmp_path: Path, name, channels, said) -> None:
    folder = saved(tmp_path / "net", name, in_chans=channels)
    for options in ({}, {"layer": "unpooled"}, {"input_size": 160}):
        with pytest.raises(FeatspaceError) as caught:
            load_encoder(folder, **options)
        assert str(caught.value) == f"{folder}: takes images of {said}, not of 3; name a network of RGB images"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_encoder_in_half_precision_has_the_same_feature_and_gradient(tmp_path: Path, name, dtype) -> None:
    """Of images that have to be resized, which CPUs do in float32."""
    torch.manual_seed(0)
    folder = saved(tmp_path / "net", name, **({"img_size": 64} if name == "test_vit" else {}))
    images = torch.rand(2, 3, 70, 90).requires_grad_()
    found = []
    for encoder in (load_encoder(folder), load_encoder(folder).to(dtype)):
        feature = encoder(images)
        assert feature.dtype == torch.float32
        found.append((feature.detach(), torch.autograd.grad((feature * feature.detach().roll(1, 1)).sum(), images)[0]))
    for half, full in zip(found[1], found[0], strict=True):
        assert (half - full).norm() < 0.1 * full.norm()
