"""Targets and their features: from the parameters to the files that the decoder reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from featspace.errors import FeatspaceError, UsageError
from featspace.features import read_features, run_features
from featspace.images import read_image, to_tensor
from featspace.params import Params, Profile
from featspace.targets import locate_image, read_targets, run_targets

SHIPPED = Path(__file__).parents[1] / "params.yaml"


class Colors(nn.Module):
    """A network small enough to know its features by heart: the mean color of each half, times a matrix."""

    network = "test:colors"
    dim = 6

    def __init__(self, has_text: bool) -> None:
        super().__init__()
        self.has_text = has_text
        self.matrix = nn.Parameter(torch.eye(6) * 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        halves = images.unflatten(3, (2, -1)).mean(dim=(2, 4))
        return halves.flatten(1) @ self.matrix

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text))] * 6 for text in texts])


def make_profile(folder: Path, photo: str = "{image: two.png, crop: [4, 0, 32]}") -> Profile:
    pixels = np.zeros((32, 40, 3), np.uint8)
    pixels[:, 4:20], pixels[:, 20:36] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(pixels).save(folder / "two.png")
    (folder / "params.yaml").write_text(
        "seed: 0\ntiny:\n  prior: p\n  judge: j\n  resolution: 32\n  encoders: {net: {network: n}}\n"
        f"  photos: {{two: {photo}}}\n  captions: {{pizza: 'a \"hot\" pizza, sliced'}}\n"
    )
    return Params.load(folder / "params.yaml").profile("tiny")


def test_targets_of_a_path_and_a_caption(tmp_path: Path) -> None:
    run_targets(make_profile(tmp_path), tmp_path, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["targets.csv", "two.png"]
    image = to_tensor(read_image(tmp_path / "out" / "two.png"))
    assert image.shape == (3, 32, 32)
    assert torch.equal(image[:, 9, 3], torch.tensor([1.0, 0, 0]))
    assert torch.equal(image[:, 9, 30], torch.tensor([0, 0, 1.0]))
    assert (tmp_path / "out" / "targets.csv").read_bytes() == (
        b'id,kind,text,source\ntwo,photo,,two.png\npizza,caption,"a ""hot"" pizza, sliced",\n'
    )
    two, pizza = read_targets(tmp_path / "out")
    assert (two.id, two.kind, two.source) == ("two", "photo", "two.png")
    assert (pizza.id, pizza.kind, pizza.text) == ("pizza", "caption", 'a "hot" pizza, sliced')


def test_shipped_targets(tmp_path: Path) -> None:
    mini = Params.load(SHIPPED).profile("mini")
    for out in ("a", "b"):
        run_targets(mini, SHIPPED.parent, tmp_path / out)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted([*(f"{name}.png" for name in mini.photos), "targets.csv"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in mini.photos:
        image = to_tensor(read_image(tmp_path / "a" / f"{name}.png"))
        assert image.shape == (3, mini.resolution, mini.resolution)
        assert image.std() > 0.1 and (image[0] - image[2]).abs().mean() > 0.03  # a photograph, and in color


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("{image: 'skimage:eagle'}", r"skimage:eagle: not among the images .*: astronaut, .*rocket"),
        ("{image: 'skimage:../data/cell'}", "not among the images"),
        ("{image: two.png, crop: [9, 0, 32]}", r"photos\.two \(two\.png\): crop \[9, 0, 32\] leaves the"),
        ("{image: none.png}", r"none\.png: no such file"),
    ],
)
def test_wrong_photo_leaves_nothing(tmp_path: Path, photo: str, message: str) -> None:
    with pytest.raises(FeatspaceError, match=message):
        run_targets(make_profile(tmp_path, photo), tmp_path, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "two.png"]


def test_bundled_images_are_files_of_the_package() -> None:
    assert locate_image("skimage:chelsea").name == "chelsea.png"
    with pytest.raises(UsageError):
        locate_image("skimage:lily")


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FeatspaceError, match="no such table"):
        read_targets(tmp_path)
    header = "id,kind,text,source\n"
    for text in ("", "id,kind\na,photo\n", header, f"{header}a,photo\n", f"{header}a,film,,\n"):
        (tmp_path / "targets.csv").write_text(text)
        with pytest.raises(FeatspaceError, match="not a table of targets"):
            read_targets(tmp_path)
    (tmp_path / "targets.csv").write_text("id,kind,text,source\na,photo,,x\n")
    with pytest.raises(FeatspaceError, match=r"a\.png: the photo is missing"):
        read_targets(tmp_path)


def test_features(tmp_path: Path) -> None:
    run_targets(make_profile(tmp_path), tmp_path, tmp_path / "targets")
    run_features(Colors(has_text=True), tmp_path / "targets", tmp_path / "both.safetensors")
    features, metadata = read_features(tmp_path / "both.safetensors", dim=6)
    assert metadata == {"encoder": "test:colors"} and set(features) == {"two", "pizza"}
    red_left_blue_right = torch.tensor([2.0, 0, 0, 0, 0, 2.0])
    torch.testing.assert_close(features["two"], red_left_blue_right)
    assert torch.equal(features["pizza"], torch.full((6,), 21.0))
    run_features(Colors(has_text=False), tmp_path / "targets", tmp_path / "photos.safetensors")
    assert set(read_features(tmp_path / "photos.safetensors")[0]) == {"two"}
    run_features(Colors(has_text=True), tmp_path / "targets", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "both.safetensors").read_bytes()


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    run_targets(make_profile(tmp_path), tmp_path, tmp_path / "targets")
    encoder = Colors(has_text=True)
    nn.init.constant_(encoder.matrix, torch.nan)
    with pytest.raises(FeatspaceError, match="test:colors: its feature of two is not finite"):
        run_features(encoder, tmp_path / "targets", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.ones(5)}, "a has 5 dimensions, not 4"),
        ({"a": torch.ones(4), "b": torch.ones(3)}, "b has 3 dimensions, not 4"),
        ({"a": torch.ones(4, 1)}, r"a is torch.float32 of shape \[4, 1\]"),
        ({"a": torch.ones(4, dtype=torch.int64)}, "a is torch.int64"),
        ({"a": torch.tensor([1.0, torch.nan, 0, 0])}, "a holds NaN"),
        ({}, "holds no feature"),
    ],
)
def test_wrong_features(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(FeatspaceError, match=message):
        read_features(tmp_path / "x.safetensors", dim=4)


def test_damaged_features(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FeatspaceError, match="no such file of features"):
        read_features(path)
    save_file({"a": torch.ones(400, dtype=torch.float16)}, path)
    features, metadata = read_features(path)
    assert features["a"].dtype == torch.float32 and metadata == {}
    for content in (path.read_bytes()[:-9], b"", b"hello, this is no safetensors file"):
        path.write_bytes(content)
        with pytest.raises(FeatspaceError, match="not a whole safetensors file"):
            read_features(path)
