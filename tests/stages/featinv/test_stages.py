"""The commands of the second decoder, from end to end, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from featspace.cli import main
from featspace.config.params import Params
from featspace.encoders.encoder import load_encoder
from featspace.figures.featinv import reconstructions
from featspace.figures.featinv import together as drawn_together
from featspace.figures.style import WIDTH
from featspace.stages.featinv import evaluate
from featspace.stages.featinv.decoder import FeatInv
from featspace.utils.errors import UsageError


def test_the_stages_from_end_to_end(params, project, tmp_path, offline, capsys):
    options = ["--params", str(params)]
    targets, out = tmp_path / "targets", tmp_path / "figures"
    main(["targets", *options, "--out", str(targets)])
    for name in ("maps", "pooled"):
        main(["featinv", "evaluate", "--controlnet", name, *options, "--out", str(tmp_path / name)])
    table = pd.read_csv(tmp_path / "maps" / "evaluation.csv")
    assert len(table) == 4 and list(table["class"]) == ["tabby"] * 2 + ["school_bus"] * 2
    assert len(list((tmp_path / "maps").glob("*-0.png"))) == 2
    # Both are measured by the unpooled map.
    folders = [str(tmp_path / "maps"), str(tmp_path / "pooled")]
    main(["featinv", "summary", *folders, "--out", str(tmp_path / "summary.csv")])
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert list(summary["layer"]) == ["unpooled", "pooled"]
    assert summary["map_cosine"].iloc[0] == pytest.approx(table["map_cosine"].mean(), rel=1e-5)
    assert len(reconstructions([Path(folder) for folder in folders]).axes) == 3 * 2  # images: rows · columns
    main(["featinv", "together", "--controlnet", "maps", *options, "--targets", str(targets), "--out", f"{out}/t"])
    together = pd.read_csv(out / "t" / "together.csv").set_index("way")
    assert list(together.index) == ["guided", "featinv", "both"] and together["evaluations"]["guided"] == 12
    assert together["evaluations"]["featinv"] < together["evaluations"]["both"] <= 12
    assert len(drawn_together([out / "t"]).axes) == 4
    main(["featinv", "summary", str(out / "t"), "--out", str(tmp_path / "ways.csv")])
    ways = pd.read_csv(tmp_path / "ways.csv", index_col="way")
    np.testing.assert_allclose(ways["distance"], together["distance"], rtol=1e-5)  # of one target
    means = tmp_path / "means.safetensors"
    main(["featinv", "means", "--controlnet", "maps", *options, "--per-class", "3", "--out", str(means)])
    steer = ["featinv", "steer", "photo.jpg", "--controlnet", "maps", *options, "--direction", str(means)]
    main([*steer, "--away", "tabby", "--toward", "school_bus", "--out", str(tmp_path / "steered")])
    steered = pd.read_csv(tmp_path / "steered" / "steer.csv")
    assert list(steered["strength"]) == [0, 1] and np.isfinite(steered["moved"]).all()
    main(["featinv", "figure", "steer", str(tmp_path / "steered"), "--out", str(out / "steer")])
    assert Image.open(out / "steer.png").size[0] == WIDTH and (out / "steer.pdf").is_file()
    main(["featinv", "decode", "photo.jpg", "--controlnet", "maps", *options, "--out", str(tmp_path / "decoded")])
    files = (tmp_path / folder / "photo-0.png" for folder in ("decoded", "steered"))
    alone, first = (np.asarray(Image.open(file)).astype(int) for file in files)
    assert np.abs(alone - first).max() <= 2  # strength 0, the same noise; kernels round otherwise in another batch
    assert "cosine of maps" in capsys.readouterr().out


def test_an_interrupted_evaluation_goes_on_from_its_finished_parts(params, project, tmp_path, offline, monkeypatch):
    monkeypatch.setattr(evaluate, "PART", 2)
    command = ["featinv", "evaluate", "--controlnet", "maps", "--params", str(params), "--out"]
    main([*command, str(tmp_path / "whole")])
    parts, decode = [], FeatInv.decode

    def interrupted(self, conditioning, seeds):
        parts.append(len(conditioning))
        if len(parts) == 2:
            raise KeyboardInterrupt
        return decode(self, conditioning, seeds)

    monkeypatch.setattr(FeatInv, "decode", interrupted)
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "cut")])
    assert not (tmp_path / "cut").exists()
    main([*command, str(tmp_path / "cut")])
    assert parts == [2, 2, 2]  # the first part was not decoded again
    whole, cut = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "cut"))
    assert whole == cut and {"evaluation.csv", "summary.csv"} < set(whole)


def failing(arguments: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    line = error.strip().splitlines()[-1]
    assert line.startswith("featspace: error:") and "Traceback" not in error
    return stop.value.code, line


def test_hints_of_another_encoder_or_shape_are_refused(params, project, tmp_path, offline, capsys):
    file = tmp_path / "h.safetensors"
    decode = ["featinv", "decode", str(file), "--controlnet", "maps", "--params", str(params), "--out", f"{tmp_path}/o"]
    shape = load_encoder("data/models/resnet", layer="unpooled").shape
    save_file({"x": torch.zeros(3, 2, 2)}, file)
    status, line = failing(decode, capsys)
    assert status == 1 and f"x has a map of shape [3, 2, 2], not a map of shape {list(shape)}" in line
    save_file({"x": torch.zeros(shape)}, file, metadata={"encoder": "data/models/vit at unpooled"})
    status, line = failing(decode, capsys)
    assert status == 1 and "features of data/models/vit at unpooled, not of data/models/resnet" in line
    save_file({"x": torch.full(shape, torch.nan)}, file)
    assert "NaN" in failing(decode, capsys)[1]
    assert failing([*decode[:3], "--controlnet", "map", *decode[5:]], capsys) == (
        2,
        "featspace: error: ControlNet 'map' is not in the profile; there are maps, pooled",
    )
    assert not (tmp_path / "o").exists()


def test_a_mistyped_parameter_is_named_with_what_is_known_there(params, tmp_path):
    text = params.read_text()
    for given, known in (("hint_width", "hint_width"), ("strengths", "strengths"), ("folder", "folder")):
        (tmp_path / "params.yaml").write_text(text.replace(f"{given}:", f"{given[:-1]}:"))
        with pytest.raises(UsageError, match=rf"featinv.*{given[:-1]}.* is not a parameter \(did you mean {known}\?"):
            Params.load(tmp_path / "params.yaml")


def test_a_controlnet_for_something_else_is_refused(params, project, tmp_path, offline, capsys):
    values = YAML(typ="safe").load(params.read_text())
    own = values["mini"]["featinv"]["controlnets"]["maps"]

    def refused(**changes) -> str:
        values["mini"]["featinv"]["controlnets"]["maps"] = {**own, **changes}
        YAML(typ="safe").dump(values, project / "changed.yaml")
        decode = ["featinv", "decode", "photo.jpg", "--controlnet", "maps", "--params", str(project / "changed.yaml")]
        status, line = failing([*decode, "--out", str(tmp_path / "o")], capsys)
        assert status in (1, 2)
        return line

    assert "trained for the layer unpooled, not the pooled feature; set `layer`" in refused(layer=None)
    assert "trained for features of data/models/resnet, not data/models/clip" in refused(network="data/models/clip")
    assert "images of [32, 32] pixels" in refused(input_size=32)
    assert "no pairing.json" in refused(folder="data/models/resnet")
    assert "no such folder" in refused(folder="data/models/featinv/none")
    pairing = project / own["folder"] / "pairing.json"
    whole = json.loads(pairing.read_text())
    try:
        pairing.write_text(json.dumps({**whole, "prior_fingerprint": "0" * 16, "prior": "another"}))
        assert "trained for the prior another, not data/models/prior" in refused()
    finally:
        pairing.write_text(json.dumps(whole))
