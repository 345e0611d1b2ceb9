"""Folded batch normalizations: the same outputs, of the network and of its layers, in fewer passes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from featspace.encoders.encoder import load_encoder
from featspace.encoders.folding import fold_batch_norms

NETWORKS = {  # model: batch normalizations, of which so many follow a convolution
    "resnet10t": (14, 14),
    "tf_efficientnet_lite0": (49, 49),
    "mobilenetv3_small_050": (34, 34),
    "resnetv2_50": (49, 32),  # normalized before each convolution
    "densenet121": (121, 59),
    "convnext_atto": (0, 0),
}


def lively(name: str) -> nn.Module:
    """A network whose batch normalizations have statistics of their own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


@pytest.mark.parametrize(("name", "norms", "folded"), [(name, *counts) for name, counts in NETWORKS.items()])
@torch.no_grad()
def test_a_folded_network_computes_the_same(name, norms, folded):
    model, images = lively(name), torch.randn(2, 3, 64, 64)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == norms
    expected, names = model(images), {name for name, _ in model.named_modules()}
    assert fold_batch_norms(model, images[:1]) == folded
    assert {name for name, _ in model.named_modules()} == names
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == norms - folded
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_layers_keep_their_names_and_outputs_the_named_convolution_too():
    seen = {}
    images = torch.randn(1, 3, 64, 64)

    def outputs(model):
        for name in ("conv1", "bn1", "layer1.0"):
            model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        model(images)
        return dict(seen)

    names = {"network": "resnet18"}
    model = lively(names["network"])
    before = outputs(model)
    fold_batch_norms(model, images, kept="conv1")
    after = outputs(model)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-4)
    other = lively(names["network"])
    fold_batch_norms(other, images)
    assert (outputs(other)["conv1"] - before["conv1"]).abs().max() > 0.1  # what `kept` is for


@torch.no_grad()
def test_what_a_module_gives_is_kept_where_its_last_convolution_is_normalized_outside_of_it():
    torch.manual_seed(0)
    inside, outside = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    for norm in (inside, outside):
        norm.running_mean.fill_(1.0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), inside, nn.Conv2d(4, 4, 1)), outside).eval()
    images = torch.randn(1, 3, 8, 8)
    expected, last = model[0](images), model(images)
    assert fold_batch_norms(model, images, kept="0") == 1
    torch.testing.assert_close(model[0](images), expected)
    torch.testing.assert_close(model(images), last)


@torch.no_grad()
def test_a_network_that_would_change_is_left_as_it_was():
    """Its convolution's output is used twice, once without the normalization."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(1.0)

        def forward(self, images):
            found = self.conv(images)
            return found + self.norm(found)

    model, images = Twice().eval(), torch.randn(1, 3, 8, 8)
    expected, weight = model(images), model.conv.weight
    assert fold_batch_norms(model, images) == 0
    assert model.conv.weight is weight and isinstance(model.norm, nn.BatchNorm2d)
    assert torch.equal(model(images), expected)


def test_an_encoder_is_folded_and_agrees_with_timm():
    torch.manual_seed(0)
    encoder = load_encoder("package:efficientnet_lite0")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.model.modules())
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    with torch.device("meta"):
        names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    assert list(reference.state_dict()) == names
    images = torch.rand(2, 3, 64, 64)
    assert encoder(images).shape == (2, 1280) and encoder.classify(images).shape == (2, 1000)
