"""The figures of layers: each image below its layer's head, each point at its number, no text over another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featspace.figures.layers import draw, name
from featspace.figures.layers_depth import PANELS
from featspace.figures.layers_depth import draw as draw_depth
from featspace.figures.style import DPI, WIDTH, save, style
from featspace.stages.layers import MEASURES
from featspace.utils.errors import FeatspaceError

IDS = ("astronaut", "cat", "coffee")
DEPTH = {
    "blocks.0": "16×112×112",
    "encoder.layers.encoder_layer_15": "1280×37×37",
    "unpooled": "1280×7×7",
    "pooled": "9",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three photographs and a caption, four layers, every number another one."""
    folder = tmp_path_factory.mktemp("layers")
    rng = np.random.default_rng(0)
    rows = [f"{id},photo,," for id in IDS] + ["sea,caption,the sea,"]
    for place in ("targets", *(f"decoded/{layer}" for layer in DEPTH)):
        (folder / place).mkdir(parents=True)
        for id in IDS:
            image = Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8))
            image.save(folder / place / (f"{id}.png" if place == "targets" else f"{id}-0.png"))
    (folder / "targets" / "targets.csv").write_text("\n".join(["id,kind,text,source", *rows]))
    table = []
    for layer, shape in DEPTH.items():
        for measure in MEASURES:
            value = 0.5 + len(table) / 100
            ends = {"low": value - 0.05, "high": value + 0.04}
            chance = {"chance": value / 5, "chance_low": value / 6, "chance_high": value / 4}
            key = {"encoder": "net", "layer": layer, "shape": shape, "measure": measure}
            key["evaluations"] = 32 if layer == "pooled" else 8
            table.append(key | {"value": value} | ends | chance)
    pd.DataFrame(table).to_csv(folder / "summary.csv", index=False)
    return folder


def inputs(files):
    return files / "targets", files / "decoded", files / "summary.csv"


def test_each_image_is_in_its_photographs_row_and_its_layers_column(files):
    with style():
        figure = draw(*inputs(files))
    height = round(figure.get_figheight() * DPI)
    assert len(figure.axes) == len(IDS) * (1 + len(DEPTH))
    heads = [text for text in figure.texts if "\n" in text.get_text() and "photographs" not in text.get_text()]
    for row, id in enumerate(IDS):
        paths = [f"targets/{id}.png", *(f"decoded/{layer}/{id}-0.png" for layer in DEPTH)]
        shown = figure.axes[row * len(paths) : (row + 1) * len(paths)]
        for axes, path, head in zip(shown, paths, heads, strict=True):
            assert np.array_equal(axes.images[0].get_array(), np.asarray(Image.open(files / path)))
            box = axes.get_window_extent()
            assert head.get_position()[0] * WIDTH == pytest.approx((box.x0 + box.x1) / 2, abs=1)
            assert head.get_window_extent().y0 > box.y1
        assert len({round(axes.get_window_extent().y0) for axes in shown}) == 1
        (label,) = [text for text in figure.texts if text.get_text() == id]
        box = shown[0].get_window_extent()
        assert label.get_position()[1] * height == pytest.approx((box.y0 + box.y1) / 2, abs=1)
    texts = [text.get_text().replace("\u200a", "") for text in heads]
    assert texts[:3] == ["\n\nphotograph", "blocks.0\n16×112×112\ncos 0.500", "…layer_15\n1280×37×37\ncos 0.580"]
    boxes = [axes.get_window_extent() for axes in figure.axes[: 1 + len(DEPTH)]]
    gaps = [right.x0 - left.x1 for left, right in zip(boxes, boxes[1:], strict=False)]
    assert gaps[0] == pytest.approx(2 * gaps[1], abs=2) and np.ptp(gaps[1:]) <= 1
    note = figure.texts[-1].get_text().replace("\n", " ")
    assert "“net”, in 8 to 32 guided evaluations" in note and "over 3 photographs" in note


def test_each_point_is_the_tables_number(files):
    table = pd.read_csv(files / "summary.csv")
    with style():
        figure = draw_depth(*inputs(files))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [title for title, *_ in PANELS.values()]
    for axes, (title, _, measures) in zip(figure.axes, PANELS.values(), strict=True):
        points = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
        chances = [line.get_ydata() for line in axes.lines if line.get_linewidth() == 0.7]
        bars = [collection for collection in axes.collections if hasattr(collection, "get_segments")]
        for measure, shown, chance, bar in zip(measures, points, chances, bars, strict=True):
            own = table[table["measure"] == measure]
            assert list(shown) == list(own["value"]) and list(chance) == list(own["chance"])
            ends = [[segment[0][1], segment[1][1]] for segment in bar.get_segments()]
            assert ends == own[["low", "high"]].to_numpy().tolist()
        assert axes.yaxis_inverted() == (title == "color")
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == list(map(name, DEPTH))


def test_without_a_classifier_there_is_no_panel_of_the_class_and_without_another_photograph_no_chance(files, tmp_path):
    table = pd.read_csv(files / "summary.csv")
    table = table[~table["measure"].str.startswith("judge_top")]
    table.assign(chance=np.nan, chance_low=np.nan, chance_high=np.nan).to_csv(tmp_path / "summary.csv", index=False)
    with style():
        figure = draw_depth(files / "targets", files / "decoded", tmp_path / "summary.csv")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "identity" in titles and "class" not in titles
    assert not any(text.get_text() == "chance" for axes in figure.axes for text in axes.texts)


@pytest.mark.parametrize("drawing", [draw, draw_depth])
def test_text_is_inside_the_page_and_no_text_covers_another(files, drawing):
    with style():
        figure = drawing(*inputs(files))
        figure.draw_without_rendering()  # lays it out
    texts = [text for text in figure.texts if text.get_text().strip()]
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        ticks = [tick.label1 for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        texts += [text for text in (axes._left_title, axes.yaxis.label, *ticks) if text.get_text()]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
    extents = [text.get_window_extent() for text in texts]
    page = figure.bbox
    for index, extent in enumerate(extents):
        assert extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= page.x1 and extent.y1 <= page.y1
        assert not any(extent.overlaps(other) for other in extents[:index]), texts[index].get_text()


@pytest.mark.parametrize("drawing", [draw, draw_depth])
def test_two_runs_give_the_same_bytes(files, tmp_path, drawing):
    for out in ("once", "again"):
        with style():
            save(drawing(*inputs(files)), tmp_path / out)
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"once.{suffix}").read_bytes() == (tmp_path / f"again.{suffix}").read_bytes()
    with Image.open(tmp_path / "once.png") as image:
        assert image.width == WIDTH


def test_a_long_name_is_shown_by_its_last_words():
    assert [name(layer) for layer in ("pooled", "blocks.4.0", "encoder.layers.encoder_layer_3", "layer4.2.relu3")] == [
        "pooled",
        "blocks.4.0",
        "…layer_3",
        "…2.relu3",
    ]
    assert name("averyveryverylongname") == "…erylongname"


def test_bad_inputs_are_one_line(files, tmp_path):
    targets, decoded, table = inputs(files)
    with pytest.raises(FeatspaceError, match="astronaut-0.png: no such file"):
        draw(targets, files / "targets", table)
    rows = pd.read_csv(table)
    rows[rows["measure"] == "judge_top1"].assign(measure="x").to_csv(tmp_path / "x.csv", index=False)
    for drawing, message in ((draw, "no cosine of any layer"), (draw_depth, "no attribute of any layer")):
        with pytest.raises(FeatspaceError, match=f"x.csv: {message}"):
            drawing(targets, decoded, tmp_path / "x.csv")
