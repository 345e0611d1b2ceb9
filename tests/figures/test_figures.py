"""Figures: the labels are the table's numbers, the pixels are the files' pixels, the bytes are stable."""

from __future__ import annotations

import shutil

import matplotlib
import numpy as np
import pytest
from drawing import CAPTIONS, FIGURES, PHOTOS, draw, drawn, replace
from PIL import Image

from featspace.figures.samples import SHOWN, labels
from featspace.figures.style import DPI, GAP, WIDTH, Row, sample_grid, save, style
from featspace.utils.errors import FeatspaceError


@pytest.mark.parametrize("name, ids", [("photos", PHOTOS), ("captions", tuple(CAPTIONS))])
def test_each_label_is_the_tables_number_for_the_image_below_it(files, name, ids):
    figure, images, texts = drawn(files, name)
    table = [line.split(",") for line in (files / "similarity.csv").read_text().splitlines()[1:]]
    expected = {(row[1], int(row[2])): f"{float(row[6]):.3f}" for row in table if row[4] == "best"}
    for id in ids:
        for sample in (0, 1):
            pixels = np.asarray(Image.open(files / "decoded" / f"{id}-{sample}.png"))
            (box,) = [box for box, image in images.items() if image is not None and np.array_equal(image, pixels)]
            above = [
                text.get_text()
                for (x, y), text in texts.items()
                if x == pytest.approx((box[0] + box[2]) / 2, abs=1) and 0 < box[1] - y < 100
            ]
            assert above == [expected[id, sample]]
    assert len({len(label) for label in expected.values()}) == 1 and len(set(expected.values())) == len(expected)
    medians = {"photos": "0.905 over 6 images", "captions": "0.915 over 4 images"}
    nearest = {"photos": "0.500 over 3 targets", "captions": "0.750 over 2 targets"}
    note = figure.texts[-1 if name == "photos" else -1 - len(CAPTIONS)].get_text()
    assert f"median {medians[name]}" in note and f"median {nearest[name]}" in note and "“clip”" in note


def test_targets_stand_left_of_their_decoded_images_and_are_larger(files):
    _, images, texts = drawn(files, "photos")
    for id in PHOTOS:
        paths = (f"targets/{id}.png", f"decoded/{id}-0.png", f"decoded/{id}-1.png")
        pixels = [np.asarray(Image.open(files / path)) for path in paths]
        target, decoded, second = (
            next(box for box, image in images.items() if np.array_equal(image, p)) for p in pixels
        )
        assert target[2] < decoded[0] < second[0] and target[3] == decoded[3] == second[3]
        assert target[2] - target[0] > decoded[2] - decoded[0]
        names = [text.get_text() for (x, y), text in texts.items() if target[1] < y < target[3] and x < target[0]]
        assert id in names


def test_captions_are_whole_and_inside_their_boxes(files):
    figure, images, texts = drawn(files, "captions")
    boxes = [axes.get_window_extent() for axes in figure.axes if not axes.images]
    assert len(boxes) == len(CAPTIONS)
    for caption, box in zip(CAPTIONS.values(), boxes, strict=True):
        (text,) = [text for text in texts.values() if " ".join(text.get_text().split()) == f"“{caption}”"]
        extent = text.get_window_extent()
        assert not text.get_parse_math()  # dollars stay dollars
        assert box.x0 < extent.x0 and extent.x1 < box.x1 and box.y0 < extent.y0 and extent.y1 < box.y1


def test_text_is_inside_the_page_and_no_text_covers_another(files):
    for name in FIGURES:
        figure, _, texts = drawn(files, name)
        extents = [text.get_window_extent() for text in texts.values()]
        page = figure.bbox
        for index, extent in enumerate(extents):
            assert extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= page.x1 and extent.y1 <= page.y1
            assert not any(extent.overlaps(other) for other in extents[:index])


def test_png_shows_every_pixel_as_a_square_of_dots(files, tmp_path):
    figure, images, _ = drawn(files, "photos")
    with style():
        save(figure, tmp_path / "figure3")
    with Image.open(tmp_path / "figure3.png") as image:
        assert image.width == WIDTH and image.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
        assert "Software" not in image.info
        page = np.asarray(image.convert("RGB"))
    assert len(images) == 3 * len(PHOTOS)
    for (left, top, right, bottom), pixels in images.items():
        dots = (right - left) // 64
        shown = page[top:bottom, left:right]
        assert shown.shape == (64 * dots, 64 * dots, 3)
        inside = slice(4, -4)  # the frame covers the outermost dots
        assert np.array_equal(shown[inside, inside], pixels.repeat(dots, 0).repeat(dots, 1)[inside, inside])


