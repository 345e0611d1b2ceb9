"""The benchmark: what it decodes, measures, chooses and keeps, with tiny networks and few evaluations."""

from __future__ import annotations

import shutil
from pathlib import Path

import networkx
import pandas as pd
import pytest
import torch
from dvc.repo import Repo

from featspace.benchmark import run
from featspace.benchmark.methods import AUTOENCODER, METHODS
from featspace.benchmark.summary import chosen_weights
from featspace.cli import main
from featspace.config.benchmark import BenchParams
from featspace.encoders.encoder import load_encoder
from featspace.utils.images import read_image, to_tensor
from featspace.utils.tables import BENCH

CHECKOUT = Path(__file__).parents[2]


def test_each_method_is_tuned_and_then_decodes_at_its_best_weight_alone(whole):
    out, table = whole
    assert set(table) == set(BENCH)
    tuned = [name for name, method in METHODS.items() if len(method.weights) > 1]
    for name in tuned:
        part = table[table["method"] == name]
        assert sorted(part["weight"].unique()) == sorted(METHODS[name].weights)
        counts = part.groupby("weight").size()
        assert sorted(counts) == [1] * (len(counts) - 1) + [2]
        tuning = part[part["id"] == part["id"].iloc[0]].set_index("weight")["cosine"]
        assert tuning.idxmax() == counts.idxmax() == chosen_weights(table)[name]
    counts = table.groupby(["method", "evaluations"]).size()
    assert counts["fast"].to_dict() == {4: 4, 8: 4} and counts["best_of"].to_dict() == {8: 2}
    assert counts[AUTOENCODER].to_dict() == {0: 2}
    assert len(list(out.glob("*/*.png"))) == len(table) and not list(out.rglob(".partial-*"))


def test_everything_is_measured_from_the_saved_file(whole, bench, project):
    out, table = whole
    row = table[table["method"] == "mpgd"].iloc[0]
    saved, photo = (
        to_tensor(read_image(path))[None]
        for path in (out / f"mpgd-8-{row.weight:g}/{row['id']}-{row['sample']}.png", bench.targets / f"{row.id}.png")
    )
    encoder, judge = (load_encoder(f"data/models/{name}", project) for name in ("resnet", "judge"))
    seen, wanted = encoder(saved)[0], encoder(photo)[0]
    assert row.distance == pytest.approx((seen - wanted).square().sum().item(), rel=1e-4)
    assert row.cosine == pytest.approx(torch.cosine_similarity(seen, wanted, 0).item(), abs=1e-5)
    judged = torch.cosine_similarity(judge(saved)[0], judge(photo)[0], 0).item()
    assert row.judge_cosine == pytest.approx(judged, abs=1e-5)
    assert row.judge_top1 == (judge.classify(saved).argmax() == judge.classify(photo).argmax())
    assert (table["judge_top5"] == 1).all()  # the judge knows five classes
    assert (table["error"] > 0).all() and (table["ratio"] * table["distance"] > 0).all()


def test_the_feature_is_that_of_the_encoders_layer(bench, project, tmp_path):
    table = bench("layer", tmp_path / "out", "--only", "mpgd")
    row = table.iloc[0]
    encoder = load_encoder("data/models/resnet", project, layer="layer1")
    saved = tmp_path / f"out/mpgd-8-{row.weight:g}/{row['id']}-{row['sample']}.png"
    seen, wanted = (encoder(to_tensor(read_image(path))[None])[0] for path in (saved, bench.targets / f"{row.id}.png"))
    assert row.distance == pytest.approx((seen - wanted).square().sum().item(), rel=1e-4)


def test_images_are_decoded_in_batches_and_do_not_depend_on_them(bench, tmp_path, monkeypatch):
    sizes = []
    method = METHODS["fast"]

    def counted(problem, *rest):
        sizes.append(len(problem.targets))
        return method.decode(problem, *rest)

    changed = METHODS | {"fast": method._replace(decode=counted)}
    monkeypatch.setattr(run, "compared_methods", lambda clip_std: changed)
    images = {}
    for batch in (1, 3):
        bench("clip", tmp_path / str(batch), "--only", "fast", batch=batch)
        images[batch] = [to_tensor(read_image(path)) for path in sorted((tmp_path / str(batch)).glob("fast-8-0/*.png"))]
    assert sizes == [1] * 4 + [3, 1]
    apart = [(a - b).abs().mean().item() for a, b in zip(*images.values(), strict=True)]
    samples = (images[1][0] - images[1][1]).abs().mean()  # of one photograph
    assert max(apart) < samples / 4  # rounding


