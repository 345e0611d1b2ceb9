"""The benchmark of speed, at a toy shape: what it counts and writes; how fast it is decides nothing."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from PIL import Image

from featspace.benchmark import speed
from featspace.cli import main

pytestmark = pytest.mark.usefixtures("offline")


def test_every_way_is_measured_for_every_encoder(tmp_path, monkeypatch):
    counted, batches = [], []
    decode = speed.sample_with_recurrence

    def counting(problem, schedule, **options):
        counted.append(schedule.evaluations)
        batches.append(len(problem.draw_noise()))
        return decode(problem, schedule, **options)

    monkeypatch.setattr(speed, "sample_with_recurrence", counting)
    command = ["speed", "--profile", "mini", "--batch", "1", "--batch", "3", "--evaluations", "2"]
    main([*command, "--out", str(tmp_path / "speed")])
    table = pd.read_csv(tmp_path / "speed.csv")
    assert list(zip(table["encoder"], table["way"], table["batch"], strict=True)) == [
        (encoder, way, batch)
        for encoder in ("clip", "resnet")
        for way, batch in (("official", 1), ("featspace", 1), ("featspace", 3))
    ]
    assert batches == table["batch"].tolist() and set(counted) == {2 + speed.WARM_UP}
    assert (table["ms"] > 0).all() and table["gib"].isna().all() == (not torch.cuda.is_available())
    assert (table["faster"] * table["ms"]).tolist() == pytest.approx(
        table.groupby("encoder")["ms"].transform("first").tolist(), rel=1e-4
    )
    hours = table["ms"] / 1000 * speed.PAPER_EVALUATIONS / 3600
    assert (hours * table["images_per_hour"]).tolist() == pytest.approx([1] * 6, rel=1e-4)
    assert table["device"].str.len().min() > 0
    assert Image.open(tmp_path / "speed.png").width > 2000 and (tmp_path / "speed.pdf").is_file()


def test_a_layer_is_timed_up_to_it(project, tmp_path):
    text = (project / "params.yaml").read_text().replace("data/models", f"{project}/data/models")
    file = tmp_path / "params.yaml"
    file.write_text(text.replace("data/models/resnet", "data/models/resnet, layer: layer1"))
    gflop = {}
    for params in (project / "params.yaml", file):
        options = ["--params", str(params), "--batch", "1", "--evaluations", "1", "--out", str(tmp_path / "speed")]
        main(["speed", "--profile", "mini", *options])
        gflop[params] = pd.read_csv(tmp_path / "speed.csv").groupby("encoder")["gflop"].first()
    whole, part = gflop.values()
    assert part["resnet"] < whole["resnet"] and part["clip"] == whole["clip"]


def test_a_way_that_does_not_fit_is_said_to(tmp_path, monkeypatch):
    measure = speed._times

    def small(prior, encoder, batch, *args):
        if batch > 1:
            raise torch.OutOfMemoryError("too large")
        return measure(prior, encoder, batch, *args)

    monkeypatch.setattr(speed, "_times", small)
    main(["speed", "--profile", "mini", "--batch", "2", "--evaluations", "1", "--out", str(tmp_path / "speed")])
    table = pd.read_csv(tmp_path / "speed.csv")
    assert table.loc[table["way"] == "featspace", ["ms", "faster", "rate"]].isna().all(axis=None)
    assert table.loc[table["way"] == "official", "faster"].tolist() == [1, 1]
    assert (tmp_path / "speed.png").is_file()


def test_the_shares_of_an_evaluation_are_those_of_its_parts(tmp_path, capsys):
    command = ["speed", "--shares", "--profile", "mini", "--batch", "2", "--evaluations", "2"]
    main([*command, "--out", str(tmp_path / "shares.csv")])
    table = pd.read_csv(tmp_path / "shares.csv")
    assert list(zip(table["encoder"], table["part"], strict=True)) == [
        (encoder, part) for encoder in ("clip", "resnet") for part in ("unet", "vae", "encoder")
    ]
    assert table.groupby("encoder")["share"].sum().tolist() == pytest.approx([1, 1], abs=1e-4)
    both = table["forward_ms"] + table["backward_ms"]
    assert (both.iloc[:3] / both.iloc[:3].sum()).tolist() == pytest.approx(table["share"].iloc[:3].tolist(), rel=1e-3)
    assert (table[["forward_ms", "backward_ms"]] > 0).all(axis=None) and set(table["batch"]) == {2}
    assert capsys.readouterr().out.startswith("clip, unet: ")
