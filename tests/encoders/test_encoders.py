"""Encoders against the libraries they come from, on tiny random networks and real photographs, offline."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import open_clip
import pytest
import skimage.data
import torch
import torchvision
import transformers
from PIL import Image
from tiny_networks import NAMES, library, tensor
from torch import Tensor

from featspace.encoders.adapters.torchvision import split
from featspace.encoders.encoder import Encoder, load_encoder
from featspace.utils.errors import FeatspaceError


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_agrees_with_the_library_on_photographs(folders: Path, photos: list[Image.Image], name: str) -> None:
    """Stated tolerance: 2/255 at most and 0.5/255 on average before normalisation; cosine of features 0.999.

    The cosine is taken around the photographs' mean feature, which is most of a random network's feature.
    """
    encoder = load_encoder(name, folders)
    _, transform, feature = library(folders / name)
    for image in photos:
        difference = (encoder.preprocess(tensor(image)) - transform(image)).mul(encoder.std).abs()
        assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255
    ours = torch.cat([encoder(tensor(image)) for image in photos])
    theirs = torch.cat([feature(transform(image)) for image in photos])
    assert ours.shape == (len(photos), encoder.dim) and ours.dtype == torch.float32
    center = theirs.mean(0)
    assert torch.cosine_similarity(ours - center, theirs - center).min() > 0.999


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_equals_the_library_on_its_own_input(folders: Path, photos: list[Image.Image], name: str) -> None:
    encoder = load_encoder(name, folders)
    _, transform, feature = library(folders / name)
    view = transform(photos[0]) * encoder.std + encoder.mean
    if encoder.preprocess.resize == encoder.input_size:  # then the view itself is not scaled again
        torch.testing.assert_close(encoder(view), feature(transform(photos[0])), rtol=1e-4, atol=1e-5)
    inputs = torch.randn(3, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder._feature(encoder.model, inputs), feature(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_the_images_only(folders: Path, name: str) -> None:
    encoder = load_encoder(name, folders)
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, 3, 50, 71, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randn(2, encoder.dim, generator=generator)
    gradient = torch.autograd.grad((encoder(images) * target).sum(), images)[0]
    assert gradient.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in encoder.parameters())

    encoder.double()  # and without the rounding of `forward` to float32, which would drown the difference
    step = 1e-5 * gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (
            (encoder._feature(encoder.model, encoder._inputs(moved)) * target).sum()
            for moved in (images + step, images - step)
        )
    torch.testing.assert_close((ahead - behind) / 2e-5, gradient.norm(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_feature_does_not_depend_on_batch_mode_or_autocast(folders: Path, name: str) -> None:
    encoder = load_encoder(name, folders)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    images = torch.rand(4, 3, 70, 50, generator=torch.Generator().manual_seed(6))
    together = encoder(images)
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.train()(images), together)
    duplicate = copy.deepcopy(encoder)
    for parameter in duplicate.parameters():
        parameter.zero_()
    assert torch.equal(encoder(images), together) and not torch.equal(duplicate(images), together)


@pytest.mark.parametrize("name", ["resnet", "vit"])
@torch.no_grad()
def test_classifier(folders: Path, photos: list[Image.Image], name: str) -> None:
    encoder = load_encoder(str(folders / name))
    model, _, _ = library(folders / name)
    images = tensor(photos[1])
    logits = model(encoder.preprocess(images))
    assert encoder.input_size == (64, 64)
    assert encoder.has_classifier and logits.shape == (1, 5)
    torch.testing.assert_close(encoder.classify(images), logits)
    torch.testing.assert_close(model.get_classifier()(encoder(images)), logits)
    assert not encoder.has_text
    with pytest.raises(FeatspaceError, match="no text tower"):
        encoder.encode_text(["a cat"])


@torch.no_grad()
def test_text(folders: Path) -> None:
    texts = ["a cat", "a dog", "a cat a cat a cat a cat a cat a cat a cat a cat a cat"]
    encoder = load_encoder("clip", folders)
    model, _, _ = library(folders / "clip")
    tokens = open_clip.get_tokenizer(f"local-dir:{folders / 'clip'}")(texts)
    assert encoder.has_text and tokens.shape == (3, 16)
    torch.testing.assert_close(encoder.encode_text(texts), model.encode_text(tokens))
    assert not encoder.has_classifier
    with pytest.raises(FeatspaceError, match="no classifier"):
        encoder.classify(torch.rand(1, 3, 64, 64))

    for name in ("hf-clip", "hf-siglip"):
        encoder = load_encoder(name, folders)
        model, _, _ = library(folders / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders / name)
        tokens = tokenizer(texts, padding="max_length", max_length=8, truncation=True, return_tensors="pt")
        mask = {"attention_mask": tokens.attention_mask} if name == "hf-clip" else {}  # makes no difference there
        expected = model.get_text_features(tokens.input_ids, **mask).pooler_output
        torch.testing.assert_close(encoder.encode_text(texts), expected)
        assert torch.cosine_similarity(expected[0], expected[1], dim=0) < 0.9999
    (root := folders / "no-tokenizer").mkdir()
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(folders / "hf-siglip" / file, root)
    with pytest.raises(FeatspaceError, match="no-tokenizer") as caught:
        load_encoder(str(root)).encode_text(["a cat"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "length"), [("clip", 16), ("hf-clip", 8), ("hf-siglip", 8)])
def test_a_text_that_is_cut_is_named_once(folders: Path, capsys: pytest.CaptureFixture, name: str, length: int) -> None:
    encoder = load_encoder(name, folders)
    inside, cut = " ".join(["cat"] * (length - 2)), f"{name}\n" + " ".join(["cat"] * (length - 1))
    capsys.readouterr()
    encoder.encode_text([inside])
    assert capsys.readouterr().err == ""
    for _ in range(2):
        encoder.encode_text([inside, cut])
    line = capsys.readouterr().err
    assert line.startswith(f"caption cut: the network reads {length} of the ") and line.count("\n") == 1
    tokens = int(line.split(" of the ")[1].split()[0])
    assert tokens > length and f"tokens of '{name} cat cat" in line


@pytest.mark.parametrize("name", ["hf-clip", "hf-siglip", "hf-dino"])
@torch.no_grad()
def test_maps_of_transformers_are_the_last_layers_tokens_as_a_grid(folders: Path, name: str) -> None:
    encoder, (model, _, _) = load_encoder(name, folders, layer="unpooled"), library(folders / name)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = getattr(model, "vision_model", model)(encoder.preprocess(images)).last_hidden_state
    dim, side, other = encoder.shape
    before = tokens.shape[1] - side * other  # the class token, which SigLIP has not
    assert side == other > 1 and before == (name != "hf-siglip") and tokens.shape[2] == dim
    maps = encoder.spatial(images)
    for row, column in ((0, 0), (1, 0), (side - 1, side - 2)):
        torch.testing.assert_close(maps[:, :, row, column], tokens[:, before + row * side + column])


@pytest.mark.parametrize(("name", "dim"), [("shufflenet_v2_x0_5", 1024), ("mobilenet_v3_small", 1024)])
@torch.no_grad()
def test_torchvision_feature_is_the_classifiers_input(name: str, dim: int) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    seen: list[Tensor] = []
    list(model.modules())[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    weights = torchvision.models.get_model_weights(name).DEFAULT
    image = Image.fromarray(skimage.data.chelsea())
    inputs = weights.transforms()(image)[None]
    logits = model(inputs)
    encoder = Encoder(name, split(copy.deepcopy(model), weights.transforms()))
    torch.testing.assert_close(encoder._feature(encoder.model, inputs), seen[0])
    torch.testing.assert_close(encoder._logits(encoder.model, inputs), logits)
    assert encoder.dim == dim == encoder(tensor(image)).shape[1]
    difference = (encoder.preprocess(tensor(image)) - inputs).mul(encoder.std).abs()
    assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255


@torch.no_grad()
def test_torchvision_vit_feature_is_the_class_token() -> None:
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(518, 74, 1, 2, 24, 48, num_classes=7).eval()
    weights = torchvision.models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1
    encoder = Encoder("vit", split(copy.deepcopy(vit), weights.transforms()))
    inputs = torch.randn(2, 3, 518, 518)
    tokens = torch.cat([vit.class_token.expand(2, -1, -1), vit._process_input(inputs)], dim=1)
    torch.testing.assert_close(encoder._feature(encoder.model, inputs), vit.encoder(tokens)[:, 0])
    assert encoder.dim == 24 and encoder.input_size == (518, 518)
    with pytest.raises(FeatspaceError, match="no linear classifier"):
        split(torchvision.models.squeezenet1_1(), weights.transforms())
