"""Similarity and references: values in closed form, identities, and what bad files say."""

from __future__ import annotations

import pandas as pd
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from featspace.encoders.encoder import load_encoder
from featspace.stages.features import run_features
from featspace.stages.similarity import certified, run_references, run_similarity
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import square


class MeanColor(nn.Module):
    """An encoder with closed forms: the feature is the mean color, the class its largest channel."""

    dim, shape = 3, (3,)
    network = "mean color"

    def __init__(self, has_classifier: bool = True, scale: float = 1.0):
        super().__init__()
        self.has_classifier = has_classifier
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return self.scale * images.mean(dim=(2, 3))

    def classify(self, images):
        assert self.has_classifier
        return self(images)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Loads a real network of timm with random weights as an encoder, by its name."""

    def load(name):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        timm.models.save_for_hf(timm.create_model(name, num_classes=10), folder, safe_serialization=True)
        return load_encoder(str(folder))

    return load


def color(path, *rgb):
    Image.new("RGB", (16, 16), rgb).save(path)


def numbers(path):
    """The rows of a CSV as lists of cells, without its header."""
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


@pytest.fixture
def files(tmp_path):
    """A red photograph and a caption, with one decoded sample each."""
    targets, decoded = tmp_path / "targets", tmp_path / "decoded"
    targets.mkdir()
    decoded.mkdir()
    (targets / "targets.csv").write_text("id,kind,text,source\nred,photo,,made\nnull,caption,a blue sky,\n")
    color(targets / "red.png", 255, 0, 0)
    (decoded / "decoded.csv").write_text("id,sample\nnull,0\nred,0\n")
    color(decoded / "red-0.png", 255, 51, 0)
    color(decoded / "red-0-last.png", 0, 255, 0)
    color(decoded / "null-0.png", 0, 0, 51)
    color(decoded / "null-0-last.png", 0, 0, 255)
    features = {"red": torch.tensor([1.0, 0, 0]), "null": torch.tensor([0, 0, 1.0])}
    save_file(features, tmp_path / "features.safetensors")
    held_out = torch.tensor([[1, 1, 0], [3, 0, 0], [0, 2, 0]], dtype=torch.float16)
    save_file({"features": held_out}, tmp_path / "references.safetensors")
    return tmp_path


def similarity(files, encoder=None, judge=None):
    out = files / "out" / "similarity.csv"
    paths = files / "targets", files / "features.safetensors", files / "decoded", out
    run_similarity("mean", encoder or MeanColor(), judge or MeanColor(has_classifier=False), *paths)
    return out


def references(files, encoder=None):
    out = files / "out" / "references.csv"
    paths = files / "targets", files / "features.safetensors", out, files / "references.safetensors"
    run_references("mean", encoder or MeanColor(), *paths)
    return out


@pytest.fixture
def photographs(tmp_path, tiny):
    """Two real photographs, each decoded to itself and, at last, to the other; features of a tiny ResNet."""
    encoder = tiny("test_resnet")
    images = {id: square(Image.fromarray(getattr(skimage.data, id)()), 64) for id in ("astronaut", "coffee")}
    for folder, table in {
        "targets": "id,kind,text,source\nastronaut,photo,,\ncoffee,photo,,\n",
        "decoded": "id,sample\nastronaut,0\ncoffee,0\n",
    }.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.csv").write_text(table)
    for (id, image), other in zip(images.items(), reversed(images.values()), strict=True):
        image.save(tmp_path / "targets" / f"{id}.png")
        image.save(tmp_path / "decoded" / f"{id}-0.png")
        other.save(tmp_path / "decoded" / f"{id}-0-last.png")
    run_features(encoder, tmp_path / "targets", tmp_path / "features.safetensors")
    features = torch.stack(list(load_file(tmp_path / "features.safetensors").values()))
    save_file({"features": features}, tmp_path / "references.safetensors")
    return tmp_path, encoder


def test_similarity_table_in_closed_form(files):
    expected = (
        "encoder,id,sample,kind,image,distance,cosine,judge_cosine,top1_agrees,judge_top1_agrees\n"
        "mean,red,0,photo,best,0.04,0.980581,0.980581,1,\n"
        "mean,red,0,photo,last,2,0,0,0,\n"
        "mean,null,0,caption,best,0.64,1,,,\n"
        "mean,null,0,caption,last,0,1,,,\n"
    )
    assert similarity(files).read_text() == expected
    both = numbers(similarity(files, MeanColor(has_classifier=False), MeanColor(scale=7.0)))
    assert [row[5:] for row in both[:2]] == [
        ["0.04", "0.980581", "0.980581", "", "1"],
        ["2", "0", "0", "", "0"],
    ]


def test_a_photograph_decoded_to_itself_is_at_distance_zero(photographs, tiny):
    files, encoder = photographs
    rows = numbers(similarity(files, encoder, tiny("test_vit")))
    for best, last in (rows[:2], rows[2:]):
        assert best[4:] == ["best", "0", "1", "1", "1", "1"]
        assert float(last[5]) > 0 and float(last[6]) < 1 and float(last[7]) < 1
    assert rows[1][5] == rows[3][5]  # the two photographs, seen from either


def test_a_number_does_not_depend_on_the_other_images(photographs):
    files, encoder = photographs
    together = numbers(similarity(files, encoder))
    coffee = {"coffee": load_file(files / "features.safetensors")["coffee"]}
    save_file(coffee, files / "features.safetensors")
    (files / "decoded" / "decoded.csv").write_text("id,sample\ncoffee,0\n")
    assert numbers(similarity(files, encoder)) == together[2:]


def test_references_in_closed_form(files):
    rows = {(row[1], row[2]): [float(cell) for cell in row[3:]] for row in numbers(references(files))}
    # to (1, 0, 0): distances 1, 4, 5; cosines 0.7071, 1, 0. To (0, 0, 1): distances 3, 10, 5; cosines 0
    assert rows["red", "nearest_photo"] == [1, 1]
    assert rows["red", "median_photo"] == [4, 0.707107]
    assert rows["null", "nearest_photo"] == [3, 0]
    assert rows["null", "median_photo"] == [5, 0]
    assert rows["red", "shift_1px"] == [0, 1]
    assert [reference for id, reference in rows if id == "null"] == ["nearest_photo", "median_photo"]


def test_a_certificate_says_which_references_an_image_is_nearer_than():
    key = {"encoder": "net", "image": "best"}
    table = pd.DataFrame([{**key, "id": "cat", "distance": d} for d in (0.5, 1.0, 3.0)] + [{**key, "id": "caption"}])
    table.loc[3, "distance"] = 4.0
    limits = [("cat", "nearest_photo", 2.0), ("cat", "jpeg_75", 1.0), ("caption", "nearest_photo", 5.0)]
    references = pd.DataFrame([("net", *row) for row in limits] + [("other", "cat", "jpeg_75", 9.0)])
    references.columns = ["encoder", "id", "reference", "distance"]
    result = certified(table, references)
    assert result["nearer_than_nearest_photo"].tolist() == [1, 1, 0, 1]
    assert result["nearer_than_jpeg_75"].tolist()[:3] == [1, 0, 0]  # as near is not nearer
    assert result["nearer_than_jpeg_75"].isna().tolist() == [False, False, False, True]


def test_without_references_a_target_is_compared_with_the_others(files):
    """Of a red, a blue and a dim red photograph and a caption: none is compared with itself."""
    (files / "targets" / "targets.csv").write_text(
        "id,kind,text,source\nred,photo,,made\nblue,photo,,made\ndim,photo,,made\nnull,caption,a blue sky,\n"
    )
    color(files / "targets" / "blue.png", 0, 0, 255)
    color(files / "targets" / "dim.png", 128, 0, 0)
    features = {"red": [1.0, 0, 0], "blue": [0, 0, 1.0], "dim": [0.5, 0, 0], "null": [0, 0, 1.0]}
    save_file({key: torch.tensor(value) for key, value in features.items()}, files / "features.safetensors")
    out = files / "out" / "references.csv"
    run_references("mean", MeanColor(), files / "targets", files / "features.safetensors", out)
    rows = {(row[1], row[2]): [float(cell) for cell in row[3:]] for row in numbers(out)}
    assert rows["red", "nearest_photo"] == [0.25, 1]
    assert rows["dim", "nearest_photo"] == [0.25, 1]
    assert rows["blue", "nearest_photo"] == [1.25, 0]
    assert rows["red", "median_photo"] == [1.125, 0.5]
    assert rows["null", "nearest_photo"] == [0, 1]  # the blue photograph


def test_without_references_one_photograph_is_too_few(files):
    with pytest.raises(FeatspaceError, match="no other photograph to compare red with; add one, or set"):
        run_references("mean", MeanColor(), files / "targets", files / "features.safetensors", files / "out.csv")
    assert not (files / "out.csv").exists()


def test_jpeg_copies_come_nearer_with_quality(photographs):
    files, encoder = photographs
    rows = {(row[1], row[2]): (float(row[3]), float(row[4])) for row in numbers(references(files, encoder))}
    for id, _ in rows:
        distances, cosines = zip(*(rows[id, f"jpeg_{quality}"] for quality in (95, 75, 50)), strict=True)
        assert 0 < distances[0] < distances[1] < distances[2]
        assert 1 > cosines[0] > cosines[1] > cosines[2]
        assert rows[id, "nearest_photo"] == (0, 1)  # it is itself among the references here
        assert rows[id, "shift_1px"][0] > 0


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def saved(name, metadata=None, **tensors):
    return lambda files: save_file(tensors, files / f"{name}.safetensors", metadata=metadata)


BAD = {
    "no features": (lambda f: (f / "features.safetensors").unlink(), "features.safetensors: no such file"),
    "other size": (saved("features", red=torch.ones(4)), "red has 4 dimensions, not 3"),
    "stray": (saved("features", sky=torch.ones(3)), "features.safetensors: 'sky' is no target of"),
    "encoder": (
        saved("features", {"encoder": "vit"}, red=torch.ones(3)),
        "features of vit, not of mean color",
    ),
    "no targets": (lambda f: (f / "targets/targets.csv").unlink(), "targets.csv: no such table"),
    "no photo": (lambda f: (f / "targets/red.png").unlink(), "red.png: the photo is missing"),
}
BAD_DECODED = {
    "not decoded": (
        lambda f: (f / "decoded/decoded.csv").write_text("id,sample\nred,0\n"),
        "only one of them has",
    ),
    "no table": (lambda f: (f / "decoded/decoded.csv").unlink(), "decoded.csv: no such file"),
    "no image": (lambda f: (f / "decoded/red-0-last.png").unlink(), "red-0-last.png: no such file"),
    "cut image": (lambda f: cut(f / "decoded/red-0.png"), "red-0.png: "),
}
BAD_REFERENCES = {
    "no file": (lambda f: (f / "references.safetensors").unlink(), "references.safetensors: no such file"),
    "cut file": (lambda f: cut(f / "references.safetensors"), "references.safetensors: not a whole"),
    "other key": (saved("references", x=torch.ones(2, 3)), "holds no `features` of shape (N, 3)"),
    "one row": (saved("references", features=torch.ones(3)), "of shape (N, 3)"),
    "no row": (saved("references", features=torch.ones(0, 3)), "of shape (N, 3)"),
    "other dim": (saved("references", features=torch.ones(2, 4)), "of shape (N, 3)"),
    "infinite": (saved("references", features=torch.full((2, 3), torch.inf)), "holds NaN or infinite"),
}


@pytest.mark.parametrize("stage, case", [
    *((similarity, case) for case in [*BAD, *BAD_DECODED]),
    *((references, case) for case in [*BAD, *BAD_REFERENCES]),
])  # fmt: skip
def test_bad_files_give_one_line_and_no_output(files, stage, case):
    harm, message = (BAD | BAD_DECODED | BAD_REFERENCES)[case]
    harm(files)
    with pytest.raises(FeatspaceError) as error:
        stage(files)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list((files / "out").glob("*"))
