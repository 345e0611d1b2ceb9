"""Feature maps: every family's, and what they must agree with in the pooled feature."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from featspace.cli import main
from featspace.data.features import read_features
from featspace.encoders.adapters import Layers
from featspace.encoders.adapters.timm import _network
from featspace.encoders.adapters.torchvision import split
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.encoders.feature_maps import at_layer
from featspace.utils.errors import FeatspaceError, UsageError

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def encoder(architecture: str, layer: str | None = "unpooled", **options) -> Encoder:
    torch.manual_seed(0)
    return Encoder(architecture, _network(timm.create_model(architecture, num_classes=3, **options)), layer)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet"])
def test_the_mean_of_a_convolutional_map_is_the_pooled_feature(architecture):
    network = encoder(architecture)
    maps = network.spatial(IMAGES)
    assert maps.shape[1:] == network.shape and maps.shape[2] > 1
    torch.testing.assert_close(maps.mean((2, 3)), network.pooled(IMAGES))
    torch.testing.assert_close(network(IMAGES), maps.flatten(1))


def test_tokens_become_a_grid_without_the_class_token():
    network = encoder("test_vit", img_size=64)
    tokens = network.model.forward_features(network.preprocess(IMAGES))
    side = network.shape[1]
    assert tokens.shape[1] == side**2 + 1
    maps = network.spatial(IMAGES)
    assert torch.equal(maps[:, :, 1, 2], tokens[:, 1 + side + 2])  # row by row, after the class token
    assert torch.equal(network.pooled(IMAGES), tokens[:, 0])
    assert encoder("test_vit", "blocks.0", img_size=64).shape == network.shape


def test_swin_maps_have_channels_first():
    """timm keeps them last; the mean over positions tells which axis is which."""
    torch.manual_seed(0)
    model = timm.create_model("swinv2_tiny_window8_256", img_size=64, window_size=2, embed_dim=12, depths=(1, 1, 1, 1))
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 64, 64)}
    network = Encoder("swin", _network(model), "unpooled")
    assert network.shape == (96, 2, 2)
    torch.testing.assert_close(network.spatial(IMAGES).mean((2, 3)), network.pooled(IMAGES))
    assert Encoder("swin", _network(model), "layers.1").shape == (24, 8, 8)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision:resnet18/IMAGENET1K_V1", 512),
        ("torchvision:swin_t/IMAGENET1K_V1", 768),
        ("torchvision:vit_b_16/IMAGENET1K_V1", 768),
        ("open_clip:ViT-B-32/openai", 768),
        ("open_clip:RN50/openai", 2048),
        ("timm:convnext_base.fb_in22k_ft_in1k", 1024),
    ],
)
def test_maps_of_published_architectures(name, channels):
    with torch.device("meta"):
        shape = load_encoder(name, weights=False, layer="unpooled").shape
    assert shape[0] == channels and shape[1] == shape[2] > 1


def test_the_published_input_gives_the_published_map():
    with torch.device("meta"):
        name = "timm:convnext_base.fb_in22k_ft_in1k"
        network = load_encoder(name, weights=False, layer="unpooled", input_size=288)
    assert network.shape == (1024, 9, 9) and network.input_size == (288, 288)


def test_maps_have_gradients_and_do_not_depend_on_the_batch():
    network, images = encoder("test_resnet", "layer2"), IMAGES.clone().requires_grad_()
    maps = network.spatial(images)
    maps[0].square().sum().backward()
    assert images.grad[0].abs().sum() > 0 and not images.grad[1].any()
    torch.testing.assert_close(network.spatial(IMAGES[1:]), maps[1:].detach())


def test_what_is_no_map_is_named():
    model = encoder("test_resnet").model
    with pytest.raises(UsageError, match="layer9.*did you mean layer"):
        at_layer(model, "layer9", IMAGES, Layers())
    for layer, reason in (("fc", r"shape \(2, 3\)"), ("drop", "is not used when")):
        model.drop = torch.nn.Identity()
        with pytest.raises(FeatspaceError, match=rf"^layer '{layer}': (?!layer).*{reason}.*name a") as caught:
            at_layer(model, layer, IMAGES, Layers())
        assert "\n" not in str(caught.value)
    shuffled = torchvision.models.shufflenet_v2_x0_5()
    transforms = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    with pytest.raises(FeatspaceError, match="what it pools is not known; name a layer"):
        Encoder("shufflenet", split(shuffled, transforms), "unpooled")


def test_a_wrong_layer_of_a_real_network_is_one_line(project, tmp_path, offline, capsys):
    text = (project / "params.yaml").read_text().replace("data/models", f"{project}/data/models")
    for layer, status, reason in (
        ("block.4", 2, "EfficientNet has none of that name; did you mean blocks.4"),
        ("classifier", 1, "its output, of shape (2, 1000) for 2 images, is neither a map nor tokens; name a layer"),
    ):
        network = f"network: 'package:efficientnet_lite0', layer: {layer}"
        (tmp_path / "params.yaml").write_text(text.replace(f"network: {project}/data/models/resnet", network))
        options = ["--encoder", "resnet", "--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as stop:
            main(["decode", "photo.jpg", *options])
        error = capsys.readouterr().err
        assert (stop.value.code, error.count("\n")) == (status, 1) and not (tmp_path / "out").exists()
        assert f"package:efficientnet_lite0: layer '{layer}': " in error and reason in error


def test_a_layer_is_one_more_field_of_a_profile(project, tmp_path, offline, capsys):
    """Features of a layer keep their shape in the file, can be guided by, and are refused for another layer."""
    text = (project / "params.yaml").read_text()
    changed = text.replace("network: data/models/resnet", "network: data/models/resnet, layer: unpooled")
    file = tmp_path / "params.yaml"
    file.write_text(changed.replace("data/models", f"{project}/data/models"))
    options = ["--encoder", "resnet", "--params", str(file)]
    main(["targets", "--params", str(file), "--out", str(tmp_path / "targets")])
    out = tmp_path / "maps.safetensors"
    main(["features", *options, "--targets", str(tmp_path / "targets"), "--out", str(out)])
    features, metadata = read_features(out)
    network = load_encoder(str(project / "data/models/resnet"), layer="unpooled")
    assert features["cat"].shape == network.shape and metadata["encoder"].endswith("resnet at unpooled")
    main(["decode", str(out), *options, "--out", str(tmp_path / "decoded"), "--samples", "1"])
    assert (tmp_path / "decoded" / "cat-0.png").is_file()
    wrong = tmp_path / "wrong.safetensors"
    save_file({"x": features["cat"].mT.flatten()}, wrong)
    with pytest.raises(SystemExit) as stop:
        main(["decode", str(wrong), *options, "--out", str(tmp_path / "again")])
    assert stop.value.code == 1 and "x has" in capsys.readouterr().err
