"""Features on disk and of what is given: written, read back, named, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from featspace.data.features import count_features, gather_features, read_features
from featspace.data.targets import Target, write_list
from featspace.stages.features import run_features
from featspace.utils.errors import FeatspaceError, UsageError


class Colors(nn.Module):
    """A network small enough to know its features by heart: the mean color of each half, times a matrix."""

    network = "test:colors"
    weights = "0" * 64
    dim, shape = 6, (6,)

    def __init__(self, has_text: bool) -> None:
        super().__init__()
        self.has_text = has_text
        self.matrix = nn.Parameter(torch.eye(6) * 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        halves = images.unflatten(3, (2, -1)).mean(dim=(2, 4))
        return halves.flatten(1) @ self.matrix

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text))] * 6 for text in texts])


def make_targets(folder: Path) -> None:
    """A photograph, red on its left and blue on its right, and a caption of 21 characters."""
    folder.mkdir()
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(pixels).save(folder / "two.png")
    write_list(folder, [Target("two", "photo", "", "two.png"), Target("pizza", "caption", 'a "hot" pizza, sliced', "")])


def test_texts_of_one_id_are_numbered(tmp_path: Path) -> None:
    """Also where a file has that number already; two files of one id are refused."""
    save_file({"a_cat_2": torch.ones(6)}, tmp_path / "own.safetensors")
    texts, encoder = ["a cat!", "a cat?", "a dog", "A cat, yes"], Colors(has_text=True)
    features, _ = gather_features(encoder, [tmp_path / "own.safetensors"], texts, 32)
    expected = {"a_cat_2": 1.0, "a_cat": 6.0, "a_cat_3": 6.0, "a_dog": 5.0, "a_cat_yes": 10.0}
    assert {name: feature[0].item() for name, feature in features.items()} == expected
    assert count_features([tmp_path / "own.safetensors"], texts, encoder) == 5
    with pytest.raises(UsageError, match="a second target with the id a_cat_2"):
        count_features([tmp_path / "own.safetensors"] * 2, texts)


def test_a_folder_stands_for_its_photographs(tmp_path: Path) -> None:
    """In a folder of targets files are named after ids; else ids are made of the names."""
    encoder = Colors(has_text=False)
    make_targets(tmp_path / "targets")
    Image.new("RGB", (40, 32), "lime").save(tmp_path / "targets/A.JPG")
    (tmp_path / "targets/.two.png").write_bytes(b"left by a file manager")
    features, photographs = gather_features(encoder, [tmp_path / "targets"], [], 32)
    files = [tmp_path / "targets" / name for name in ("A.JPG", "two.png")]
    one_by_one, _ = gather_features(encoder, files, [], 32)
    assert list(features) == list(photographs) == list(one_by_one) == ["A", "two"]
    assert all(torch.equal(features[name], one_by_one[name]) for name in features)
    assert count_features([tmp_path / "targets"], []) == 2
    (tmp_path / "targets/targets.csv").unlink()
    assert list(gather_features(encoder, [tmp_path / "targets"], [], 32)[0]) == ["a", "two"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeatspaceError, match="empty: no photograph in this folder"):
        count_features([tmp_path / "targets", tmp_path / "empty"], [])


def test_features(tmp_path: Path) -> None:
    make_targets(tmp_path / "targets")
    run_features(Colors(has_text=True), tmp_path / "targets", tmp_path / "both.safetensors")
    features, metadata = read_features(tmp_path / "both.safetensors", dim=6)
    assert metadata == {"encoder": "test:colors", "weights": "0" * 64} and set(features) == {"two", "pizza"}
    red_left_blue_right = torch.tensor([2.0, 0, 0, 0, 0, 2.0])
    torch.testing.assert_close(features["two"], red_left_blue_right)
    assert torch.equal(features["pizza"], torch.full((6,), 21.0))
    run_features(Colors(has_text=False), tmp_path / "targets", tmp_path / "photos.safetensors")
    assert set(read_features(tmp_path / "photos.safetensors")[0]) == {"two"}
    run_features(Colors(has_text=True), tmp_path / "targets", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "both.safetensors").read_bytes()


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    make_targets(tmp_path / "targets")
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
        ({"../a": torch.ones(4)}, r"a tensor has the name '\.\./a', which no image can have"),
        ({"a/b": torch.ones(4)}, "the name 'a/b'"),
        ({"": torch.ones(4)}, "the name ''"),
        ({"a\nb": torch.ones(4)}, r"the name 'a\\nb'"),
        ({"a" * 201: torch.ones(4)}, "the name 'aaa"),
        ({"Con": torch.ones(4)}, "the name 'Con', which no image can have .it is a device's on Windows.; rename it"),
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
