"""The ablation resumes; agreement, neighbors and traces of images and features that are known."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from featspace.cli import main
from featspace.encoders.encoder import load_encoder
from featspace.stages import ablate
from featspace.stages.agreement import run_agreement
from featspace.stages.neighbors import run_neighbors
from featspace.stages.traces import run_traces
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.tables import ABLATION, AGREED, AGREEMENT, NEIGHBORS, TRACES, read_table

ABLATE = {
    "encoder": "resnet",
    "targets": ["cat"],
    "base": {"recurrences": 2, "samples": 1},
    "settings": {"no_emphasis": {"emphasis_steps": 0}, "no_clip": {"clip_std": None}},
}


@pytest.fixture
def features(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the project's targets; beside it, ablation.yaml."""
    monkeypatch.chdir(project)
    values = YAML(typ="safe").load(Path("params.yaml"))
    values["mini"]["ablation"] = ABLATE
    YAML(typ="safe").dump(values, project / "ablation.yaml")
    main(["targets", "--out", str(tmp_path / "targets")])
    out = tmp_path / "resnet.safetensors"
    main(["features", "--encoder", "resnet", "--targets", str(tmp_path / "targets"), "--out", str(out)])
    return out


def test_an_ablation_that_is_cut_off_goes_on_and_refuses_other_settings(
    features: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    command, decode, decoded = ["ablate", str(features), "--params", "ablation.yaml", "--out"], ablate.run_decode, []

    def cut_off(*args, **options):
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(args[5].name)
        return decode(*args, **options)

    main([*command, str(tmp_path / "whole")])
    monkeypatch.setattr(ablate, "run_decode", cut_off)
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "cut")])
    assert not (tmp_path / "cut").exists() and decoded == ["base", "no_clip"]
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "cut"), "--params", "params.yaml"])
    assert "the profile has no section ablation" in capsys.readouterr().err
    values = YAML(typ="safe").load(project / "ablation.yaml")
    YAML(typ="safe").dump({**values, "seed": 5}, project / "other.yaml")
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "cut"), "--params", "other.yaml"])
    assert "cut.unfinished: holds 2 finished images of a run with other settings" in capsys.readouterr().err
    monkeypatch.setattr(ablate, "run_decode", decode)
    main([*command, str(tmp_path / "cut")])
    folders = tmp_path / "whole", tmp_path / "cut"
    files = [{path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in folders]
    assert files[0].keys() == files[1].keys()
    assert {path.parts[0] for path in files[0]} == {"base", "no_clip", "no_emphasis"}
    for name, path in files[0].items():
        assert path.read_bytes() == files[1][name].read_bytes()


def test_each_setting_of_an_ablation_is_measured_against_the_base(features: Path, tmp_path: Path) -> None:
    main(["ablate", str(features), "--params", "ablation.yaml", "--out", str(tmp_path / "ablation")])
    given = ["--targets", str(tmp_path / "targets"), "--features", str(features), "--params", "ablation.yaml"]
    main(["ablation", *given, "--decoded", str(tmp_path / "ablation"), "--out", str(tmp_path / "ablation.csv")])
    table = read_table(tmp_path / "ablation.csv", ABLATION).set_index("setting")
    assert list(table.index) == ["base", "no_clip", "no_emphasis"] and set(table["id"]) == {"cat"}
    assert list(table["part"]) == ["base", "guidance", "schedule"] and table.loc["base", "ratio"] == 1
    assert list(table["evaluations"]) == [2 + 2 * 2, 2 + 2 * 2, 3 * 2]
    ratio = table["distance"] / table.loc["base", "distance"]
    np.testing.assert_allclose(table["ratio"], ratio, rtol=1e-4)
    saved = pd.read_csv(tmp_path / "ablation" / "no_clip" / "decoded.csv")["saved_distance"].item()
    assert table.loc["no_clip", "distance"] == pytest.approx(saved, rel=1e-4)


def test_a_setting_that_cannot_be_is_named(features: Path, project: Path, tmp_path: Path, capsys) -> None:
    values = YAML(typ="safe").load(project / "ablation.yaml")
    for settings, message in (
        ({"few": {"steps": 1}}, "ablation.settings.few: "),
        ({"few": {"stride": 2}}, "ablation.settings.few: "),
        ({"base": {"recurrences": 1}}, "ablation.settings.base has the name of what all settings start from"),
    ):
        values["mini"]["ablation"] = {**ABLATE, "settings": settings}
        YAML(typ="safe").dump(values, tmp_path / "bad.yaml")
        shutil.copy(tmp_path / "bad.yaml", project / "bad.yaml")
        with pytest.raises(SystemExit):
            main(["ablate", str(features), "--params", "bad.yaml", "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_only_the_target_that_is_asked_for_is_decoded(features: Path, tmp_path: Path, capsys) -> None:
    command = ["decode", str(features), "--encoder", "resnet", "--samples", "3", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*command, "--target", "cap"])
    assert "no target cap; did you mean cup" in capsys.readouterr().err
    main([*command, "--target", "cup", "--dry-run"])
    assert "images       3" in capsys.readouterr().out
    main([*command, "--target", "cup"])
    assert set(pd.read_csv(tmp_path / "out" / "decoded.csv")["id"]) == {"cup"}


def test_images_that_are_the_photograph_share_all_with_it_and_little_with_others(project: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("targets", "decoded"):
        (tmp_path / folder).mkdir()
    for id in ("a", "b", "c"):
        coarse = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8)).resize((64, 64))
        coarse.save(tmp_path / "targets" / f"{id}.png")
        for sample in (0, 1):
            coarse.save(tmp_path / "decoded" / f"{id}-{sample}.png")
    (tmp_path / "targets" / "targets.csv").write_text("id,kind,text,source\na,photo,,\nb,photo,,\nc,photo,,\n")
    rows = [f"{id},{sample}" for id in ("a", "b", "c") for sample in (0, 1)]
    (tmp_path / "decoded" / "decoded.csv").write_text("\n".join(["id,sample", *rows]))
    judge, paths = load_encoder("data/models/judge", project), [tmp_path / name for name in ("all.csv", "summary.csv")]
    run_agreement(judge, tmp_path / "targets", [tmp_path / "decoded"], *paths, resamples=20)
    table, summary = read_table(paths[0], AGREEMENT), read_table(paths[1], AGREED)
    assert table.groupby("against").size().to_dict() == {"target": 6, "samples": 6, "chance": 6}
    same = table[table["against"] != "chance"]
    np.testing.assert_allclose(same[["layout", "edges", "texture", "judge_cosine"]], 1, atol=1e-5)
    np.testing.assert_allclose(same["color"], 0, atol=1e-5)
    assert (table.loc[table["against"] == "chance", "layout"] < 0.9).all()
    row = summary.query("measure == 'layout' and against == 'chance'").iloc[0]
    assert row["value"] == pytest.approx(table.loc[table["against"] == "chance", "layout"].median(), rel=1e-4)
    assert row["low"] <= row["value"] <= row["high"] and (row["photographs"], row["count"]) == (3, 6)


def test_neighbors_are_the_most_similar_other_photographs_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    rows = ["id,kind,text,source", "a,photo,,", "b,photo,,", "sea,caption,the sea,"]
    (tmp_path / "targets" / "targets.csv").write_text("\n".join(rows))
    for id in ("a", "b"):
        Image.new("RGB", (64, 64)).save(tmp_path / "targets" / f"{id}.png")
    features = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0, 4.0]), "sea": torch.tensor([3.0, 0.0])}
    save_file(features, tmp_path / "net.safetensors", metadata={"encoder": "net"})
    held_out = {"features": torch.tensor([[0.1, 2.0], [3.0, 1.0]]), "labels": torch.tensor([1, 0], dtype=torch.uint8)}
    (tmp_path / "held").mkdir()
    save_file(held_out, tmp_path / "held" / "net.safetensors", metadata={"classes": '["lion", "bus"]'})
    path, held = tmp_path / "net.safetensors", tmp_path / "held" / "net.safetensors"
    run_neighbors({"net": (path, held)}, tmp_path / "targets", tmp_path / "near.csv", count=2)
    table = read_table(tmp_path / "near.csv", NEIGHBORS)
    found = {id: list(zip(own["kind"], own["name"], own["distance"], strict=True)) for id, own in table.groupby("id")}
    expected = {"a": [("bus", 1.01), ("b", 10)], "b": [("bus", 4.81), ("a", 10)], "sea": [("lion", 1), ("b", 20)]}
    for id, nearest in expected.items():  # by cosine
        kinds = ["reference", "target"]
        assert found[id] == [(kind, name, pytest.approx(far)) for kind, (name, far) in zip(kinds, nearest, strict=True)]
    with pytest.raises(FeatspaceError, match="2 photographs, too few for 2 neighbors"):
        run_neighbors({"net": (path, None)}, tmp_path / "targets", tmp_path / "few.csv", count=2)


