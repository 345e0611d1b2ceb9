"""What each layer keeps: measures of known images, chance, intervals, and the commands from end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

from featspace.cli import main
from featspace.encoders.encoder import load_encoder
from featspace.metrics.attributes import attributes, color_difference, layout_similarity
from featspace.stages.features import run_features
from featspace.stages.layers import MEASURES, run_layers, summarize
from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import LAYERS, read_table

IDS = ("cat", "cup", "rocket")
DEPTH = ("layer1", "layer3", "unpooled", "pooled")
PERFECT = {"cosine": 1, "color": 0, "layout": 1, "edges": 1, "texture": 1, "judge_cosine": 1}


@pytest.fixture(scope="module")
def networks(project):
    found = {layer: load_encoder("data/models/resnet", project, layer=layer) for layer in DEPTH}
    return found, load_encoder("data/models/judge", project)


@pytest.fixture
def folders(tmp_path, networks):
    """Three photographs and a caption; from every layer each photograph comes back as it was."""
    rng = np.random.default_rng(0)
    (tmp_path / "targets").mkdir()
    for id in IDS:
        coarse = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "targets" / f"{id}.png")
    rows = [f"{id},photo,," for id in IDS] + ["sea,caption,the sea,"]
    (tmp_path / "targets" / "targets.csv").write_text("\n".join(["id,kind,text,source", *rows]))
    for layer in networks[0]:
        (tmp_path / "decoded" / layer).mkdir(parents=True)
        lines = [f"{id},0,{8 + len(layer)}" for id in IDS]
        (tmp_path / "decoded" / layer / "decoded.csv").write_text("\n".join(["id,sample,evaluations", *lines]))
        for id in IDS:
            shutil.copy(tmp_path / "targets" / f"{id}.png", tmp_path / "decoded" / layer / f"{id}-0.png")
    return tmp_path


def run(folders, networks):
    paths = [folders / name for name in ("targets", "decoded", "layers.csv", "summary.csv")]
    run_layers("resnet", networks[0].items(), networks[1], *paths, resamples=100)
    return pd.read_csv(paths[2]), read_table(paths[3], LAYERS)


def pixels(path):
    return np.asarray(Image.open(path)) / 255


def test_photographs_that_came_back_have_all_there_is(folders, networks):
    table, summary = run(folders, networks)
    assert list(table["layer"].unique()) == list(DEPTH) == list(summary["layer"].unique())
    assert list(table["id"]) == list(IDS) * len(DEPTH)  # and no caption
    for measure, value in PERFECT.items():
        assert table[measure].to_numpy() == pytest.approx(value, abs=1e-5), measure
    assert (table[["judge_top1", "judge_top5"]] == 1).all(axis=None)
    shapes = ["×".join(map(str, networks[0][layer].shape)) for layer in DEPTH]
    assert list(table["shape"].unique()) == shapes and shapes[0].count("×") == 2 and "×" not in shapes[-1]
    assert dict(zip(table["layer"], table["evaluations"], strict=True)) == {layer: 8 + len(layer) for layer in DEPTH}


def test_chance_is_the_mean_over_the_other_photographs(folders, networks):
    table, _ = run(folders, networks)
    seen = {id: attributes(pixels(folders / "targets" / f"{id}.png")) for id in IDS}
    run_features(networks[0]["layer3"], folders / "targets", folders / "layer3.safetensors")
    features = load_file(folders / "layer3.safetensors")
    for row in table[table["layer"] == "layer3"].itertuples():
        others = [id for id in IDS if id != row.id]
        expected = {
            "color": np.mean([color_difference(seen[row.id], seen[id]) for id in others]),
            "layout": np.mean([layout_similarity(seen[row.id], seen[id]) for id in others]),
            "cosine": np.mean(
                [
                    np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
                    for a, b in ((features[row.id].numpy().ravel(), features[id].numpy().ravel()) for id in others)
                ]
            ),
        }
        for measure, value in expected.items():
            assert getattr(row, f"{measure}_chance") == pytest.approx(value, rel=1e-4), measure
        assert row.color_chance > 5 and row.layout_chance < 0.6


def test_an_image_of_another_photograph_is_told(folders, networks):
    shutil.copy(folders / "targets" / "cup.png", folders / "decoded" / "layer3" / "cat-0.png")
    table, _ = run(folders, networks)
    cat, cup, rocket = (row for row in table[table["layer"] == "layer3"].itertuples())
    assert cup.layout == rocket.layout == 1 and cup.color == rocket.color == 0
    assert cat.layout < 0.6 and cat.color > 5 and cat.edges < 0.6 and cat.cosine < cup.cosine
    # against the others it is perfect once: its chance is the mean of that and of what cup has of rocket
    assert 2 * cat.layout_chance - 1 == pytest.approx(2 * cup.layout_chance - cat.layout, abs=1e-4)
    others = table[table["layer"] != "layer3"]
    assert (others["layout"] == 1).all()


def test_the_summary_has_medians_shares_and_intervals_over_photographs():
    rng = np.random.default_rng(0)
    rows = []
    for layer in ("a", "b"):
        for id in range(9):
            values = {measure: rng.normal() for measure in MEASURES}
            values |= {f"{measure}_chance": rng.normal(5) for measure in MEASURES}
            values |= {"judge_top1": float(id < 3), "judge_top5": np.nan}
            key = {"encoder": "e", "layer": layer, "shape": "4×2×2", "id": str(id), "sample": 0}
            rows.append(key | {"evaluations": 8} | values)
    table = pd.DataFrame(rows)
    summary = summarize(table, resamples=200)
    assert list(summary.columns) == list(LAYERS)
    assert list(summary["layer"].unique()) == ["a", "b"]
    assert list(summary["measure"].unique()) == [m for m in MEASURES if m != "judge_top5"]  # no classifier
    for row in summary.itertuples():
        own, other = (table[table["layer"] == row.layer][f"{row.measure}{end}"] for end in ("", "_chance"))
        statistic = np.mean if row.measure == "judge_top1" else np.median
        assert row.value == statistic(own) and row.chance == statistic(other)
        assert row.low <= row.value <= row.high and row.chance_low < row.chance < row.chance_high
        assert own.min() <= row.low < row.high <= own.max()
    assert (summary[summary["measure"] == "judge_top1"]["value"] == 1 / 3).all()


def test_one_photograph_has_no_chance(folders, networks):
    for file in (folders / "decoded").glob("*/decoded.csv"):
        file.write_text("\n".join(file.read_text().splitlines()[:2]))
    (folders / "targets" / "targets.csv").write_text("id,kind,text,source\ncat,photo,,\n")
    table, summary = run(folders, networks)
    assert table["layout_chance"].isna().all() and summary["chance"].isna().all()
    assert (summary["low"] == summary["high"]).all()


def cut(path: Path) -> None:
    Image.open(path).crop((0, 0, 32, 32)).save(path)


BAD = {
    "no folder": (lambda f: shutil.rmtree(f / "decoded/layer3"), "layer3/decoded.csv: no such file"),
    "no image": (lambda f: (f / "decoded/layer3/cup-0.png").unlink(), "cup-0.png: no such file"),
    "other targets": (
        lambda f: (f / "decoded/layer3/decoded.csv").write_text("id,sample,evaluations\ncat,0,8\n"),
        "only one of them has photograph 'cup'",
    ),
    "another size": (lambda f: cut(f / "decoded/layer3/cat-0.png"), "cat-0.png and "),
    "no evaluations": (
        lambda f: (f / "decoded/layer3/decoded.csv").write_text("id,sample\ncat,0\n"),
        "no column evaluations",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_and_leave_no_table(folders, networks, case):
    harm, message = BAD[case]
    harm(folders)
    with pytest.raises(FeatspaceError) as error:
        run(folders, networks)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (folders / "layers.csv").exists() and not (folders / "summary.csv").exists()


def test_from_photographs_to_figures(project, offline, monkeypatch, tmp_path):
    """The stages of dvc.yaml, command by command, of two layers of a tiny network."""
    params = (project / "params.yaml").read_text().replace("mini:", "mini:\n  layers: {resnet: {layer1: 2, pooled: 3}}")
    (project / "layers.yaml").write_text(params)
    common = ["--params", "layers.yaml"]
    targets, decoded = tmp_path / "targets", tmp_path / "layers" / "resnet"
    main(["targets", "--out", str(targets), *common])
    for layer in ("layer1", "pooled"):
        at = ["--encoder", "resnet", "--layer", layer, "--out", str(decoded / layer), *common]
        main(["decode", str(targets), "--steps", "2", "--samples", "1", *at])
    tables = [str(tmp_path / f"layers-resnet{end}.csv") for end in ("", "-summary")]
    folders = ["--targets", str(targets), "--decoded", str(decoded)]
    main(["layers", "--encoder", "resnet", *folders, "--out", tables[0], "--summary", tables[1], *common])
    summary = read_table(tables[1], LAYERS)
    assert list(summary["layer"].unique()) == ["layer1", "pooled"] and set(summary["measure"]) == set(MEASURES)
    assert len(pd.read_csv(tables[0])) == 4
    names = ["layers-resnet", "layers-resnet-depth"]
    drawn = [text for name in names for text in ("--only", name)]
    main(["figures", "--data", str(tmp_path), "--tables", str(tmp_path), "--out", str(tmp_path), *drawn, *common])
    for name in names:
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000 < (tmp_path / f"{name}.pdf").stat().st_size


FAILURES = {
    "an encoder without layers": (["layers", "--encoder", "clip"], 2, "layers of 'clip' are not in the profile"),
    "an unknown layer": (["features", "--encoder", "resnet", "--layer", "layer9"], 2, "layer 'layer9'"),
    "an unknown layer to decode": (["decode", "photo.jpg", "--encoder", "resnet", "--layer", "layr1"], 2, "layer1"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_wrong_layers_are_one_line(project, offline, tmp_path, capsys, case):
    arguments, status, message = FAILURES[case]
    paths = {"layers": ("targets", "decoded", "out", "summary"), "features": ("targets", "out"), "decode": ("out",)}
    options = [text for name in paths[arguments[0]] for text in (f"--{name}", str(tmp_path / name))]
    with pytest.raises(SystemExit) as exit:
        main([*arguments, *options])
    error = capsys.readouterr().err
    assert exit.value.code == status and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_decoding_is_planned_at_a_layer(project, offline, capsys):
    plan = ["decode", "photo.jpg", "--encoder", "resnet", "--out", "x", "--dry-run"]
    lines = []
    for layer in ("layer1", "pooled"):
        main([*plan, "--layer", layer])
        lines.append(capsys.readouterr().out)
    assert lines[0] != lines[1]  # a shallow layer takes less
