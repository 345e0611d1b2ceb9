"""Encoders against the libraries they come from, on tiny random networks and real photographs, offline."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import skimage.data
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor

from featspace.encoders import Encoder, load_encoder
from featspace.errors import FeatspaceError, UsageError
from featspace.networks.torchvision import split
from featspace.preprocessing import Preprocess, from_open_clip, from_timm

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
HUB_COMMIT = "0" * 40
CLIP_CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TEXT = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 8}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 8}


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


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights of a size at which every layer, normalisation included, has a part in the feature."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "running_var" not in name:
            fan_in = value[0].numel() if value.ndim > 1 else 4
            noise = torch.randn(value.shape, generator=generator) / fan_in**0.5
            value.copy_(noise + (1.0 if value.ndim == 1 and name.endswith("weight") else 0.0))
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local folders `resnet`, `vit` (timm), `clip` (open_clip), `hf-clip`, `hf-siglip`, `hf-dino`, in float16."""
    root = tmp_path_factory.mktemp("models")
    resnet = randomize(timm.create_model("test_resnet", num_classes=5), 1)
    save_for_hf(
        resnet.half(), root / "resnet", safe_serialization=True, data_config={"input_size": (3, 64, 64)}
    )
    vit = randomize(timm.create_model("test_vit", num_classes=5, img_size=64), 2)
    save_for_hf(vit.half(), root / "vit", safe_serialization=True)
    write_open_clip(root / "clip", CLIP_CONFIG)
    write_transformers(root)
    return root


def write_open_clip(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True)
    model = randomize(open_clip.CLIP(**copy.deepcopy(config)), 3)
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))


