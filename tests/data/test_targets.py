"""Targets and their features: from the parameters to the files that the decoder reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featspace.config.params import Params, PhotoParams, Profile
from featspace.data.targets import Target, locate_image, read_targets, slug, write_list
from featspace.stages.targets import run_targets
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.images import read_image, to_tensor
from featspace.utils.names import check_name

SHIPPED = Path(__file__).parents[2] / "params.yaml"


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


COCO = {
    "images": [
        {"id": 7, "file_name": "dog on grass.JPG"},
        {"id": 581929, "file_name": "COCO_train2014_000000581929.jpg"},
        {"id": 391895, "file_name": "000000391895.jpg"},
    ],
    "annotations": [
        {"image_id": 391895, "id": 1, "caption": "A man with\n a red helmet. "},
        {"image_id": 7, "id": 2, "caption": "a dog"},
        {"image_id": 391895, "id": 3, "caption": "A man on a motorbike"},
        {"image_id": 581929, "id": 4, "caption": "a horse"},
        {"image_id": 999, "id": 5, "caption": "of no photo"},
    ],
}


def make_folder(folder: Path, *photos: str, captions_file: str | None = "coco.json") -> Profile:
    """A profile of one folder, `own`, with images of these names, and of the photograph two.png."""
    (folder / "own").mkdir()
    for name in photos:
        Image.fromarray(np.full((40, 32, 3), 99, np.uint8)).save(folder / "own" / name)
    (folder / "coco.json").write_text(json.dumps(COCO))
    profile = make_profile(folder)
    photos = {"own": PhotoParams(image="own"), "two": profile.photos["two"]}
    return profile.model_copy(update={"photos": photos, "captions_file": captions_file})


def test_folder_of_photos_with_their_captions(tmp_path: Path) -> None:
    names = ["391895.jpg", "COCO_val2014_000000581929.png", "dog on grass.JPG", "other.png"]
    profile = make_folder(tmp_path, *names)
    (tmp_path / "own" / "notes.txt").write_text("no image")
    (tmp_path / "own" / "._other.png").write_bytes(b"no image either")
    (tmp_path / "own" / "older.png").mkdir()
    run_targets(profile, tmp_path, tmp_path / "out")
    targets = {target.id: target for target in read_targets(tmp_path / "out")}
    assert {target.id: target.source for target in targets.values() if target.kind == "photo"} == {
        "own_391895": "own/391895.jpg",
        "own_coco_val2014_000000581929": "own/COCO_val2014_000000581929.png",
        "own_dog_on_grass": "own/dog on grass.JPG",
        "own_other": "own/other.png",
        "two": "two.png",
    }
    assert {target.id: target.text for target in targets.values() if target.kind == "caption"} == {
        "pizza": 'a "hot" pizza, sliced',
        "caption_own_391895": "A man with a red helmet.",
        "caption_own_coco_val2014_000000581929": "a horse",
        "caption_own_dog_on_grass": "a dog",
    }
    assert to_tensor(read_image(tmp_path / "out" / "own_other.png")).shape == (3, 32, 32)

    chosen = profile.model_copy(update={"captions": {"caption_own_391895": "A man on a motorbike"}})
    run_targets(chosen, tmp_path, tmp_path / "chosen")
    texts = {target.id: target.text for target in read_targets(tmp_path / "chosen")}
    assert texts["caption_own_391895"] == "A man on a motorbike" and texts["caption_own_dog_on_grass"] == "a dog"


@pytest.mark.parametrize(
    ("photos", "captions", "message"),
    [
        ([], None, "own: photos.own is a folder without an image"),
        (["a b.png", "a-b.png"], None, "two targets have the id own_a_b, own/a b.png and own/a-b.png"),
        (["cat.png"], "none.json", r"none\.json: no such file of captions"),
        (["cat.png"], "coco.json", "has a caption of none of the photos"),
        (["cat.png"], "params.yaml", "not a captions file as of MS COCO"),
        (["cat.png"], "instances.json", "not a captions file as of MS COCO"),
        (["cat.png"], "list.json", "not a captions file as of MS COCO"),
    ],
)
def test_wrong_folder_or_captions(tmp_path: Path, photos: list[str], captions: str | None, message: str) -> None:
    profile = make_folder(tmp_path, *photos, captions_file=captions)
    (tmp_path / "instances.json").write_text('{"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}')
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(FeatspaceError, match=message) as caught:
        run_targets(profile, tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


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


@pytest.mark.parametrize(
    ("id", "why"),
    [
        ("../evil", "it has a / in it"),
        ("/tmp/evil", "it has a / in it"),
        ("..\\\\evil", "in it"),
        ("a\nb", "cannot be printed"),
        ("a\0b", "cannot be printed"),
        (".hidden", "a dot or a space"),
        ("CON", "a device's on Windows"),
        ("nul.txt", "a device's on Windows"),
        ("", "it is empty"),
        ("a" * 201, "longer than 200 bytes"),
    ],
)
def test_ids_that_no_image_can_have_are_refused(tmp_path: Path, id: str, why: str) -> None:
    for kind in ("caption", "photo"):
        write_list(tmp_path, [Target("fine", "caption", "x", ""), Target(id, kind, "x", "x")])
        with pytest.raises(FeatspaceError, match=f"^{tmp_path}/targets.csv: .* no image can have .*{why}") as caught:
            read_targets(tmp_path)
        assert str(caught.value).isprintable() and str(caught.value).endswith("; rename it")


def test_an_id_is_of_one_target(tmp_path: Path) -> None:
    write_list(tmp_path, [Target("a", "caption", "x", ""), Target("a", "caption", "y", "")])
    with pytest.raises(FeatspaceError, match=r"targets\.csv: two targets have the id a; rename one"):
        read_targets(tmp_path)


def test_ids_are_names_of_files_in_any_script() -> None:
    assert slug("Dog on grass, 2.") == "dog_on_grass_2" and slug("...") == "target"
    assert check_name(slug("CON")) == "con_"  # a device's name on Windows is no file's
    assert slug("写真") == "写真" != slug("фото") == "фото"
    assert slug("e\u0301te\u0301") == slug("été") == "été"  # as macOS and as others write it
    long = [slug("a photo of " * 40 + end) for end in ("cats", "dogs")]
    assert long[0] != long[1] and long[0].startswith("a_photo_of_a") and all(len(name) <= 120 for name in long)
    assert len(slug("写" * 300).encode()) <= 120