@pytest.mark.parametrize("name", FIGURES)
def test_two_runs_give_the_same_bytes(files, tmp_path, name):
    with style():
        save(draw(name, files), tmp_path / "once")
    with (
        matplotlib.rc_context({"font.size": 20, "axes.linewidth": 3, "savefig.dpi": 50, "pdf.compression": 0}),
        style(),
    ):
        save(draw(name, files), tmp_path / "out" / "again")
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"once.{suffix}").read_bytes() == (tmp_path / f"out/again.{suffix}").read_bytes()
    pdf = (tmp_path / "once.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"atplotlib" not in pdf
    assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["again.pdf", "again.png"]


BAD = {
    "no table": (lambda f: (f / "similarity.csv").unlink(), "similarity.csv: no such file"),
    "empty table": (lambda f: (f / "similarity.csv").write_text(""), "similarity.csv: the file is empty"),
    "no photo": (
        lambda f: replace(f / "similarity.csv", "photo", "caption"),
        "similarity.csv: no decoded photo",
    ),
    "no number": (lambda f: replace(f / "similarity.csv", "0.9,", "high,"), "similarity.csv: not a table of"),
    "other ids": (lambda f: replace(f / "similarity.csv", "rocket", "horse"), "only one of them has 'horse'"),
    "two encoders": (
        lambda f: replace(f / "similarity.csv", "clip,rocket", "vit,rocket"),
        "holds encoders clip, vit",
    ),
    "no target": (lambda f: (f / "targets/rocket.png").unlink(), "rocket.png: the photo is missing"),
    "no decoded": (lambda f: (f / "decoded/coffee-1.png").unlink(), "coffee-1.png: no such file"),
    "no image": (lambda f: (f / "decoded/coffee-1.png").write_text("x"), "coffee-1.png: not an image"),
    "other references": (
        lambda f: replace(f / "references.csv", "clip", "vit"),
        "no nearest_photo of 'clip'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_give_one_line_and_no_output(files, tmp_path, case):
    harm, message = BAD[case]
    bad = shutil.copytree(files, tmp_path / "bad")
    harm(bad)
    with pytest.raises(FeatspaceError) as error, style():
        draw("photos", bad)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_cosines_that_are_compared_have_as_many_digits_and_none_is_rounded_up_to_one():
    assert labels([0.8126, 0.99949, -0.2]) == ["0.813", "0.999", "-0.200"]
    assert labels([0.8126, 0.99949, 0.99961, 0.99999]) == ["0.8126", "0.9995", "0.9996", "> 0.9999"]


def test_any_number_of_samples_fits_the_page_or_is_refused():
    images = [(Image.new("RGB", (64, 64)), "0.900")] * 18
    with style():
        for count in (1, 3, 17):
            figure, (box,) = sample_grid([Row("many", images[:count])], "target", "")
            (side,) = {round(axes.get_window_extent().width) for axes in figure.axes}
            assert side % 64 == 0 and box.left + box.side + count * (GAP + side) < WIDTH / 2
        with pytest.raises(FeatspaceError, match="18 decoded images of a target do not fit"):
            sample_grid([Row("many", images)], "target", "")


def test_of_many_targets_the_first_are_shown_and_the_note_says_so(files, tmp_path):
    many = [f"t{number:03d}" for number in range(SHOWN + 6)]
    shutil.copytree(files, tmp_path / "many")
    own = tmp_path / "many"
    tables = {
        "targets/targets.csv": ["id,kind,text,source", *(f"{id},photo,," for id in many)],
        "similarity.csv": [
            (files / "similarity.csv").read_text().splitlines()[0],
            *(f"clip,{id},0,photo,best,1,0.{500 + place},0.5,," for place, id in enumerate(many)),
        ],
        "references.csv": ["encoder,id,reference,distance,cosine", *(f"clip,{id},nearest_photo,9,0.4" for id in many)],
    }
    for name, lines in tables.items():
        (own / name).write_text("\n".join(lines))
    for id in many:
        shutil.copy(files / "targets/rocket.png", own / "targets" / f"{id}.png")
    for id in many[:SHOWN]:  # no other is read
        shutil.copy(files / "decoded/rocket-0.png", own / "decoded" / f"{id}-0.png")
    for name in ("photos", "overview"):
        figure, images, texts = drawn(own, name)
        said = {text.get_text() for text in texts.values()}
        assert {*many} & said == {*many[:SHOWN]} and len(images) == 2 * SHOWN
        assert any(f"Shown are the first {SHOWN} of {len(many)} targets." in text for text in said)
        assert figure.get_figheight() < 20
    note = next(text for text in (text.get_text() for text in drawn(own, "photos")[2].values()) if "median" in text)
    assert "over 30 images" in note