def test_a_trace_is_the_least_distance_so_far_over_the_nearest_photographs(tmp_path: Path) -> None:
    trace = pd.DataFrame(
        {
            "id": "a",
            "sample": 0,
            "evaluation": range(4),
            "distance_before": [8.0, 2.0, 6.0, 1.0],
            "distance_after": [np.nan, 3.0, np.nan, np.nan],
        }
    )
    (tmp_path / "net").mkdir()
    trace.to_parquet(tmp_path / "net" / "trace.parquet")
    rows = ["encoder,id,reference,distance,cosine", "net,a,nearest_photo,4,0.9", "net,a,jpeg_75,1,0.9"]
    (tmp_path / "references.csv").write_text("\n".join(rows))
    run_traces([tmp_path / "net"], [tmp_path / "references.csv"], tmp_path / "traces.csv", resamples=5)
    table = read_table(tmp_path / "traces.csv", TRACES)
    assert table["evaluation"].tolist() == [1, 2, 3, 4] and table["ratio"].tolist() == [2, 0.5, 0.5, 0.25]
    with pytest.raises(UsageError, match="1 folders, 0 tables"):
        run_traces([tmp_path / "net"], [], tmp_path / "traces.csv")
    (tmp_path / "net" / "trace.parquet").write_bytes(b"cut")
    with pytest.raises(FeatspaceError, match="not a whole table"):
        run_traces([tmp_path / "net"], [tmp_path / "references.csv"], tmp_path / "traces.csv")
