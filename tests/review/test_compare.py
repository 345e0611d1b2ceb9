"""Two files agree if they say the same, within the tolerance; what does not is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from featspace.review.compare import LEVELS, TOLERANCE, Difference, compare


def of_texts(tmp_path: Path, suffix: str, published: str, measured: str) -> list[Difference]:
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    one.write_text(published)
    other.write_text(measured)
    return compare(one, other).differences


@pytest.mark.parametrize(
    ("published", "measured", "agrees"),
    [
        ("0.5", "0.50009", True),
        ("0.5", "0.50011", False),
        ("2000", "2000.19", True),
        ("2000", "2000.21", False),
        ("0", "1", False),
        ("", "0", False),
        ("", "", True),
        ("nan", "0.5", False),
        ("inf", "inf", True),
        ("cat", "dog", False),
    ],
)
def test_cells(tmp_path, published, measured, agrees):
    found = of_texts(tmp_path, ".csv", f"id,other,value\nx,1,{published}\n", f"id,other,value\nx,1.00001,{measured}\n")
    words = ", ".join(["x", *([measured] if measured in ("dog", "inf") else [])])
    assert found == ([] if agrees else [Difference(f"row 1 ({words}), value", published, measured)])


def test_a_short_row_is_a_difference(tmp_path):
    assert of_texts(tmp_path, ".csv", "id,value\nx\n", "id,value\nx,1\n") == [Difference("row 1 (x), value", "", "1")]


def test_the_largest_deviation_is_that_of_what_differs_too(tmp_path):
    cells, tree = "value\n{}\n{}\n", '{{"near": {}, "far": {}}}'
    for suffix, text in ((".csv", cells), (".json", tree)):
        one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
        one.write_text(text.format(0.5, 0.5))
        other.write_text(text.format(0.50001, 0.58))
        assert compare(one, other).deviation == pytest.approx(0.08)
    other.write_text(tree.format(0.50001, '"word"'))  # of which there is no distance
    assert compare(one, other).deviation == pytest.approx(1e-5)
    for name, values in (("one", [4.0, 4.0]), ("other", [4.0, 5.0])):
        save_file({"x": np.float32(values)}, tmp_path / f"{name}.safetensors")
    assert compare(tmp_path / "one.safetensors", tmp_path / "other.safetensors").deviation == pytest.approx(0.25)


def test_trees(tmp_path):
    one = {"a": {"count": 100_000, "value": 0.5, "list": [1.0, {"b": "word"}], "empty": {}}, "gone": None}
    other = {"a": {"count": 100_001, "value": 0.50009, "list": [1.001, {"b": "word"}], "empty": []}}
    assert of_texts(tmp_path, ".json", json.dumps(one), json.dumps(other)) == [
        Difference("a.count", "100000", "100001"),
        Difference("a.empty", "{}", "[]"),
        Difference("a.list.0", "1.0", "1.001"),
        Difference("gone", "None", "missing"),
    ]


def test_pixels(tmp_path):
    pixels = np.zeros((10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    farther = Difference("1 of 120 pixels, the farthest at (7, 3)", "(0, 0, 0)", f"(0, {LEVELS + 1}, 0)")
    for levels, differences in ((LEVELS, []), (LEVELS + 1, [farther])):
        pixels[3, 7, 1] = levels
        Image.fromarray(pixels).save(tmp_path / "other.png")
        assert compare(tmp_path / "one.png", tmp_path / "other.png").differences == differences
    Image.fromarray(pixels[:9]).save(tmp_path / "other.png")
    (size,) = compare(tmp_path / "one.png", tmp_path / "other.png").differences
    assert size == Difference("size", "12×10 pixels", "12×9 pixels")


def test_tensors(tmp_path):
    one = {"cat": np.array([[20.0, 1.0]], np.float32), "cup": np.ones(3, np.float32)}
    paths = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file(one, paths[0])

    def found(other: dict, **metadata: str) -> list[Difference]:
        save_file(other, paths[1], metadata or None)
        return compare(*paths).differences

    near = one["cat"] + np.float32(20 * TOLERANCE * 0.9) * np.array([0, 1], np.float32)
    assert found({**one, "cat": near}) == []
    assert found({**one, "cat": near + np.float32([0, 0.001])}) == [Difference("cat[1]", "1", "1.0028")]
    assert found({**one, "cup": np.float32([1, np.nan, 1])}) == [Difference("cup[1]", "1", "nan")]
    assert found({**one, "cup": np.ones(2, np.float32)}) == [Difference("cup", "float32 (3,)", "float32 (2,)")]
    assert found({"cat": one["cat"]}) == [Difference("tensors", "cat, cup", "cat")]
    assert found(one, encoder="vit")[0].where == "metadata"


def test_folders_and_damaged_files(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text("same")
    (tmp_path / "one" / "a.json").write_text("{")
    (tmp_path / "other" / "a.json").write_text("{}")
    (tmp_path / "one" / "b.txt").write_text("b")
    (tmp_path / "other" / "c.txt").write_text("c")
    (tmp_path / "one" / ".snakemake_timestamp").touch()
    damaged, b, c = compare(tmp_path / "one", tmp_path / "other").differences
    assert damaged.where == "a.json" and damaged.published.startswith("cannot be read (")
    assert (b, c) == (Difference("b.txt", "there", "missing"), Difference("c.txt", "missing", "there"))