def write_transformers(root: Path) -> None:
    clip = transformers.CLIPConfig(
        text_config=TEXT | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=VISION,
        projection_dim=12,
    )
    siglip = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    dino = transformers.Dinov2Config(**VISION)
    small = {"height": 32, "width": 32}
    for name, model, processor in (
        (
            "hf-clip",
            transformers.CLIPModel(clip),
            transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=small),
        ),
        ("hf-siglip", transformers.SiglipModel(siglip), transformers.SiglipImageProcessor(size=small)),
        (
            "hf-dino",
            transformers.Dinov2Model(dino),
            transformers.BitImageProcessor(size={"shortest_edge": 40}, crop_size=small),
        ),
    ):
        randomize(model, 4).half().save_pretrained(root / name)
        processor.save_pretrained(root / name)
        if name != "hf-dino":
            words = [
                "<|startoftext|>",
                "<|endoftext|>",
                "a</w>",
                "cat</w>",
                "c",
                "t</w>",
                "a",
                "ca",
                "dog</w>",
            ]
            merges = [("c", "a"), ("ca", "t</w>")]
            vocabulary = {word: index for index, word in enumerate(words)}
            transformers.CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(root / name)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Photographs larger and smaller than the networks' input, square, wide and tall."""
    images = [
        Image.fromarray(getattr(skimage.data, name)())
        for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    images += [image.resize((image.width // 9, image.height // 9 - 1)) for image in images]
    return [*images, images[3].crop((101, 0, 402, 427)).rotate(90, expand=True)]


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def library(folder: Path) -> tuple:
    """The network's own library loads the folder: its transform of PIL images, and its feature, of PIL images."""
    name = f"local-dir:{folder}"
    if (folder / "open_clip_config.json").exists():
        model, _, transform = open_clip.create_model_and_transforms(name)
        return model.eval(), lambda image: transform(image)[None], model.encode_image
    if "architecture" in json.loads((folder / "config.json").read_text()):
        model = timm.create_model(name, pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        head = lambda x: model.forward_head(model.forward_features(x), pre_logits=True)  # noqa: E731
        return model, lambda image: transform(image)[None], head
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    features = getattr(model, "get_image_features", model)
    return (
        model,
        lambda image: processor(image, return_tensors="pt").pixel_values,
        lambda x: features(x).pooler_output,
    )


NAMES = ["resnet", "vit", "clip", "hf-clip", "hf-siglip", "hf-dino"]


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


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("mode", "crop_pct", "size"),
    [
        ("center", 0.875, (3, 224, 224)),
        ("center", 1.0, (3, 64, 64)),
        ("center", 1.15, (3, 64, 64)),
        ("center", 0.9, (3, 96, 128)),
        ("squash", 0.9, (3, 96, 96)),
        ("border", 0.95, (3, 160, 160)),
    ],
)
def test_timm_transforms(
    photos: list[Image.Image], mode: str, crop_pct: float, size: tuple[int, int, int], interpolation: str
) -> None:
    config = {"input_size": size, "interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": mode}
    config |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    preprocess, transform = from_timm(config), timm.data.create_transform(**config)
    for image in photos:
        difference = (preprocess(tensor(image)) - transform(image)[None]).mul(preprocess.std).abs()
        assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [224, 64, (64, 96)])
def test_open_clip_transforms(photos: list[Image.Image], mode: str, size: int | tuple[int, int]) -> None:
    config = open_clip.transform.PreprocessCfg(size=size, resize_mode=mode, fill_color=9)
    preprocess = from_open_clip(vars(config))
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    for image in photos:
        difference = (preprocess(tensor(image)) - transform(image)[None]).mul(preprocess.std).abs()
        assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255


@pytest.mark.parametrize("fit", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(9, 14), (5, 4), (6, 6)])
def test_gradient_of_preprocessing(fit: str, shape: tuple[int, int]) -> None:
    preprocess = Preprocess((6, 6), (5, 7), fit, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    images = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert preprocess(images).shape == (2, 3, 5, 7)
    assert torch.autograd.gradcheck(preprocess, images.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_the_images_only(folders: Path, name: str) -> None:
    encoder = load_encoder(name, folders)
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, 3, 50, 71, generator=generator, dtype=torch.float64).requires_grad_()
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    target = torch.randn(2, encoder.dim, generator=generator)
    gradient = torch.autograd.grad((encoder(images) * target).sum(), images)[0]
    assert gradient.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.double()
    step = 1e-4
    with torch.no_grad():
        ahead, behind = ((encoder(images + sign * step * direction) * target).sum() for sign in (1, -1))
    torch.testing.assert_close(
        (gradient * direction).sum().item(), (ahead - behind).item() / (2 * step), rtol=0.02, atol=1e-3
    )


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
        mask = (
            {"attention_mask": tokens.attention_mask} if name == "hf-clip" else {}
        )  # makes no difference there
        expected = model.get_text_features(tokens.input_ids, **mask).pooler_output
        torch.testing.assert_close(encoder.encode_text(texts), expected)
        assert torch.cosine_similarity(expected[0], expected[1], dim=0) < 0.9999
    (root := folders / "no-tokenizer").mkdir()
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(folders / "hf-siglip" / file, root)
    with pytest.raises(FeatspaceError, match="no-tokenizer") as caught:
        load_encoder(str(root)).encode_text(["a cat"])
    assert "\n" not in str(caught.value)


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
    vit = torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48, num_classes=7).eval()
    weights = torchvision.models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1
    encoder = Encoder("vit", split(copy.deepcopy(vit), weights.transforms()))
    inputs = torch.randn(2, 3, 32, 32)
    tokens = torch.cat([vit.class_token.expand(2, -1, -1), vit._process_input(inputs)], dim=1)
    torch.testing.assert_close(encoder._feature(encoder.model, inputs), vit.encoder(tokens)[:, 0])
    assert encoder.dim == 24 and encoder.input_size == (518, 518)
    with pytest.raises(FeatspaceError, match="no linear classifier"):
        split(torchvision.models.squeezenet1_1(), weights.transforms())


def put_in_hub(tmp_path: Path, repo: str, weights: Path) -> None:
    """The layout of the Hugging Face cache, as after a download."""
    cached = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (snapshot := cached / "snapshots" / HUB_COMMIT).mkdir(parents=True)
    shutil.copy(weights, snapshot / weights.name)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(HUB_COMMIT)


@torch.no_grad()
def test_timm_from_the_hub_cache(tmp_path: Path) -> None:
    model = randomize(timm.create_model("test_resnet"))
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    put_in_hub(tmp_path, "timm/test_resnet.r160_in1k", tmp_path / "saved" / "model.safetensors")
    inputs = torch.rand(1, 3, 160, 160)
    for name in ("timm:test_resnet.r160_in1k", "timm:test_resnet"):
        encoder = load_encoder(name)
        assert encoder.input_size == (160, 160) and encoder.preprocess.interpolation == "bilinear"
        torch.testing.assert_close(encoder.model(inputs), model(inputs))


@torch.no_grad()
def test_open_clip_tag_brings_its_activation_and_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_open_clip(tmp_path / "saved", CLIP_CONFIG)
    put_in_hub(tmp_path, "org/tiny", tmp_path / "saved" / "open_clip_model.safetensors")
    plain = {key: value for key, value in CLIP_CONFIG.items() if key != "quick_gelu"}
    tag = {"hf_hub": "org/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", plain)
    tags = {"openai": tag | {"resize_mode": "squash"}, "pickled": {"url": "https://example.org/tiny.pt"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    encoder = load_encoder("open_clip:tiny/openai")
    assert encoder.preprocess.fit == "squash" and encoder.mean.flatten().tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    expected = load_encoder("saved", tmp_path).encode_text(["a cat"])
    torch.testing.assert_close(encoder.encode_text(["a cat"]), expected)
    with pytest.raises(FeatspaceError, match="only as a pickle"):
        load_encoder("open_clip:tiny/pickled")


class Malicious:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("unpickled"),)


def test_torchvision_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (cache := tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1

    def publish(content: object) -> Path:
        torch.save(content, tmp_path / "new")
        digest = hashlib.sha256((tmp_path / "new").read_bytes()).hexdigest()
        path = cache / f"shufflenet-{digest[:8]}.pth"
        monkeypatch.setattr(weights.value, "url", f"https://example.org/{path.name}")
        return (tmp_path / "new").rename(path)

    model = torchvision.models.shufflenet_v2_x0_5().eval()
    path = publish(model.state_dict())
    encoder = load_encoder("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1")
    inputs = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(encoder._logits(encoder.model, inputs), model(inputs))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeatspaceError, match="altered"):
        load_encoder("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1")
    publish(Malicious())
    with pytest.raises(FeatspaceError, match="shufflenet"):
        load_encoder("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("nothing", "no such folder"),
        ("resnte", "did you mean resnet"),
        ("timmm:resnet50", "did you mean timm"),
        ("timm:resnet5O", "did you mean resnet50"),
        ("timm:resnet50.a1_in2k", "a1_in1k"),
        ("timm:test_nothing", "timm has no model"),
        ("open_clip:RN5O/openai", "did you mean RN50"),
        ("open_clip:RN50/opnai", "openai"),
        ("open_clip:RN50", "after a slash"),
        ("torchvision:resnet5O/IMAGENET1K_V1", "did you mean resnet50"),
        ("torchvision:resnet50/IMAGENET1K_V3", "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:resnet50", "after a slash"),
    ],
)
def test_unknown_network(folders: Path, network: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_encoder(network, folders)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [
        "timm:resnet50.tv_in1k",
        "open_clip:RN50/openai",
        "torchvision:resnet50/IMAGENET1K_V1",
        "transformers:facebook/dinov2-small",
    ],
)
def test_no_network_connection(network: str, attempts: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # or it retries for half a minute
    with pytest.raises(FeatspaceError) as caught:
        load_encoder(network)
    assert str(caught.value).startswith(network) and "\n" not in str(caught.value)
    assert "check the name and the network connection" in str(caught.value)
    attempts.clear()  # here they are expected


def failure(folder: Path) -> str:
    with pytest.raises(FeatspaceError) as caught:
        load_encoder(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["resnet", "clip", "hf-dino"])
def test_bad_folder(folders: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "models" / name
    shutil.copytree(folders / name, folder)
    weights = next(folder.glob("*.safetensors"))
    config = folder / ("open_clip_config.json" if name == "clip" else "config.json")
    content, described = weights.read_bytes(), config.read_text()

    digest = hashlib.sha256(content).hexdigest()
    (folder.parent / "SHA256SUMS").write_text(f"{digest}  {name}/{weights.name}\n")
    assert load_encoder(str(folder)).dim > 0
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "altered" in failure(folder)
    (folder.parent / "SHA256SUMS").unlink()

    weights.write_bytes(content[: len(content) // 2])
    assert "damaged" in failure(folder)
    weights.unlink()
    assert "missing" in failure(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "pickle" in failure(folder) and "pickle" in failure(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()

    save_file({"nonsense": torch.zeros(1)}, weights)
    failure(folder)
    weights.write_bytes(content)
    config.write_text(described[:-9])
    assert "JSON" in failure(folder)
    config.write_text("[]")
    assert "not the description" in failure(folder)
    config.write_text("{}")
    failure(folder)
    config.unlink()
    assert "not the folder of a network" in failure(folder)


def test_folder_that_needs_the_hub_or_is_unknown(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    shutil.copytree(folders / "vit", folder)
    (folder / "config.json").write_text('{"architecture": "test_vyt", "pretrained_cfg": {}}')
    assert "did you mean test_vit" in failure(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert "supported are clip, siglip" in failure(folder)
    config = copy.deepcopy(CLIP_CONFIG)
    write_open_clip(tmp_path / "clip", config)
    config["text_cfg"]["hf_model_name"] = "roberta-base"
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    assert "on the hub" in failure(tmp_path / "clip")


def test_module_imports_no_library() -> None:
    """Each costs seconds, which a command that needs no encoder does not have."""
    libraries = "{'timm', 'open_clip', 'torchvision', 'transformers'}"
    code = f"import featspace.encoders, sys; print({libraries} & {{*sys.modules}})"
    source = str(Path(__file__).parents[1] / "src")
    result = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True
    )
    assert result.stdout.strip() == "set()", result.stderr
