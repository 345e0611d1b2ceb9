"""The benchmark once more in the same folder: what it keeps, and what it decodes again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from featspace.benchmark import run
from featspace.benchmark.identity import _imported, code_sum
from featspace.benchmark.methods import AUTOENCODER, METHODS
from featspace.config.benchmark import BenchParams
from featspace.encoders.encoder import load_encoder
from featspace.utils.devices import weights_sum

TIMES = ["seconds"]


def copied(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))


def test_what_is_there_is_not_decoded_again_and_what_is_lost_is(whole, bench, tmp_path):
    out = copied(whole, tmp_path)
    before = (out / "images.csv").read_bytes()
    assert bench("resnet", out).equals(whole[1]) and (out / "images.csv").read_bytes() == before
    lost = out / "best_of-8-0" / f"{whole[1]['id'].iloc[0]}-0.png"
    content = lost.read_bytes()
    lost.unlink()
    table = bench("resnet", out)
    anew = table["seconds"] != whole[1]["seconds"]
    assert anew.sum() == 2 and table[anew]["method"].tolist() == ["best_of"] * 2  # its batch
    assert lost.read_bytes() == content
    pd.testing.assert_frame_equal(table.drop(columns=TIMES), whole[1].drop(columns=TIMES))


def test_a_run_that_is_cut_off_goes_on(whole, bench, project, tmp_path, monkeypatch):
    decode, calls = METHODS["dsg"].decode, []

    def cut(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(*given)

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        changed = METHODS | {"dsg": METHODS["dsg"]._replace(decode=cut)}
        patch.setattr(run, "compared_methods", lambda clip_std: changed)
        run.run_bench(BenchParams.load(bench.params()), project, "resnet", bench.targets, out, only=["dsg"])
    assert len(pd.read_csv(out / "images.csv")) == 2
    table = bench("resnet", out, "--only", "dsg")
    wanted = whole[1][whole[1]["method"].isin(["dsg", AUTOENCODER])].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.drop(columns=TIMES), wanted.drop(columns=TIMES), check_dtype=False)


@pytest.mark.parametrize("change", [{"seed": 1}, {"precision": "bfloat16"}, {"batch": 3}])
def test_images_of_other_settings_are_not_gone_on_with(change, whole, bench, tmp_path, capsys):
    out, fresh = copied(whole, tmp_path), tmp_path / "fresh"
    options = ["--only", "mpgd"]
    mixed, alone = (bench("resnet", folder, *options, **change) for folder in (out, fresh))
    assert "are of other settings or code: dropped" in capsys.readouterr().err
    assert set(mixed["method"]) == {"mpgd", AUTOENCODER} and not set(mixed["identity"]) & set(whole[1]["identity"])
    pd.testing.assert_frame_equal(mixed.drop(columns=TIMES), alone.drop(columns=TIMES))
    before = whole[1].set_index(["method", "weight", "id"])["distance"]
    after = mixed.set_index(["method", "weight", "id"])["distance"]
    if "batch" not in change:  # images of another batch differ by no more than rounding
        assert (after["mpgd"] - before["mpgd"]).abs().min() > 0


def test_images_of_another_prior_are_told_from_these(project):
    network = load_encoder("data/models/resnet", project).model
    before = weights_sum(network)
    assert weights_sum(load_encoder("data/models/resnet", project).model) == before
    with torch.no_grad():
        next(network.parameters())[0] += 1e-3
    assert weights_sum(network) != before


def test_code_is_that_of_the_method_and_of_what_it_imports():
    baselines, fast = (
        {path.name for path in _imported(module)}
        for module in ("featspace.methods.baselines", "featspace.methods.noise_optimization")
    )
    assert {"baselines.py", "self_recurrence.py"} <= baselines and "noise_optimization.py" not in baselines
    assert {"noise_optimization.py", "problem.py"} <= fast and "baselines.py" not in fast
    sums = {code_sum(f"featspace.methods.{method.module}") for method in METHODS.values()}
    assert len(sums) == 3


def test_images_that_are_not_asked_for_any_more_are_removed(whole, bench, tmp_path):
    out = copied(whole, tmp_path)
    table = bench("resnet", out, fast={"photos": 1})
    wanted = whole[1][(whole[1]["method"] != "fast") | (whole[1]["id"] == whole[1]["id"].iloc[0])]
    wanted = wanted[wanted["sample"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, wanted)  # with their times: nothing was decoded again
    assert len(list(out.glob("*/*.png"))) == len(table)
