"""What is missing or damaged is one line, and no page is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_report
from PIL import Image

from featspace.cli import main

MISSING = {
    "data/mini/weights.json": "dvc repro fetch@mini",
    "data/mini/targets/targets.csv": "dvc repro targets@mini",
    "data/mini/decoded/resnet/decoded.csv": "dvc repro decode@mini-resnet",
    "data/mini/layers/resnet/layer1/decoded.csv": "dvc repro layer-mini-resnet@layer1",
    "figures/mini/metrics.json": "dvc repro metrics@mini",
    "figures/mini/similarity-clip.csv": "dvc repro similarity@mini-clip",
    "figures/mini/layers-resnet.csv": "dvc repro layers@mini-resnet",
    "data/mini/decoded/clip/trace.parquet": "decode again",
}


@pytest.mark.parametrize("path", MISSING)
def test_what_is_missing_is_named_with_what_makes_it(path: str, copied: Path, capsys: pytest.CaptureFixture) -> None:
    Path(path).unlink()
    refused(capsys, 1, f"{path}: no such file", MISSING[path])


DAMAGED = {
    "data/mini/weights.json": ("[]", "not a list of weights"),
    "data/mini/decoded/clip/trace.parquet": ("none", "not a trace"),
    "figures/mini/metrics.json": ("{", "cannot be read"),
    "figures/mini/sizes.csv": ("a,b\n1\n", "not a table, its rows differ in length"),
    "figures/mini/figure3.png": ("none", "not an image"),
}


@pytest.mark.parametrize("path", DAMAGED)
def test_what_is_damaged_is_named(path: str, copied: Path, capsys: pytest.CaptureFixture) -> None:
    Path(path).write_text(DAMAGED[path][0])
    refused(capsys, 1, f"{path}: {DAMAGED[path][1]}")


def test_strips_that_do_not_fit_are_named(copied: Path, capsys: pytest.CaptureFixture) -> None:
    strip = Path("data/mini/decoded/clip/cat-0-estimates.png")
    toy_report.image(1, strip, frames=3)
    refused(capsys, 1, f"{strip}: has 3 frames")
    Image.new("RGB", (40, 16)).save(strip)
    refused(capsys, 1, f"{strip}: 40x16 pixels are no row of squares")


def test_an_unknown_profile_is_named(copied: Path, capsys: pytest.CaptureFixture) -> None:
    refused(capsys, 2, "profile 'maxi' does not exist; there are: mini", arguments=["--profile", "maxi"])


def refused(capsys: pytest.CaptureFixture, status: int, *said: str, arguments: list[str] | None = None) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["report", "--out", "out/report.html", *(arguments or [])])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == status and line.startswith("featspace: error: ")
    assert all(part in line for part in said), line
    assert not Path("out/report.html").exists()
