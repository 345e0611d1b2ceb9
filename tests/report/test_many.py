"""The page of many targets: it stays under its limit, holds what fits, and says what it leaves out."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import toy_report
from PIL import Image

from featspace.config.params import Params
from featspace.report import images
from featspace.report.page import run_report
from featspace.report.tables import PAGE, ROWS, read_tables

COUNT = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of noise, which does not compress."""
    root = tmp_path_factory.mktemp("many")
    toy_report.write_many(root, COUNT)
    rng = np.random.default_rng(0)
    for path in sorted(root.glob("data/mini/decoded/*/*.png")):
        side = (128, 128 * toy_report.FRAMES) if path.stem.endswith("estimates") else (128, 128)
        Image.fromarray(rng.integers(0, 256, (*side, 3), np.uint8)).save(path)
    return root


def page(root: Path, limit: int) -> tuple[str, dict, list[str]]:
    """The page, its viewer and its images."""
    out = root / f"{limit}.html"
    params = Params.load(root / "params.yaml")
    run_report(params, "mini", root / "data/mini", root / "figures/mini", out, limit)
    text = out.read_text(encoding="utf-8")
    assert len(text.encode()) <= limit
    viewer = re.search(r'id="runs">([^<]*)<', text)[1]
    embedded = re.search(r'id="images">([^<]*)<', text)[1]
    return text, json.loads(gzip.decompress(base64.b64decode(viewer))), json.loads(embedded)


def test_estimates_are_left_out_before_targets_and_the_page_says_so(root: Path) -> None:
    whole, viewer, embedded = page(root, 15_000_000)
    assert len(viewer["targets"]) == COUNT and all(embedded) and "left out" not in whole
    size = len(whole.encode()) - sum(map(len, embedded))  # without images
    gallery = images.Gallery()
    for path in sorted(root.glob("data/mini/*/**/*.png")):
        gallery.add(path, path.stem.endswith("estimates"))
    plain = {index for index, (_, strip) in enumerate(gallery.images) if not strip}
    lightest, least = (
        sum(map(len, gallery.embed(level, 10**8, used)))
        for level, used in ((images.LEVELS[-2], None), (images.LEVELS[-1], plain))
    )
    text, viewer, embedded = page(root, size + (lightest + least) // 2)
    assert "The estimates are left out." in text and "are here; the folders" not in text
    assert len(viewer["targets"]) == COUNT and not any(run["frames"] for run in viewer["runs"])
    text, viewer, embedded = page(root, size + least * 2 // 3)
    held = len(viewer["targets"])
    assert f"Of {COUNT} targets the first {held} are here" in text and 0 < held < COUNT
    assert {run["target"] for run in viewer["runs"]} == {*viewer["targets"]} == {f"t{n:04d}" for n in range(held)}
    shown = {run[key] for run in viewer["runs"] for key in ("best", "last")}
    assert all(embedded[index].startswith("data:") for index in shown) and "" in embedded


def test_images_are_read_when_they_are_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, read = images.Gallery(), []
    for path in sorted(root.glob("data/mini/decoded/vit/*-0.png")):
        gallery.add(path)
    monkeypatch.setattr(images, "read_image", lambda path: read.append(path) or Image.open(path).convert("RGB"))
    monkeypatch.setattr(images, "PROBED", 4)
    assert gallery.embed(images.LEVELS[1], 20_000) is None and len(read) == 4  # a few tell
    assert [bool(uri) for uri in gallery.embed(images.LEVELS[-1], 10**6, {2, 5})][:6] == [
        *(False, False, True, False, False, True)
    ]
    assert len(read) == 6


def test_a_long_table_has_a_page_of_rows_and_the_rest_packed(root: Path) -> None:
    text, _, _ = page(root, 15_000_000)
    (part,) = re.findall(r'<table class="data" aria-label="many.csv">.*?</details>', text, re.DOTALL)
    assert part.count("<tr>") == 1 + PAGE
    (held,) = re.findall(r'<script type="application/gzip">([^<]*)<', part)
    rows = json.loads(gzip.decompress(base64.b64decode(held)))
    with (root / "figures/mini/many.csv").open(newline="") as file:
        written = list(csv.reader(file))[1:]
    assert len(rows) == len(written) == 10_000 and toy_report.EVIL in {row[0] for row in rows}
    assert [row[1].replace("−", "-") for row in rows] == [row[1] for row in written]
    assert toy_report.EVIL not in text and "10,000 rows" in text


def test_of_a_longer_table_the_first_rows_are_held(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["x", *map(str, range(ROWS + 7))]) + "\n")
    (table,) = read_tables(tmp_path)
    assert (len(table.rows), table.total) == (ROWS, ROWS + 7) and table.texts[-1] == [f"{ROWS - 1}"]
