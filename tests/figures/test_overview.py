"""The overview of all encoders, and the matrix of images that it is."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from drawing import PHOTOS, replace
from PIL import Image

from featspace.figures import overview
from featspace.figures.style import WIDTH, Row, matrix, style
from featspace.utils.errors import UsageError


def test_the_overview_shows_of_each_encoder_the_nearest_image(files, tmp_path):
    """A column a photograph, a row an encoder; where the second sample is the nearer one, it and its number."""
    second = shutil.copytree(files, tmp_path / "second")
    for id in PHOTOS:
        image = Image.open(second / "decoded" / f"{id}-1.png")
        image.rotate(90).save(second / "decoded" / f"{id}-1.png")
    replace(second / "similarity.csv", "clip", "vit")
    for id in PHOTOS:
        replace(second / "similarity.csv", f"vit,{id},1,photo,best,1", f"vit,{id},1,photo,best,0.5")
    folders, tables = [files / "decoded", second / "decoded"], [files / "similarity.csv", second / "similarity.csv"]
    with style():
        figure = overview.draw(files / "targets", folders, tables)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    expected = [files / "targets" / f"{id}.png" for id in PHOTOS]
    expected += [files / "decoded" / f"{id}-0.png" for id in PHOTOS]
    expected += [second / "decoded" / f"{id}-1.png" for id in PHOTOS]
    assert len(shown) == len(expected)
    for image, path in zip(shown, expected, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(path)))
    texts = [text.get_text() for text in figure.texts]
    assert texts[:3] == list(PHOTOS) and texts[3] == "target"
    assert [text for text in texts if text.startswith("0.9")] == ["0.902", "0.906", "0.910", "0.900", "0.904", "0.908"]
    assert texts.index("clip") < texts.index("0.902") < texts.index("vit") < texts.index("0.900")


def test_the_overview_refuses_tables_without_images(files):
    table = files / "similarity.csv"
    with pytest.raises(UsageError, match="1 folders of decoded images, 2 tables"):
        overview.draw(files / "targets", [files / "decoded"], [table, table])


def test_a_matrix_fills_the_page_and_goes_on_below():
    images = [(Image.new("RGB", (64, 64)), "")] * 15
    with style():
        for count, columns in ((1, 1), (8, 8), (12, 12), (15, 8)):
            figure = matrix([Row("", images[:count])], [str(i) for i in range(count)])
            boxes = [axes.get_window_extent() for axes in figure.axes]
            assert len(boxes) == count and {round(box.width) % 64 for box in boxes} == {0}
            assert round(boxes[0].x0) == 6
            assert count == 1 or WIDTH - boxes[columns - 1].x1 == pytest.approx(6, abs=1)
            heads = {text.get_text(): text.get_window_extent() for text in figure.texts if text.get_text()}
            for i, box in enumerate(boxes):  # each below its head, and in its column
                assert box.x0 == pytest.approx(boxes[i % columns].x0, abs=1)
                assert heads[str(i)].y0 > box.y1 and heads[str(i)].x0 > box.x0 and heads[str(i)].x1 < box.x1
            assert count <= columns or boxes[0].y0 > boxes[-1].y1