def test_nothing_is_tuned_where_weights_are_given(whole, bench, tmp_path, capsys):
    options = ["--weights-of", str(whole[0]), "--photos", "2"]
    table = bench("clip", tmp_path / "out", *options)
    assert table.groupby("method").size().to_dict() == dict.fromkeys([*METHODS, AUTOENCODER], 2)
    assert set(table["tuned_on"]) == {"resnet"} and set(table["sample"]) == {0}
    weights = table.drop_duplicates("method").set_index("method")["weight"]
    assert {name: weights[name] for name in METHODS} == {name: chosen_weights(whole[1])[name] for name in METHODS}
    with pytest.raises(SystemExit):
        bench("clip", tmp_path / "other", *options, evaluations=16)
    assert "no weight of paper for 16 evaluations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "options", "changes", "line"),
    [
        ("same", [], {}, "same: the judge, data/models/judge, is the encoder itself; name another network"),
        ("rasnet", [], {}, "encoder 'rasnet': there is none; did you mean resnet?"),
        ("resnet", ["--only", "mgpd"], {}, "no method mgpd; did you mean mpgd?"),
        ("resnet", [], {"compared": {"photos": 9}}, "photos is 9: "),
        ("resnet", [], {"compared": {"photoz": 1}}, "compared.photoz: 1 is not a parameter (did you mean photos?)"),
        ("resnet", [], {"evaluations": 2}, "evaluations is 2: it must be at least 8"),
        ("resnet", ["--photos", "3"], {}, "photos is 3: "),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(encoder, options, changes, line, bench, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        bench(encoder, tmp_path / "out", *options, **changes)
    assert stop.value.code == 2 and line in capsys.readouterr().err
    assert not (tmp_path / "out" / "images.csv").exists()


def test_tables_and_figures_are_written_of_several_encoders(whole, tmp_path):
    other = Path(shutil.copytree(whole[0], tmp_path / "other"))
    pd.read_csv(other / "images.csv").assign(encoder="other").to_csv(other / "images.csv", index=False)
    main(["bench", "summary", str(whole[0]), str(other), "--out", str(tmp_path / "tables")])
    table = pd.read_csv(tmp_path / "tables" / "bench.csv")
    assert table.groupby("encoder").size().to_dict() == dict.fromkeys(("resnet", "other"), len(METHODS) + 1)
    assert set(table["images"]) == {2}
    assert len(pd.read_csv(tmp_path / "tables" / "curve.csv")) == 4
    main(["bench", "figure", str(tmp_path / "tables"), "--out", str(tmp_path / "tables")])
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {
        *("images.csv", "bench.csv", "bench.md", "tuning.csv", "curve.csv"),
        *("bench.png", "bench.pdf", "curve.png", "curve.pdf"),
    }


def test_held_out_photographs_become_targets(toy_photographs, tmp_path, capsys):
    given = ["bench", "held-out", str(toy_photographs), "--resolution", "64"]
    main([*given, "--count", "2", "--out", str(tmp_path / "targets")])
    table = pd.read_csv(tmp_path / "targets" / "targets.csv")
    assert table["id"].tolist() == ["tabby", "school_bus"] and set(table["kind"]) == {"photo"}
    means = [to_tensor(read_image(tmp_path / "targets" / f"{id}.png")).mean() for id in table["id"]]
    assert means[1] - means[0] == pytest.approx(100 / 255, abs=0.02)  # the second class is brighter
    with pytest.raises(SystemExit):
        main([*given, "--count", "3", "--out", str(tmp_path / "more")])
    assert "3 photographs of different classes wanted" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


def test_the_pipeline_compares_every_encoder_and_needs_no_held_out_photographs():
    params = BenchParams.load(CHECKOUT / "bench" / "params.yaml")
    with Repo(CHECKOUT) as repo:
        graph = repo.index.graph
        stages = {stage.name: stage for stage in graph if Path(stage.path) == CHECKOUT / "bench" / "dvc.yaml"}
        needed = networkx.descendants(graph, stages["bench"]) | networkx.descendants(graph, stages["vit_and_maps"])
        runs = {f"run@{name}" for name in params.encoders} | {f"unseen@{name}" for name in params.unseen}
        assert {stage.name for stage in needed} == {"tables", "targets@mini", *runs}
        assert not [dep for stage in needed for dep in stage.deps if "photographs" in str(dep)]
