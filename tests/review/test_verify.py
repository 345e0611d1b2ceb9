"""What is published is measured again: a whole toy profile agrees with itself, and each alteration is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_published
from PIL import Image

from featspace.cli import main
from featspace.review.stages import read_stages

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with its pipeline, built; to be copied, not changed."""
    return toy_published.build(project, tmp_path_factory.mktemp("built") / "toy")


@pytest.fixture
def published(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    root = shutil.copytree(built, tmp_path / "toy")
    monkeypatch.chdir(root)
    return root


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and ".dvc" not in path.parts}


def refused(capsys: pytest.CaptureFixture, *options: str, status: int = 1) -> tuple[str, str]:
    """What a verification that ends with `status` printed, and its error, of one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["verify", *options])
    printed, error = capsys.readouterr()
    assert ended.value.code == status
    assert error.splitlines()[-1].startswith("featspace: error: ") and "Traceback" not in error
    return re.sub(" +", " ", printed), error.splitlines()[-1]


def recolor(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    pixels[4:20, 4:20] = 255 - pixels[4:20, 4:20]
    Image.fromarray(pixels).save(path)


def reword(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_was_built_agrees_and_stays_as_it_is(published, capsys):
    for folder in ("data/mini/targets", "data/mini/decoded/clip"):
        Path(folder, ".snakemake_timestamp").touch()  # where Snakemake built or touched it
    before = files()
    main(["verify", "--out", "out.csv"])
    printed = capsys.readouterr().out
    assert "All 12 outputs of mini that need no decoding agree with the 2 that do, taken as published" in printed
    table = pd.read_csv("out.csv").set_index("file")["says"].to_dict()
    assert table.pop("data/mini/decoded/clip") == table.pop("data/mini/decoded/resnet") == "taken as published"
    assert set(table.values()) == {"agrees"} and len(table) == 12
    assert {"data/mini/features/clip.safetensors", "figures/mini/metrics.json", "data/mini/weights.json"} <= set(table)
    Path("out.csv").unlink()
    assert files() == before


def test_an_altered_image_is_named_with_the_rows_that_it_moves(published, capsys):
    recolor(Path("data/mini/decoded/clip/cat-0.png"))
    printed, error = refused(capsys, "--out", "out.csv")
    assert " data/mini/decoded/clip/cat-0.png: altered" in printed
    assert "figures/mini/similarity-clip.csv" in error and "figures/mini/figure3.png" in error
    assert "resnet" not in error and "references" not in error
    table = pd.read_csv("out.csv").query("file == 'figures/mini/similarity-clip.csv'")
    assert "row 1 (clip, cat, photo, best), judge_cosine" in set(table["where"])
    assert all("cat, photo, best" in place for place in table["where"])
    row = table.set_index("where").loc["row 1 (clip, cat, photo, best), judge_cosine"]
    assert row["published"] != row["measured"] and row["says"] == "differs"


def test_an_altered_digit_of_a_table_is_named(published, capsys):
    path = Path("figures/mini/references-resnet.csv")
    row = path.read_text().splitlines()[1].split(",")
    reword(path, f",{row[-1]}\n", f",{float(row[-1]) - 0.001:.6g}\n")
    printed, error = refused(capsys)
    assert f"row 1 (resnet, cat, {row[2]}), cosine: published {float(row[-1]) - 0.001:.6g}, measured" in printed
    assert error.endswith("figures/mini/references-resnet.csv, figures/mini/SHA256SUMS")


def test_an_altered_digit_of_the_metrics_is_named(published, capsys):
    tree = json.loads(Path("figures/mini/metrics.json").read_text())
    wrong, right = tree["clip"]["photo"]["images"] + 1, tree["clip"]["photo"]["images"]
    reword(Path("figures/mini/metrics.json"), f'"images": {right}', f'"images": {wrong}')
    printed, error = refused(capsys)
    assert f".images: published {wrong}, measured {right}" in printed
    assert error.endswith("figures/mini/metrics.json, figures/mini/SHA256SUMS")


def test_an_altered_weight_is_named(published, capsys):
    path = Path("data/models/judge/model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    printed, error = refused(capsys)
    assert "not measured data/mini/weights.json\n data/models/judge/model.safetensors: the file was" in printed
    # The judge measures only images.
    assert "data/mini/weights.json" in error and "similarity-clip.csv" in error and "features" not in error


def test_altered_pixels_of_a_figure_are_named(published, capsys):
    recolor(Path("figures/mini/figure3.png"))
    printed, error = refused(capsys)
    assert "256 of " in printed and " pixels, the farthest at (" in printed
    assert error.endswith("2 of 12 outputs of mini do not agree: figures/mini/figure3.png, figures/mini/SHA256SUMS")


def test_an_altered_byte_that_moves_no_measure_is_named(published, capsys):
    path = Path("data/mini/decoded/resnet/trace.parquet")
    path.write_bytes(path.read_bytes() + b"\0")
    printed, error = refused(capsys)
    assert "data/mini/decoded/resnet/trace.parquet: altered" in printed
    assert error.endswith("1 of 12 outputs of mini does not agree: figures/mini/SHA256SUMS")


def test_a_missing_image_and_one_that_is_not_listed_are_named(published, capsys):
    Path("data/mini/decoded/clip/cat-0.png").rename("data/mini/decoded/clip/other.png")
    printed, _ = refused(capsys)
    assert "data/mini/decoded/clip/cat-0.png: missing" in printed
    assert "data/mini/decoded/clip/other.png: not listed" in printed
    assert "not measured figures/mini/similarity-clip.csv\n data/mini/decoded/clip/cat-0.png: no such" in printed
    assert "agrees figures/mini/similarity-resnet.csv" in printed


def test_an_image_of_another_size_is_named(published, capsys):
    path = Path("data/mini/decoded/clip/cat-0.png")
    with Image.open(path) as image:
        image.resize((32, 32)).save(path)
    printed, error = refused(capsys)
    assert "data/mini/decoded/clip/cat-0.png: altered" in printed and "similarity-clip.csv" in error


def test_a_table_of_other_columns_or_rows_is_named(published, capsys):
    reword(Path("figures/mini/references-clip.csv"), "cosine", "similarity")
    path = Path("figures/mini/similarity-resnet.csv")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    Path("figures/mini/figure3.pdf").unlink()
    printed, error = refused(capsys)
    assert "columns: published encoder, id, reference, distance, similarity, measured encoder, " in printed
    assert "rows: published 7, measured 8" in printed
    assert "missing figures/mini/figure3.pdf" in printed
    assert error.startswith("featspace: error: 4 of 12 outputs")


@pytest.mark.parametrize("out", ["../metrics.json", "{}/metrics.json", "--out=../metrics.json"])
def test_a_stage_that_would_write_elsewhere_is_not_run(published, capsys, tmp_path, out):
    out = out.format(tmp_path)
    reword(Path("dvc.yaml"), "--out figures/mini/metrics.json", out if "=" in out else f"--out {out}")
    printed, error = refused(capsys)
    assert f"metrics names {out}, which is not in the folder" in printed
    assert error.endswith("1 of 12 outputs of mini does not agree: figures/mini/metrics.json")
    assert not (tmp_path / "metrics.json").exists()


def test_a_pipeline_that_cannot_be_read_is_one_line(published, capsys):
    reword(Path("dvc.yaml"), "stages:", "stages: [")
    assert "error: dvc.yaml: " in refused(capsys, status=2)[1]


def test_what_is_not_there_is_one_line(published, capsys, tmp_path, monkeypatch):
    shutil.rmtree("data/mini/decoded/clip")
    todo = "not there; build it with `make repro`, or fetch it with `dvc pull --with-deps mini`"
    assert refused(capsys)[1].endswith(f"data/mini/decoded/clip: {todo}")
    shutil.rmtree("data/mini")
    assert refused(capsys)[1].endswith(f"data/mini/decoded/clip and 1 more: {todo}")
    shutil.rmtree("figures")
    assert refused(capsys)[1].endswith(f"error: figures/mini: {todo}")
    assert "no stage of dvc.yaml writes data/maxi" in refused(capsys, "--profile", "maxi", status=2)[1]
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("/mini", "/paper"))
    todo = "not there; build it with `dvc repro paper`, or fetch it with `dvc pull --with-deps paper`"
    assert refused(capsys, "--profile", "paper")[1].endswith(f"error: figures/paper: {todo}")
    monkeypatch.chdir(tmp_path)
    error = "dvc.yaml: not there; run this in a checkout of featspace, or name a bundle"
    assert refused(capsys, status=2)[1].endswith(error)


def test_of_the_project_all_that_is_in_figures_is_made_again():
    stages = read_stages(PROJECT, "mini")
    names = {out.as_posix() for stage in stages if not stage.decodes for out in stage.outs}
    there = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "figures/mini").iterdir()}
    made = {name for name in there if not Path(name).name.startswith(".")} - {
        "figures/mini/spread.json",
        "figures/mini/report.html",
    }
    assert made <= names
    assert {f"data/mini/features/{encoder}.safetensors" for encoder in ("clip", "efficientnet", "vit")} <= names
    assert {"data/mini/weights.json", "data/mini/targets"} <= names
    decoding = {out.as_posix() for stage in stages if stage.decodes for out in stage.outs}
    assert {"data/mini/decoded/clip", "data/mini/layers/efficientnet/pooled", "data/mini/featinv/steered"} <= decoding
    assert not [name for name in decoding if name.startswith("figures/")]
